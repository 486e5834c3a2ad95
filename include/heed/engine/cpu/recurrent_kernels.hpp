// SPDX-License-Identifier: BSD-3-Clause
// The chunks of the recurrent family, declared extern for programs that compile them once: as engine/cpu/kernels.hpp does for the tiles of the pairwise one.
#pragma once

#include <heed/engine/cpu/recurrent_decays.hpp>
#include <heed/engine/cpu/recurrent_value_decays.hpp>

#if defined(HEED_KERNELS_DEFINE)
#define HEED_KERNEL template
#elif defined(HEED_KERNELS_EXTERN)
#define HEED_KERNEL extern template
#endif

#if defined(HEED_KERNEL)
namespace heed {
HEED_KERNEL struct product_tile<float, native_arch>;
HEED_KERNEL struct product_tile<double, native_arch>;
HEED_KERNEL class recurrent_chunk<float, native_arch>;
HEED_KERNEL class recurrent_chunk<double, native_arch>;
} // namespace heed
#undef HEED_KERNEL
#endif
