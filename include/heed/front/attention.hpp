// SPDX-License-Identifier: BSD-3-Clause
// The door: forward(mechanism, q, k, v, out, options...). Checks, plans, runs; nothing else.
#pragma once

#include <heed/front/plan.hpp>

namespace heed {

// out_i = attention of q_i over k, v. q (B, H, N, d), k (B, Hkv, M, d), v (B, Hkv, M, dv), out (B, H, N, dv); H a multiple of Hkv.
// Elements are float, double, bf16 or fp16; the last two are computed in float and rounded once, into out. Numbers of policies and the
// log-sum-exp are of the type of computation. Options in any order: a backend (default: the calling thread), save{lse} or save_log2{lse} ({B, H, N, 1}), which is then returned.
// Throws shape_error before anything is written. Makes one allocation of plan.workspace_bytes() and frees it.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
auto forward(M const& mechanism, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert((detail::is_option<Options> && ...), "heed: options of forward are a backend (heed::cpu{...}, heed::reference{}) and heed::save{lse} or heed::save_log2{lse}");
    auto const out_view = as_view(out);
    using T = typename decltype(out_view)::element_type;
    static_assert(!std::is_const_v<T>, "heed: out is written; it must not be a view of const");
    static_assert(std::is_same_v<T, typename decltype(as_view(q))::value_type> && std::is_same_v<T, typename decltype(as_view(k))::value_type> &&
                      std::is_same_v<T, typename decltype(as_view(v))::value_type>,
                  "heed: q, k, v and out must have the same element type");
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || is_half<T>, "heed: elements are float, double, heed::bf16 or heed::fp16");

    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_save(options...);
    auto p = plan<T, A>(mechanism, as_view(q).shape(), as_view(k).shape(), as_view(v).shape(), backend);
    detail::call_memory<std::remove_const_t<decltype(backend)>> const memory(backend, p.workspace_bytes());
    p.run(q, k, v, out_view, memory.span(), saved);
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) { return saved; }
}

} // namespace heed
