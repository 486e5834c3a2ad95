// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_runs.hpp"

namespace heed::bench {

prepared_run softmax_scored(problem const& p, operands<float> const& o, operand_store& store) {
    auto const scored = [&](auto stage) {
        return with_triangle(p, [&](auto pattern) {
            return planned(attention{dot{} | inv_sqrt_width{} | stage, pattern, softmax{}}, p, o, store, on_cpu(p));
        });
    };
    if (p.softcap != 0) { return scored(softcap{static_cast<float>(p.softcap)}); }
    if (p.alibi) { return scored(alibi{per_head(o.slopes, p.heads)}); }
    return scored(bias{tensor_view{o.bias, p.bias == bias_kind::row ? shape{1, 1, 1, p.keys} : shape{1, p.heads, p.queries, p.keys}}});
}

} // namespace heed::bench
