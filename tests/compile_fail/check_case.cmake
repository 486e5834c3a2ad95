# SPDX-License-Identifier: BSD-3-Clause
cmake_minimum_required(VERSION 3.25)
# Compiles CASE twice, good and bad; see CMakeLists.txt.
set(command ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} -std=c++20 -fsyntax-only -I ${INCLUDE} -idirafter ${XSIMD_INCLUDE})

file(STRINGS ${CASE} expected REGEX "^// expect: ")
if(NOT expected)
  message(FATAL_ERROR "${CASE} announces no sentence by `// expect: `")
endif()

execute_process(COMMAND ${command} ${CASE} RESULT_VARIABLE status ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the good program does not compile:\n${output}")
endif()

execute_process(COMMAND ${command} -DHEED_BAD ${CASE} RESULT_VARIABLE status ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "the bad program compiles")
endif()
foreach(sentence IN LISTS expected)
  string(REPLACE "// expect: " "" sentence "${sentence}")
  string(FIND "${output}" "${sentence}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "the compiler's output lacks the sentence\n  ${sentence}\nand says\n${output}")
  endif()
  message("seen: ${sentence}")
endforeach()
