# The rig: QEMU guests with NVMe drives and NUMA nodes (tests/rig/README.md). Every line
# "# rig NAME: ..." of a guest script is a test rig_NAME of label "rig".
file(GLOB guest_scripts CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/rig/guest/*.sh)
foreach(script ${guest_scripts})
  file(STRINGS ${script} heads REGEX "^# rig [a-z0-9_]+:")
  foreach(head ${heads})
    string(REGEX REPLACE "^# rig ([a-z0-9_]+):.*" "\\1" name "${head}")
    add_test(NAME rig_${name}
      COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/rig/run ${name} --build ${CMAKE_BINARY_DIR})
    # A guest has two processors at least, and more of them than there are take turns badly.
    set_tests_properties(rig_${name} PROPERTIES LABELS rig SKIP_RETURN_CODE 77 TIMEOUT 900
      PROCESSORS 2)
  endforeach()
endforeach()
set_tests_properties(rig_deb PROPERTIES FIXTURES_REQUIRED packages)
# Minutes of emulation each, and what they look at is looked at by others, too: tools/check --long.
set_tests_properties(rig_deb rig_numa2 rig_probe PROPERTIES LABELS "rig;long")
