# cpack in the build folder makes two Debian packages: penstock, and libpenstock-dev for programs that
# use the engine. The version is the project's.
include(GNUInstallDirs)
set(deb ${CMAKE_SOURCE_DIR}/tools/deploy/deb)
set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL runtime dev)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_PACKAGE_NAME penstock)
set(CPACK_PACKAGE_VENDOR "Penstock")
set(CPACK_PACKAGE_CONTACT "Penstock maintainers <maintainers@penstock.invalid>")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)

set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME penstock)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION utils)
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION
"run Mixture-of-Experts language models larger than memory
Lays models out as raw extents over NVMe drives, partitions or files, and
runs them by streaming their experts past the page cache into hugepages.
.
With the command come a udev rule and a group, so that it needs no root,
and a service that checks volumes.")
set(CPACK_DEBIAN_RUNTIME_PACKAGE_DEPENDS
  "systemd | systemd-standalone-sysusers | systemd-sysusers, passwd")
set(CPACK_DEBIAN_RUNTIME_PACKAGE_CONTROL_EXTRA ${deb}/postinst ${deb}/prerm ${deb}/postrm
  ${deb}/conffiles)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_DEV_PACKAGE_NAME libpenstock-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_DEV_DESCRIPTION
"engine of Penstock, headers and static libraries
Streams Mixture-of-Experts models, or any volume of aligned objects, from
NVMe drives into hugepages. The documentation is in the package penstock.")
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS
  "liburing-dev, libnuma-dev, libhugetlbfs-dev, libblkid-dev, libjansson-dev, libpcre2-dev, libutf8proc-dev, libxxhash-dev")
set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS penstock)

# What Debian wants in every package's folder of documentation.
string(TIMESTAMP PS_DATE "%a, %d %b %Y %H:%M:%S +0000" UTC)
configure_file(${deb}/changelog.in ${CMAKE_BINARY_DIR}/package/changelog @ONLY)
execute_process(COMMAND gzip -9nf ${CMAKE_BINARY_DIR}/package/changelog)
foreach(component runtime dev)
  string(TOUPPER ${component} upper)
  install(FILES ${deb}/copyright ${CMAKE_BINARY_DIR}/package/changelog.gz
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME}
    COMPONENT ${component})
endforeach()
include(CPack)
