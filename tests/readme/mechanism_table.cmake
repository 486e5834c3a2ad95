# SPDX-License-Identifier: BSD-3-Clause
# The README's table of mechanisms must have exactly the catalog's lines. With -DUPDATE=ON it is written instead of checked.
cmake_minimum_required(VERSION 3.25)
set(catalog ${SOURCE_DIR}/include/heed/mechanism/catalog.inc)
set(pattern "^HEED_MECHANISM\\(([^,]+), *\"([^\"]+)\", *(.+),[^,]+,[^,]+, *([^,]+)\\)$") # a factory may have commas of its own

set(table "| mechanism | header | made by | can |\n|---|---|---|---|\n")
file(STRINGS ${catalog} lines REGEX "^HEED_MECHANISM\\(")
if(NOT lines)
  message(FATAL_ERROR "${catalog} has no line HEED_MECHANISM(")
endif()
foreach(line IN LISTS lines)
  if(NOT line MATCHES "${pattern}")
    message(FATAL_ERROR "cannot read the catalog's line\n${line}")
  endif()
  string(REPLACE "|" "\\|" factory "${CMAKE_MATCH_3}") # else it would end the cell
  string(APPEND table "| ${CMAKE_MATCH_1} | `${CMAKE_MATCH_2}` | `${factory}` | ${CMAKE_MATCH_4} |\n")
endforeach()

include(${CMAKE_CURRENT_LIST_DIR}/readme_section.cmake)
heed_readme_section(mechanisms "${table}" "the catalog" "-DSOURCE_DIR=. -DUPDATE=ON -P tests/readme/mechanism_table.cmake")
