// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_runs.hpp"

namespace heed::bench {

namespace {
template <class T>
prepared_run scalar(problem const& p, operands<T> const& o, operand_store& store) {
    return with_pattern(p, o, [&](auto pattern) { return planned(softmax_attention(pattern), p, o, store, reference{}); });
}
} // namespace

prepared_run softmax_reference(problem const& p, operands<float> const& o, operand_store& store) { return scalar(p, o, store); }
prepared_run softmax_reference(problem const& p, operands<double> const& o, operand_store& store) { return scalar(p, o, store); }

} // namespace heed::bench
