// SPDX-License-Identifier: BSD-3-Clause
// Built with -mno-avx512f where the build's own instruction set is wider; the kernels are then this file's own.
#undef HEED_KERNELS_EXTERN
#include "softmax_runs.hpp"

namespace heed::bench {

#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)

bool has_softmax_avx2() { return true; }

prepared_run softmax_avx2(problem const& p, operands<float> const& o, operand_store& store) {
    return with_triangle(p, [&](auto pattern) { return planned(softmax_attention(pattern), p, o, store, on_cpu(p)); });
}

#else

bool has_softmax_avx2() { return false; }
prepared_run softmax_avx2(problem const&, operands<float> const&, operand_store&) { return {}; }

#endif

} // namespace heed::bench
