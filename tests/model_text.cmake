# Tokenizer, chat templates, sampler.
foreach(name tokenizer tokenizer_source tokenizer_characters tokenizer_blob utf8 chat sampler)
  ps_test(${name} unit SOURCES test_${name}.c LINK penstock_model PkgConfig::JANSSON)
endforeach()
set_tests_properties(tokenizer chat PROPERTIES LABELS "unit;golden")

# Only calls from our own objects are wrapped, so that the libraries' own allocations succeed.
ps_test(text_fault fault SOURCES test_text_fault.c LINK penstock_model PkgConfig::JANSSON)
target_link_options(test_text_fault PRIVATE
                    LINKER:--wrap=malloc,--wrap=calloc,--wrap=realloc)
