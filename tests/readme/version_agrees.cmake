# SPDX-License-Identifier: BSD-3-Clause
# The version stands in version.hpp; the changelog's newest heading and the citation file must say the same.
cmake_minimum_required(VERSION 3.25)
file(READ ${SOURCE_DIR}/CHANGELOG.md changelog)
file(READ ${SOURCE_DIR}/.github/CITATION.cff citation)
if(NOT changelog MATCHES "\n## ([0-9.]+)" OR NOT CMAKE_MATCH_1 STREQUAL VERSION)
  message(FATAL_ERROR "CHANGELOG.md begins with ${CMAKE_MATCH_1}, version.hpp says ${VERSION}")
endif()
if(NOT citation MATCHES "\nversion: ([0-9.]+)" OR NOT CMAKE_MATCH_1 STREQUAL VERSION)
  message(FATAL_ERROR ".github/CITATION.cff says ${CMAKE_MATCH_1}, version.hpp says ${VERSION}")
endif()
