# The forward pass: reference outputs, exactness, engine and session rules.
add_library(model_fixture STATIC model_fixture.c golden_file.c)
target_include_directories(model_fixture PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(model_fixture PUBLIC penstock_model PkgConfig::JANSSON PkgConfig::CMOCKA)

ps_test(golden "golden" SOURCES test_golden.c LINK model_fixture)
ps_test(exact "golden;threaded" SOURCES test_exact.c LINK model_fixture)
ps_test(session "unit;threaded" SOURCES test_session.c LINK model_fixture)
