# The command, as its users meet it: shell tests of label "cli". The example of docs/api.md with them.
find_program(BASH_PROGRAM bash REQUIRED)
add_executable(example_generate ${CMAKE_SOURCE_DIR}/docs/examples/generate.c)
target_link_libraries(example_generate PRIVATE penstock_api)
set(cli_environment
  PENSTOCK=$<TARGET_FILE:penstock>
  PENSTOCK_DEMO=${CMAKE_SOURCE_DIR}/tools/demo
  PENSTOCK_DEMO_HF=${PS_DEMO_DIR}/hf
  PENSTOCK_GOLDEN=${CMAKE_CURRENT_SOURCE_DIR}/data/golden
  PENSTOCK_DOCS=${CMAKE_SOURCE_DIR}/docs
  PENSTOCK_EXAMPLE=$<TARGET_FILE:example_generate>
  PENSTOCK_BUILD=${CMAKE_BINARY_DIR}
  PENSTOCK_CMAKE=${CMAKE_COMMAND}
  PENSTOCK_CPACK=${CMAKE_CPACK_COMMAND})
foreach(name usage input plan demo batch perplexity quality emulated exact session damage stop resume rebalance memory docs bench
        bench_compute bench_modes drives probe timeline install
        trace train_predictor replay)
  add_test(NAME cli_${name} COMMAND ${BASH_PROGRAM} ${CMAKE_CURRENT_SOURCE_DIR}/cli/${name}.sh)
  set_tests_properties(cli_${name} PROPERTIES LABELS cli SKIP_RETURN_CODE 77 TIMEOUT 600
    ENVIRONMENT "${cli_environment}")
endforeach()
# It leaves packages that the rig installs.
set_tests_properties(cli_install PROPERTIES FIXTURES_SETUP packages)
