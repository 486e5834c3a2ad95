// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_runs.hpp"

namespace heed::bench {

prepared_run softmax_plain(problem const& p, operands<bf16> const& o, operand_store& store) {
    return with_triangle(p, [&](auto pattern) { return planned(softmax_attention(pattern), p, o, store, on_cpu(p)); });
}

} // namespace heed::bench
