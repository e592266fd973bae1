# ps_fuzz(NAME SOURCES file... [LINK target...]): one parser's fuzz target. The ordinary run replays
# every file of corpus/NAME (test fuzz_NAME_replay); with PS_FUZZ=ON (clang) there is also the program
# fuzz_NAME, linked with libFuzzer: fuzz_NAME -max_total_time=600 NEW_INPUTS tests/corpus/NAME
function(ps_fuzz NAME)
  cmake_parse_arguments(F "" "" "SOURCES;LINK" ${ARGN})
  set(programs fuzz_${NAME}_replay)
  add_executable(fuzz_${NAME}_replay ${F_SOURCES} fuzz_main.c)
  if(PS_FUZZ)
    add_executable(fuzz_${NAME} ${F_SOURCES})
    target_link_options(fuzz_${NAME} PRIVATE -fsanitize=fuzzer)
    list(APPEND programs fuzz_${NAME})
  endif()
  foreach(program ${programs})
    target_link_libraries(${program} PRIVATE ${F_LINK})
    target_include_directories(${program} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    # The entry point that libFuzzer looks for has no prototype in any header.
    target_compile_options(${program} PRIVATE -Wno-missing-prototypes)
  endforeach()
  add_test(NAME fuzz_${NAME}_replay
           COMMAND fuzz_${NAME}_replay ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${NAME})
  set_tests_properties(fuzz_${NAME}_replay PROPERTIES LABELS fuzz TIMEOUT 600)
  ps_label(fuzz_${NAME}_replay fuzz)
endfunction()

ps_fuzz(tokenizer SOURCES fuzz_tokenizer.c LINK penstock_model)
ps_fuzz(tokenizer_blob SOURCES fuzz_tokenizer_blob.c LINK penstock_model)

# Import: checkpoints of either format.
ps_fuzz(gguf SOURCES fuzz_gguf.c LINK penstock_model)
ps_fuzz(safetensors SOURCES fuzz_safetensors.c LINK penstock_model)

ps_fuzz(volume SOURCES fuzz_volume.c LINK penstock_nvme)
