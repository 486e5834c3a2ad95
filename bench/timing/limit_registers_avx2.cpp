// SPDX-License-Identifier: BSD-3-Clause
// The same loops for AVX2: the build gives this file -mno-avx512f where its own instruction set is wider.
#include "limit_registers.hpp"

namespace heed::bench::avx2 {

#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
register_loop fma_f32() { return loop_of<float, fma_step>(); }
register_loop fma_f64() { return loop_of<double, fma_step>(); }
register_loop add_max() { return fastest(loop_of<float, add_max_step>(), loop_of<float, fma_max_step>()); }
#else
register_loop fma_f32() { return {}; }
register_loop fma_f64() { return {}; }
register_loop add_max() { return {}; }
#endif

} // namespace heed::bench::avx2
