# SPDX-License-Identifier: BSD-3-Clause
cmake_minimum_required(VERSION 3.25)
# Two objects compiled from one source with different architecture flags may not define a symbol of heed's in common: the linker
# would keep one of the two, and code for the larger instruction set could run where only the smaller one exists.
function(weak_symbols object result)
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE lines COMMAND_ERROR_IS_FATAL ANY)
  # functions (W, w, T) whose mangled name lies in namespace heed; constants (u, V) hold no code
  string(REGEX MATCHALL "[0-9a-f]+ [WwT] _Z[A-Z]*N[A-Z]*4heed[^\n]*" symbols "${lines}")
  list(TRANSFORM symbols REPLACE "^[0-9a-f]+ . " "")
  set(${result} ${symbols} PARENT_SCOPE)
endfunction()

# The destructor that the compiler writes for an exception only calls its base's.
set(harmless "^_ZN4heed11shape_errorD[012]Ev$")

weak_symbols(${PLAIN} plain)
weak_symbols(${TUNED} tuned)
list(LENGTH plain plain_count)
list(LENGTH tuned tuned_count)
set(shared "")
foreach(symbol IN LISTS plain)
  if(symbol IN_LIST tuned AND NOT symbol MATCHES "${harmless}")
    string(APPEND shared "  ${symbol}\n")
  endif()
endforeach()
message("${plain_count} and ${tuned_count} functions of heed's in the two objects")
if(plain_count EQUAL 0 OR tuned_count EQUAL 0)
  message(FATAL_ERROR "an object without any function of heed's proves nothing")
endif()
if(shared)
  message(FATAL_ERROR "defined in both objects:\n${shared}")
endif()
