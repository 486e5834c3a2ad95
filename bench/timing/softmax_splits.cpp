// SPDX-License-Identifier: BSD-3-Clause
// The setting splits=n: the keys in n parts, each with its own output and log-sum-exp, then merge. What split keys cost over the whole.
#include "softmax_runs.hpp"

#include "list_syntax.hpp"

#include <algorithm>

namespace heed::bench {

prepared_run softmax_splits(problem const& p, operands<float> const& o, operand_store& store) {
    extent_t const parts = parse_size(p.extra.at("splits"));
    auto const m = softmax_attention();
    shape const rows{p.batch, p.heads, p.queries, p.dim_v}, numbers{p.batch, p.heads, p.queries, 1};
    tensor_view<float const> const q(o.q, {p.batch, p.heads, p.queries, p.dim}), k(o.k, {p.batch, p.kv_heads, p.keys, p.dim}), v(o.v, {p.batch, p.kv_heads, p.keys, p.dim_v});
    tensor_view<float> const out(o.out, rows);
    auto const part_of = [=](tensor_view<float const> const& t, extent_t s) {
        extent_t const begin = s * p.keys / parts, end = (s + 1) * p.keys / parts;
        shape of = t.shape();
        of.seq = end - begin;
        return tensor_view<float const>(t.data_handle() + begin * t.shape().feature, of, t.strides());
    };
    auto const plan_of = [=](extent_t s) { return plan<float>(m, q.shape(), part_of(k, s).shape(), part_of(v, s).shape(), on_cpu(p)); };
    std::size_t workspace = 0;
    for (extent_t s = 0; s < parts; ++s) { workspace = std::max(workspace, plan_of(s).workspace_bytes()); }
    std::size_t const partial_floats = static_cast<std::size_t>(parts * (rows.size() + numbers.size()));
    return {"cpu.pairwise.forward on parts of the keys, then merge", [=, &store] {
                auto const memory = store.scratch(partial_floats * sizeof(float) + workspace);
                float* const outs = reinterpret_cast<float*>(memory.data());
                float* const sums = outs + parts * rows.size();
                for (extent_t s = 0; s < parts; ++s) {
                    plan_of(s).run(q, part_of(k, s), part_of(v, s), tensor_view<float>(outs + s * rows.size(), rows), memory.subspan(partial_floats * sizeof(float)),
                                   save{tensor_view<float>(sums + s * numbers.size(), numbers)});
                }
                partial const first{tensor_view<float const>(outs, rows), save{tensor_view<float const>(sums, numbers)}};
                merge(m, partials{first, parts, rows.size(), numbers.size()}, partial{out}, on_cpu(p));
            }};
}

} // namespace heed::bench
