# Traces: the format, importers, the learned predictor.
ps_test(trace unit SOURCES test_trace.c LINK penstock_model PkgConfig::XXHASH)
ps_test(replay unit SOURCES test_replay.c LINK model_fixture)
ps_test(predictor_learned unit SOURCES test_predictor_learned.c LINK penstock_model PkgConfig::XXHASH m)
