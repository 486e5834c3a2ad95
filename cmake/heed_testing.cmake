# SPDX-License-Identifier: BSD-3-Clause
# heed_test_main: Catch2 with its main. Version 3 and Debian's 2.13 have it in a library; plain 2.13 is compiled here, once.
if(TARGET Catch2::Catch2WithMain)
  add_library(heed_test_main INTERFACE)
  target_link_libraries(heed_test_main INTERFACE Catch2::Catch2WithMain)
else()
  add_library(heed_test_main STATIC ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
  target_include_directories(heed_test_main PUBLIC ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(heed_test_main PUBLIC Catch2::Catch2 heed_own_flags)
endif()

# heed_add_test(<name> SOURCES <file>... [LIBS <target>...] [LABELS <label>...] [TIMEOUT <seconds>] [OPTIMIZED])
# One Catch2 binary, registered with ctest under its name. Sources include "support/catch.hpp". Of a Release build, tests are compiled with -O1, in
# three fifths of the time that -O3 takes; those marked OPTIMIZED, the examples, `heed run` and `heed bench` are what a user builds.
function(heed_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "OPTIMIZED" "TIMEOUT" "SOURCES;LIBS;LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE heed_own heed_test_main ${arg_LIBS})
  if(NOT arg_OPTIMIZED AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    # GCC's -Wmaybe-uninitialized depends on what was inlined; g++ 12 warns at -O1 of plans that it does not warn of at -O3.
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
endfunction()

# heed_add_script_test(<name> <script.cmake> [LABELS <label>...] [TIMEOUT <seconds>] [VARIABLES <name=value>...])
# A cmake -P script that stops with an error when something is wrong.
function(heed_add_script_test name script)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "TIMEOUT" "VARIABLES;LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  list(TRANSFORM arg_VARIABLES PREPEND -D)
  add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} ${arg_VARIABLES} -P ${CMAKE_CURRENT_SOURCE_DIR}/${script})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
endfunction()
