# Install rules, pkg-config file, CMake package config.
include(CMakePackageConfigHelpers)

install(TARGETS kvops EXPORT kvops LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/kvcache_ops.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/kvcache_ops DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The file finds its prefix beside itself, so that an installed tree may be moved.
file(RELATIVE_PATH KVOPS_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/kvops.pc.in ${PROJECT_BINARY_DIR}/kvops.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvops.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(KVOPS_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/kvops)
configure_package_config_file(cmake/kvopsConfig.cmake.in ${PROJECT_BINARY_DIR}/kvopsConfig.cmake
                              INSTALL_DESTINATION ${KVOPS_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kvopsConfigVersion.cmake
                                 COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/kvopsConfig.cmake ${PROJECT_BINARY_DIR}/kvopsConfigVersion.cmake
        DESTINATION ${KVOPS_PACKAGE_DIR})
install(EXPORT kvops NAMESPACE kvops:: DESTINATION ${KVOPS_PACKAGE_DIR})
