# The store: engines, cache, scheduler.
ps_test(io_conformance "unit;threaded" SOURCES test_io_conformance.c LINK penstock_nvme)
add_test(NAME io_conformance_loop COMMAND test_io_conformance loop)
set_tests_properties(io_conformance_loop PROPERTIES LABELS loop SKIP_RETURN_CODE 77 TIMEOUT 600)
ps_test(cache unit SOURCES test_cache.c LINK penstock_nvme)
ps_test(queue unit SOURCES test_queue.c LINK penstock_nvme)
ps_test(simulation unit SOURCES test_simulation.c LINK penstock_nvme)
ps_test(store_read "unit;threaded" SOURCES test_store_read.c store_fixture.c LINK penstock_nvme)
ps_test(io_fault unit SOURCES test_io_fault.c LINK penstock_nvme)
ps_test(io_close "unit;threaded" SOURCES test_io_close.c LINK penstock_nvme)
target_link_options(test_io_close PRIVATE -Wl,--wrap=pread)
ps_test(io_fallback unit SOURCES test_io_fallback.c LINK penstock_nvme)

# The example of docs/io.md, built as a user would: with the one header alone.
add_executable(example_read_objects ${CMAKE_SOURCE_DIR}/docs/examples/read_objects.c)
target_link_libraries(example_read_objects PRIVATE penstock_io)
ps_test(io_example unit SOURCES test_io_example.c store_fixture.c LINK penstock_nvme)
target_compile_definitions(test_io_example PRIVATE PS_EXAMPLE="$<TARGET_FILE:example_read_objects>")
add_dependencies(test_io_example example_read_objects)

ps_test(store_faults fault SOURCES test_store_faults.c store_fixture.c LINK penstock_nvme)
ps_test(store_hang "fault;threaded" SOURCES test_store_hang.c store_fixture.c LINK penstock_nvme)
ps_test(store_fault fault SOURCES test_store_fault.c store_fixture.c LINK penstock_nvme)
target_link_options(test_store_fault PRIVATE
  -Wl,--wrap=calloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=pread)
ps_test(measure "unit;threaded" SOURCES test_measure.c LINK penstock_nvme)
