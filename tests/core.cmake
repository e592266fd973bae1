# Errors, CPU levels, memory, budget, threads.
foreach(name error cpu budget mem hugepages)
  ps_test(core_${name} unit SOURCES test_core_${name}.c LINK penstock_core)
endforeach()
ps_test(core_pool "unit;threaded" SOURCES test_core_pool.c LINK penstock_core)
ps_test(core_timeline "unit;threaded" SOURCES test_core_timeline.c LINK penstock_core)
# Counts the machine's free hugepages, which other tests take and give back.
set_tests_properties(core_hugepages PROPERTIES RUN_SERIAL TRUE)
