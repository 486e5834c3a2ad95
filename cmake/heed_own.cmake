# SPDX-License-Identifier: BSD-3-Clause
# Flags of heed's own binaries (tests, tool, examples). Nothing here is exported.
#
#   heed_own_flags  warnings, instruction set, sanitizers
#   heed_own        the same, heed::heed, and the kernels compiled once in a library: what own binaries link
#   heed_executors  heed_own with the executors that the system has: OpenMP (HEED_HAS_OPENMP=1) and oneTBB (HEED_HAS_TBB=1)
#   heed_take_precompiled(<target> heed_own|heed_executors)  heed.hpp (and Catch2, where there are tests) read once for all targets that take it

set(HEED_ARCH native CACHE STRING "Instruction set of heed's own binaries: native, avx2, a -march value such as x86-64-v3, or empty")
set(HEED_SANITIZE "" CACHE STRING "Sanitizers of heed's own binaries, such as address, undefined or thread")
option(HEED_WERROR "Warnings in heed's own binaries are errors" OFF)

include(CheckCXXCompilerFlag)
if(HEED_ARCH STREQUAL "")
  set(HEED_ARCH_FLAGS "")
elseif(HEED_ARCH STREQUAL "avx2")
  set(HEED_ARCH_FLAGS -mavx2 -mfma)
else()
  set(HEED_ARCH_FLAGS "-march=${HEED_ARCH}")
endif()
string(MAKE_C_IDENTIFIER "HEED_COMPILES_FOR_${HEED_ARCH}" heed_arch_works)
list(JOIN HEED_ARCH_FLAGS " " heed_arch_flags)
check_cxx_compiler_flag("${heed_arch_flags}" ${heed_arch_works})
if(NOT ${heed_arch_works})
  message(FATAL_ERROR "heed: the compiler does not take ${heed_arch_flags}; set HEED_ARCH to an instruction set it knows, or to nothing")
endif()

add_library(heed_own_flags INTERFACE)
target_compile_options(heed_own_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion ${HEED_ARCH_FLAGS})
if(HEED_WERROR)
  target_compile_options(heed_own_flags INTERFACE -Werror)
endif()
if(HEED_SANITIZE)
  string(REPLACE ";" "," heed_sanitizers "${HEED_SANITIZE}")
  # -O1, and no poison at the end of a scope: the unrolled kernels have thousands of scopes, over which g++ 12 takes tens of minutes.
  target_compile_options(heed_own_flags INTERFACE -fsanitize=${heed_sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1
                         $<$<AND:$<CXX_COMPILER_ID:GNU>,$<BOOL:$<FILTER:${HEED_SANITIZE},INCLUDE,address>>>:-fno-sanitize-address-use-after-scope>)
  target_link_options(heed_own_flags INTERFACE -fsanitize=${heed_sanitizers})
endif()

add_library(heed_own INTERFACE)
target_link_libraries(heed_own INTERFACE heed_own_flags heed::heed)

# bench/kernels.cpp holds the explicit instantiations; every other own translation unit declares them extern.
if(EXISTS ${PROJECT_SOURCE_DIR}/bench/kernels.cpp)
  add_library(heed_kernels STATIC ${PROJECT_SOURCE_DIR}/bench/kernels.cpp)
  target_compile_definitions(heed_kernels PRIVATE HEED_KERNELS_DEFINE=1)
  target_link_libraries(heed_kernels PRIVATE heed_own_flags heed::heed)
  target_compile_definitions(heed_own INTERFACE HEED_KERNELS_EXTERN=1)
  target_link_libraries(heed_own INTERFACE heed_kernels)
endif()

add_library(heed_executors INTERFACE)
target_link_libraries(heed_executors INTERFACE heed_own)
if(TARGET OpenMP::OpenMP_CXX)
  target_link_libraries(heed_executors INTERFACE OpenMP::OpenMP_CXX)
  target_compile_definitions(heed_executors INTERFACE HEED_HAS_OPENMP=1)
endif()
if(TARGET TBB::tbb)
  target_link_libraries(heed_executors INTERFACE TBB::tbb)
  target_compile_definitions(heed_executors INTERFACE HEED_HAS_TBB=1)
endif()

# Reading heed.hpp, xsimd and Catch2 costs 2 to 3 s a translation unit, a fifth of its time. GCC takes a precompiled header with further definitions, Clang
# does not. A compiler cache cannot look into one, and an edited header rebuilds all that take it: with a launcher it is off.
set(heed_precompile_default OFF)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(heed_precompile_default ON)
endif()
option(HEED_PRECOMPILE "Own binaries take heed.hpp precompiled" ${heed_precompile_default})

# heed_take_precompiled(<target> <own> [<option>...])
# For targets that link `own`, heed_own or heed_executors: of two kinds, since OpenMP's flag defines a macro. The options are those of the target that choose
# an -O level: GCC compiles what it finds in a precompiled header at the level of the header, whatever the target's own is.
function(heed_take_precompiled target own)
  if(NOT HEED_PRECOMPILE)
    return()
  endif()
  set(precompiled ${own}_precompiled)
  if(ARGN)
    set(precompiled ${own}_precompiled_otherwise)
  endif()
  if(NOT TARGET ${precompiled})
    find_package(Threads REQUIRED)
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/${precompiled}.cpp CONTENT "")
    add_library(${precompiled} OBJECT ${PROJECT_BINARY_DIR}/${precompiled}.cpp)
    target_include_directories(${precompiled} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_link_libraries(${precompiled} PRIVATE ${own} Threads::Threads $<$<BOOL:${HEED_BUILD_TESTS}>:Catch2::Catch2>)
    target_compile_options(${precompiled} PRIVATE ${ARGN})
    target_precompile_headers(${precompiled} PRIVATE
      $<$<BOOL:${HEED_BUILD_TESTS}>:${PROJECT_SOURCE_DIR}/tests/support/catch.hpp> <heed/heed.hpp>)
  endif()
  target_precompile_headers(${target} REUSE_FROM ${precompiled})
endfunction()
