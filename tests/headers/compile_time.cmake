# SPDX-License-Identifier: BSD-3-Clause
cmake_minimum_required(VERSION 3.25)
# Prints the seconds that -O0 -fsyntax-only takes for a translation unit with one header: the best of three runs.
file(GLOB headers RELATIVE ${SOURCE_DIR}/include ${SOURCE_DIR}/include/heed/heed.hpp ${SOURCE_DIR}/include/heed/mechanism/*.hpp)
foreach(header IN LISTS headers)
  set(best 999999999)
  foreach(run RANGE 1 3)
    string(TIMESTAMP begin "%s%f")
    execute_process(COMMAND ${COMPILER} -std=c++20 -O0 ${FLAGS} -fsyntax-only -I ${SOURCE_DIR}/include -idirafter ${XSIMD_INCLUDE}
                            -include ${header} -x c++ /dev/null
                    COMMAND_ERROR_IS_FATAL ANY)
    string(TIMESTAMP end "%s%f")
    math(EXPR micro "${end} - ${begin}")
    if(micro LESS best)
      set(best ${micro})
    endif()
  endforeach()
  math(EXPR seconds "${best} / 1000000")
  math(EXPR rest "${best} % 1000000 / 10000 + 100")
  string(SUBSTRING ${rest} 1 2 rest)
  message("${seconds}.${rest} s  ${header}")
endforeach()
