// SPDX-License-Identifier: BSD-3-Clause
// heed's own softmax for the problems of the benchmark. Each file that includes this compiles one part of the
// combinations for its instruction set; everything here is local to the file.
#pragma once

#include "prepared_run.hpp"

#include <heed/heed.hpp>
#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif

#include <string>

namespace heed::bench {
namespace {

[[maybe_unused]] auto on_cpu([[maybe_unused]] problem const& p) {
#if defined(HEED_HAS_OPENMP)
    return cpu{openmp{p.threads}};
#else
    return cpu{};
#endif
}

// A plan in the store's scratch memory: what a caller who cares about time writes.
template <class T, class Mechanism, class Backend>
prepared_run planned(Mechanism const& mechanism, problem const& p, operands<T> const& o, operand_store& store, Backend const& backend) {
    tensor_view<T const> const q(o.q, {p.batch, p.heads, p.queries, p.dim}), k(o.k, {p.batch, p.kv_heads, p.keys, p.dim}),
        v(o.v, {p.batch, p.kv_heads, p.keys, p.dim_v});
    tensor_view<T> const out(o.out, {p.batch, p.heads, p.queries, p.dim_v});
    auto plan = heed::plan<T>(mechanism, q.shape(), k.shape(), v.shape(), backend);
    auto engine = std::string(plan.engine());
    if (plan.tile_queries() > 1) {
        engine += std::string(" on ") + arch_name<native_arch>() + ", tiles of " + std::to_string(plan.tile_queries()) + " queries x " +
                  std::to_string(plan.tile_keys()) + " keys";
    }
    return {engine, [=, &store]() mutable { plan.run(q, k, v, out, store.scratch(plan.workspace_bytes())); }};
}

// f(pattern) for the problem's pattern, one of full and causal.
template <class F>
prepared_run with_triangle(problem const& p, F const& f) {
    return p.mask == mask_kind::causal ? f(causal_bottom_right{}) : f(full{});
}

// The same, of all patterns.
template <class T, class F>
prepared_run with_pattern(problem const& p, operands<T> const& o, F const& f) {
    if (p.mask == mask_kind::window) { return f(window{p.window}); }
    if (p.mask == mask_kind::document) {
        tensor_view<std::int32_t const> const query_ids(o.query_documents, {1, 1, p.queries, 1}),
            key_ids(o.key_documents, {1, 1, p.keys, 1});
        return f(documents{query_ids, key_ids});
    }
    return with_triangle(p, f);
}

} // namespace
} // namespace heed::bench
