# SPDX-License-Identifier: BSD-3-Clause
# Every dependency, in one place: what the system has comes first, a version pinned by its commit second.
#
#   heed_use(<package>...)             afterwards the package's target exists, or configuring stops with a sentence
#   heed_use_if_present(<package>...)  the system's, or none
#
# Only xsimd reaches the users of heed::heed; the rest serves heed's own tests and tools.

include(FetchContent)
include(${CMAKE_CURRENT_LIST_DIR}/heed_find_xsimd.cmake)

# heed_dependency(<package> TARGET <target> REPOSITORY <url> COMMIT <hash> VERSION <tag>
#                 [HEADERS <folder>] [OPTIONS <name=value>...])
# HEADERS: the package is header-only; its own build is not run, the target is that folder.
function(heed_dependency package)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TARGET;REPOSITORY;COMMIT;VERSION;HEADERS" "OPTIONS")
  if(TARGET ${arg_TARGET})
    return()
  endif()
  find_package(${package} QUIET GLOBAL)
  if(TARGET ${arg_TARGET})
    message(STATUS "heed: ${package} ${${package}_VERSION} found in ${${package}_DIR}")
    return()
  endif()
  if(NOT HEED_FETCH)
    message(FATAL_ERROR "heed: ${package} was not found and HEED_FETCH is off; install it or set ${package}_DIR")
  endif()

  message(STATUS "heed: ${package} was not found, fetching ${arg_VERSION}")
  # a SOURCE_SUBDIR that does not exist: the sources are only unpacked, and what is taken from them is said below
  FetchContent_Declare(${package} GIT_REPOSITORY ${arg_REPOSITORY} GIT_TAG ${arg_COMMIT} GIT_SUBMODULES ""
                       SOURCE_SUBDIR not-added-by-itself)
  FetchContent_MakeAvailable(${package})
  FetchContent_GetProperties(${package} SOURCE_DIR source BINARY_DIR binary)
  if(arg_HEADERS)
    add_library(${arg_TARGET} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${arg_TARGET} INTERFACE ${source}/${arg_HEADERS})
    return()
  endif()
  foreach(option IN LISTS arg_OPTIONS)
    string(REGEX MATCH "^([^=]+)=(.*)$" option "${option}")
    set(${CMAKE_MATCH_1} "${CMAKE_MATCH_2}")
  endforeach()
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW) # the values above count in old projects too
  set(CMAKE_POLICY_VERSION_MINIMUM 3.5)
  add_subdirectory(${source} ${binary} EXCLUDE_FROM_ALL SYSTEM)
  if(NOT TARGET ${arg_TARGET})
    message(FATAL_ERROR "heed: ${package} ${arg_VERSION} defines no target ${arg_TARGET}")
  endif()
endfunction()

function(heed_use)
  foreach(package IN LISTS ARGN)
    if(package STREQUAL "xsimd")
      heed_find_xsimd()
      heed_dependency(xsimd TARGET xsimd HEADERS include VERSION 14.3.0
                      REPOSITORY https://github.com/xtensor-stack/xsimd.git COMMIT e88a72831858123924f7118f345dfe5d70d95991)
    elseif(package STREQUAL "Eigen3")
      heed_dependency(Eigen3 TARGET Eigen3::Eigen HEADERS . VERSION 3.4.0
                      REPOSITORY https://gitlab.com/libeigen/eigen.git COMMIT 3147391d946bb4b6c68edd901f2add6ac1f31f8c)
    elseif(package STREQUAL "CLI11")
      heed_dependency(CLI11 TARGET CLI11::CLI11 HEADERS include VERSION 2.6.2
                      REPOSITORY https://github.com/CLIUtils/CLI11.git COMMIT 37bb6edc5317e99af72ef48405e65d9ca5218861)
    elseif(package STREQUAL "nlohmann_json")
      heed_dependency(nlohmann_json TARGET nlohmann_json::nlohmann_json HEADERS include VERSION 3.11.3
                      REPOSITORY https://github.com/nlohmann/json.git COMMIT 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03)
    elseif(package STREQUAL "benchmark")
      heed_dependency(benchmark TARGET benchmark::benchmark VERSION 1.9.5
                      REPOSITORY https://github.com/google/benchmark.git COMMIT 192ef10025eb2c4cdd392bc502f0c852196baa48
                      OPTIONS BENCHMARK_ENABLE_TESTING=OFF BENCHMARK_ENABLE_WERROR=OFF BENCHMARK_ENABLE_INSTALL=OFF)
    elseif(package STREQUAL "Catch2")
      heed_dependency(Catch2 TARGET Catch2::Catch2 VERSION 3.7.1
                      REPOSITORY https://github.com/catchorg/Catch2.git COMMIT fa43b77429ba76c462b1898d6cd2f2d7a9416b14)
    elseif(package STREQUAL "rapidcheck")
      heed_dependency(rapidcheck TARGET rapidcheck VERSION 2023-12-14
                      REPOSITORY https://github.com/emil-e/rapidcheck.git COMMIT ff6af6fc683159deb51c543b065eba14dfcf329b)
    else()
      message(FATAL_ERROR "heed: no entry for the dependency ${package}")
    endif()
  endforeach()
endfunction()

function(heed_use_if_present)
  foreach(package IN LISTS ARGN)
    find_package(${package} QUIET GLOBAL)
    if(NOT ${package}_FOUND)
      message(STATUS "heed: ${package} was not found, its executor is not tested")
    endif()
  endforeach()
endfunction()
