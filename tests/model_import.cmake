# Import: configuration, expert geometry, GGUF and safetensors, and what a volume is filled with.
ps_test(config unit SOURCES test_config.c LINK penstock_model)
