# The forward pass: reference outputs, exactness, engine and session rules.
add_library(model_fixture STATIC model_fixture.c golden_file.c)
target_include_directories(model_fixture PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(model_fixture PUBLIC penstock_model PkgConfig::JANSSON PkgConfig::CMOCKA)

ps_test(golden "golden" SOURCES test_golden.c LINK model_fixture)
ps_test(exact "golden;threaded" SOURCES test_exact.c LINK model_fixture)
ps_test(session "unit;threaded" SOURCES test_session.c LINK model_fixture)
add_library(oracle STATIC oracle.c source_writer.c tiny_model.c)
target_link_libraries(oracle PUBLIC model_fixture m)
ps_test(shapes "golden;threaded" SOURCES test_shapes.c LINK oracle)
ps_test(model_open unit SOURCES test_model_open.c LINK oracle)
ps_test(peak unit SOURCES test_peak.c LINK oracle)
# Faults of the drives at every read of three tokens.
ps_test(faults fault SOURCES test_faults.c LINK model_fixture)
foreach(which single twin)
  add_test(NAME faults_hang_${which} COMMAND test_faults ${which})
  set_tests_properties(faults_hang_${which} PROPERTIES LABELS fault TIMEOUT 600)
endforeach()
