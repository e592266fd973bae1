# The volume: format, reader, writer, consent.
ps_test(volume_open unit SOURCES test_volume_open.c volume_fixture.c LINK penstock_nvme)
ps_test(volume_format unit SOURCES test_volume_format.c LINK penstock_nvme)
ps_test(volume_damage unit SOURCES test_volume_damage.c volume_fixture.c LINK penstock_nvme)
ps_test(volume_copies unit SOURCES test_volume_copies.c volume_fixture.c LINK penstock_nvme)
ps_test(volume_record crash SOURCES test_volume_record.c volume_fixture.c crash_shim.c
        LINK penstock_nvme)
ps_test(layout_plan unit SOURCES test_layout_plan.c volume_fixture.c LINK penstock_nvme)
ps_test(rebalance unit SOURCES test_rebalance.c volume_fixture.c LINK penstock_nvme)
ps_test(layout_consent unit SOURCES test_layout_consent.c volume_fixture.c LINK penstock_nvme)
target_link_options(test_layout_consent PRIVATE -Wl,--wrap=flock)
ps_test(layout_crash crash SOURCES test_layout_crash.c volume_fixture.c crash_shim.c
        LINK penstock_nvme)
ps_test(rebalance_crash crash SOURCES test_rebalance_crash.c volume_fixture.c crash_shim.c
        LINK penstock_nvme)
ps_test(layout_loop loop SOURCES test_layout_loop.c volume_fixture.c crash_shim.c
        LINK penstock_nvme)
set(PS_CRASH_WRAPS pwrite fdatasync fsync fallocate ftruncate)
foreach(call ${PS_CRASH_WRAPS})
  foreach(test layout_crash layout_loop rebalance_crash volume_record)
    target_link_options(test_${test} PRIVATE -Wl,--wrap=${call})
  endforeach()
endforeach()
ps_test(drive unit SOURCES test_drive.c volume_fixture.c LINK penstock_nvme)
