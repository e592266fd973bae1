# Tokenizer, chat templates, sampler.
ps_test(tokenizer unit SOURCES test_tokenizer.c LINK penstock_model PkgConfig::JANSSON)
