# The store: engines, cache, scheduler.
ps_test(io_conformance "unit;threaded" SOURCES test_io_conformance.c LINK penstock_nvme)
add_test(NAME io_conformance_loop COMMAND test_io_conformance loop)
set_tests_properties(io_conformance_loop PROPERTIES LABELS loop SKIP_RETURN_CODE 77 TIMEOUT 600)
ps_test(cache unit SOURCES test_cache.c LINK penstock_nvme)
ps_test(store_read "unit;threaded" SOURCES test_store_read.c store_fixture.c LINK penstock_nvme)
ps_test(io_fallback unit SOURCES test_io_fallback.c LINK penstock_nvme)
