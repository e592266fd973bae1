# Import: configuration, expert geometry, GGUF and safetensors, and what a volume is filled with.
ps_test(config unit SOURCES test_config.c LINK penstock_model)
ps_test(import_bytes unit SOURCES test_import_bytes.c source_writer.c tiny_model.c
        LINK penstock_model m)
ps_test(import_rope unit SOURCES test_import_rope.c source_writer.c tiny_model.c
        LINK penstock_model m)
ps_test(import_golden golden SOURCES test_import_golden.c LINK penstock_model m)
foreach(name importance import_hostile import_hostile_hf import_fp8)
  ps_test(${name} unit SOURCES test_${name}.c hostile_source.c source_writer.c tiny_model.c
          LINK penstock_model m)
endforeach()
