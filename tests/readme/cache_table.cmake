# SPDX-License-Identifier: BSD-3-Clause
# The README's table of caches must be what `heed list --caches` (HEED) prints. With -DUPDATE=ON it is written instead of checked.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${HEED} list --caches OUTPUT_VARIABLE table COMMAND_ERROR_IS_FATAL ANY)
file(READ ${SOURCE_DIR}/README.md readme)
if(NOT readme MATCHES "(<!-- caches: begin[^\n]*-->\n)(.*)(<!-- caches: end -->)")
  message(FATAL_ERROR "README.md has lost the markers of its table of caches")
endif()
set(begin "${CMAKE_MATCH_1}")
set(current "${CMAKE_MATCH_2}")
set(end "${CMAKE_MATCH_3}")
if(UPDATE)
  string(REPLACE "${begin}${current}${end}" "${begin}${table}${end}" readme "${readme}")
  file(WRITE ${SOURCE_DIR}/README.md "${readme}")
elseif(NOT current STREQUAL table)
  message(FATAL_ERROR "README.md's table of caches is\n${current}\nand the tool says\n${table}\n"
                      "cmake -DSOURCE_DIR=. -DHEED=build/bench/heed -DUPDATE=ON -P tests/readme/cache_table.cmake writes it")
endif()
