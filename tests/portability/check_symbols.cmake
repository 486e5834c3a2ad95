# SPDX-License-Identifier: BSD-3-Clause
# Two objects compiled from one source with different architecture flags may not define a symbol of heed's in common: the linker
# would keep one of the two, and code for the larger instruction set could run where only the smaller one exists.
function(weak_symbols object result)
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE lines COMMAND_ERROR_IS_FATAL ANY)
  # functions (W, w, u and T) whose mangled name lies in namespace heed; type information and vtables (V) hold no code
  string(REGEX MATCHALL "[0-9a-f]+ [WwuT] _Z[A-Z]*N[A-Z]*4heed[^\n]*" symbols "${lines}")
  list(TRANSFORM symbols REPLACE "^[0-9a-f]+ . " "")
  set(${result} ${symbols} PARENT_SCOPE)
endfunction()

weak_symbols(${PLAIN} plain)
weak_symbols(${TUNED} tuned)
list(LENGTH plain plain_count)
list(LENGTH tuned tuned_count)
set(shared "")
foreach(symbol IN LISTS plain)
  if(symbol IN_LIST tuned)
    string(APPEND shared "${symbol}\n")
  endif()
endforeach()
message("${plain_count} and ${tuned_count} functions of heed's in the two objects")
if(plain_count EQUAL 0 OR tuned_count EQUAL 0)
  message(FATAL_ERROR "an object without any function of heed's proves nothing")
endif()
if(shared)
  message(FATAL_ERROR "defined in both objects:\n${shared}")
endif()
