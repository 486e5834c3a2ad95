# SPDX-License-Identifier: BSD-3-Clause
# heed::cuda: heed::heed with the CUDA runtime, for <heed/heed.cuh> in files that nvcc compiles. heed_add_cuda_target() makes it where the toolkit, 13 or
# newer, is found. Included by heed's own build and by its package.
function(heed_add_cuda_target)
  if(TARGET heed::cuda)
    return()
  endif()
  find_package(CUDAToolkit 13 QUIET)
  if(NOT CUDAToolkit_FOUND)
    return()
  endif()
  add_library(heed_cuda INTERFACE IMPORTED GLOBAL)
  add_library(heed::cuda ALIAS heed_cuda)
  target_link_libraries(heed_cuda INTERFACE heed::heed CUDA::cudart_static)
  target_compile_features(heed_cuda INTERFACE cxx_std_20)
  # policies call constexpr functions of the standard library on the device
  target_compile_options(heed_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
endfunction()

# For heed's own GPU tests and benchmarks: enables the language. A macro, since a language is enabled for the directory that asks.
macro(heed_use_cuda_language)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
      message(STATUS "heed: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 13; GPU engines are left out")
    else()
      set(heed_has_nvcc TRUE)
      set(HEED_CUDA_ARCHITECTURES 90a-real CACHE STRING "GPUs that heed's own tests and benchmarks are compiled for")
      if(CMAKE_CXX_COMPILER_LAUNCHER AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
        set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
      endif()
      heed_add_cuda_target()
    endif()
  endif()
endmacro()

# heed_add_cuda_objects(<name> <file.cu>...): object files with warnings, of heed's own code alone.
function(heed_add_cuda_objects name)
  add_library(${name} OBJECT ${ARGN})
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES "${HEED_CUDA_ARCHITECTURES}")
  # -std: CMake 3.25 does not know that of nvcc
  target_compile_options(${name} PRIVATE -std=c++20 -Xcompiler=-Wall,-Wextra,-Wshadow,-Wconversion)
  target_link_libraries(${name} PRIVATE heed::cuda)
endfunction()
