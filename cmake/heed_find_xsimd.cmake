# SPDX-License-Identifier: BSD-3-Clause
# Used by heed's own build and, installed beside heedConfig.cmake, by its users.
#
# heed_find_xsimd(): looks for the system's xsimd, 8.1 or newer. xsimd 8 exports a link to a library "xtl" that does not
# exist when xtl is absent (both are header-only, and heed needs xsimd alone): the link is taken out, or linking would stop at -lxtl.
function(heed_find_xsimd)
  if(NOT TARGET xsimd)
    find_package(xsimd QUIET GLOBAL)
    if(TARGET xsimd AND xsimd_VERSION AND xsimd_VERSION VERSION_LESS 8.1)
      message(FATAL_ERROR "heed: xsimd ${xsimd_VERSION} in ${xsimd_DIR} is too old, 8.1 is the oldest that works")
    endif()
  endif()
  if(TARGET xsimd AND NOT TARGET xtl)
    get_target_property(aliased xsimd ALIASED_TARGET)
    get_target_property(links xsimd INTERFACE_LINK_LIBRARIES)
    if(NOT aliased AND "xtl" IN_LIST links)
      list(REMOVE_ITEM links xtl)
      set_property(TARGET xsimd PROPERTY INTERFACE_LINK_LIBRARIES "${links}")
    endif()
  endif()
endfunction()
