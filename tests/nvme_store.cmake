# The store: engines, cache, scheduler.
ps_test(io_conformance "unit;threaded" SOURCES test_io_conformance.c LINK penstock_nvme)
add_test(NAME io_conformance_loop COMMAND test_io_conformance loop)
set_tests_properties(io_conformance_loop PROPERTIES LABELS loop SKIP_RETURN_CODE 77 TIMEOUT 600)
ps_test(cache unit SOURCES test_cache.c LINK penstock_nvme)
