# Traces: the format, importers, the learned predictor.
ps_test(trace unit SOURCES test_trace.c LINK penstock_model PkgConfig::XXHASH)
