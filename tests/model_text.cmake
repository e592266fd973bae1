# Tokenizer, chat templates, sampler.
foreach(name tokenizer tokenizer_source tokenizer_blob utf8 chat sampler)
  ps_test(${name} unit SOURCES test_${name}.c LINK penstock_model PkgConfig::JANSSON)
endforeach()
set_tests_properties(tokenizer chat PROPERTIES LABELS "unit;golden")
