# SPDX-License-Identifier: BSD-3-Clause
# The README's table of caches must be what `heed list --caches` (HEED) prints. With -DUPDATE=ON it is written instead of checked.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${HEED} list --caches OUTPUT_VARIABLE table COMMAND_ERROR_IS_FATAL ANY)
include(${CMAKE_CURRENT_LIST_DIR}/readme_section.cmake)
heed_readme_section(caches "${table}" "the tool" "-DSOURCE_DIR=. -DHEED=build/bench/heed -DUPDATE=ON -P tests/readme/cache_table.cmake")
