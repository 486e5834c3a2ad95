# SPDX-License-Identifier: BSD-3-Clause
cmake_minimum_required(VERSION 3.25)
# Prints the CPU seconds that -O0 -fsyntax-only takes for a translation unit with one header, the least of three runs: what else the machine
# does counts little.
file(GLOB headers RELATIVE ${SOURCE_DIR}/include ${SOURCE_DIR}/include/heed/heed.hpp ${SOURCE_DIR}/include/heed/mechanism/*.hpp)
foreach(header IN LISTS headers)
  set(best 999999999)
  foreach(run RANGE 1 3)
    # `times` of a POSIX shell: its second line is user and system time of what it ran, as 0m1.230s 0m0.045s
    execute_process(COMMAND sh -c "\"$@\" && times" sh ${COMPILER} -std=c++20 -O0 ${FLAGS} -fsyntax-only
                            -I ${SOURCE_DIR}/include -idirafter ${XSIMD_INCLUDE} -include ${header} -x c++ /dev/null
                    OUTPUT_VARIABLE times COMMAND_ERROR_IS_FATAL ANY)
    if(NOT times MATCHES "\n([0-9]+)m([0-9]+)[.,]([0-9][0-9])[0-9]*s ([0-9]+)m([0-9]+)[.,]([0-9][0-9])")
      message(FATAL_ERROR "the shell's times are not understood: ${times}")
    endif()
    math(EXPR hundredths "${CMAKE_MATCH_1} * 6000 + ${CMAKE_MATCH_2} * 100 + 1${CMAKE_MATCH_3} - 100 + ${CMAKE_MATCH_4} * 6000 + ${CMAKE_MATCH_5} * 100 + 1${CMAKE_MATCH_6} - 100")
    if(hundredths LESS best)
      set(best ${hundredths})
    endif()
  endforeach()
  math(EXPR seconds "${best} / 100")
  math(EXPR rest "${best} % 100 + 100")
  string(SUBSTRING ${rest} 1 2 rest)
  message("${seconds}.${rest} s  ${header}")
endforeach()
