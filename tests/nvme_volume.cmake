# The volume: format, reader, writer, consent.
ps_test(volume_open unit SOURCES test_volume_open.c volume_fixture.c LINK penstock_nvme)
