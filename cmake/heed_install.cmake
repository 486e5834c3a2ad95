# SPDX-License-Identifier: BSD-3-Clause
# Install rules: headers, a CMake package and a pkg-config file, none of which depends on the machine.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(heed_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/heed)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/heed DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/heed)

install(TARGETS heed EXPORT heed INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT heed NAMESPACE heed:: FILE heedTargets.cmake DESTINATION ${heed_package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/heedConfig.cmake.in ${PROJECT_BINARY_DIR}/heedConfig.cmake
                              INSTALL_DESTINATION ${heed_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/heedConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/heedConfig.cmake ${PROJECT_BINARY_DIR}/heedConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/cmake/heed_find_xsimd.cmake ${PROJECT_SOURCE_DIR}/cmake/heed_cuda.cmake
        DESTINATION ${heed_package_dir})

configure_file(${PROJECT_SOURCE_DIR}/cmake/heed.pc.in ${PROJECT_BINARY_DIR}/heed.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/heed.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
