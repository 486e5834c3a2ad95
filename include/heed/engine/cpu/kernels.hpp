// SPDX-License-Identifier: BSD-3-Clause
// The micro-kernels that most mechanisms share, declared extern for programs that compile them once: define HEED_KERNELS_EXTERN in every
// translation unit and HEED_KERNELS_DEFINE in the one that holds them. A header-only user needs neither.
#pragma once

#include <heed/kernel/contract_tile.hpp>
#include <heed/kernel/fft/passes.hpp>
#include <heed/kernel/gather_tile.hpp>
#include <heed/kernel/mix_tile.hpp>
#include <heed/policy/ring/plus_times.hpp>

#if defined(HEED_KERNELS_DEFINE)
#define HEED_KERNEL template
#elif defined(HEED_KERNELS_EXTERN)
#define HEED_KERNEL extern template
#endif

#if defined(HEED_KERNEL)
namespace heed {
HEED_KERNEL struct contract_tile<plus_times, float, native_arch, default_tiles<float, native_arch>()>;
HEED_KERNEL struct contract_tile<plus_times, double, native_arch, default_tiles<double, native_arch>()>;
HEED_KERNEL struct mix_tile<plus_times, float, native_arch, default_tiles<float, native_arch>()>;
HEED_KERNEL struct mix_tile<plus_times, double, native_arch, default_tiles<double, native_arch>()>;
HEED_KERNEL struct gather_tile<plus_times, float, native_arch>;
HEED_KERNEL struct gather_tile<plus_times, double, native_arch>;
HEED_KERNEL struct fft_passes<float, native_arch>;
HEED_KERNEL struct fft_passes<double, native_arch>;
} // namespace heed
#undef HEED_KERNEL
#endif
