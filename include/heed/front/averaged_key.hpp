// SPDX-License-Identifier: BSD-3-Clause
// The doors of circular attention with the averaged key: forward(averaged_key_attention(), q, k, v, out, options...) and its backward.
#pragma once

#include <heed/engine/cpu/averaged_scores.hpp>
#include <heed/front/spectral_backward.hpp>
#include <heed/mechanism/averaged_key.hpp>

namespace heed {

namespace detail {

inline constexpr axis_rule averaged_key_rules[] = {
    {1, axis::batch, rule_kind::equal, 0, axis::batch}, {0, axis::head, rule_kind::multiple, 1, axis::head}, {1, axis::feature, rule_kind::equal, 0, axis::feature},
    {2, axis::batch, rule_kind::equal, 0, axis::batch}, {2, axis::head, rule_kind::equal, 1, axis::head},    {2, axis::seq, rule_kind::equal, 1, axis::seq},
    {3, axis::batch, rule_kind::equal, 0, axis::batch}, {3, axis::head, rule_kind::equal, 0, axis::head},   {3, axis::seq, rule_kind::equal, 0, axis::seq},
    {3, axis::feature, rule_kind::equal, 2, axis::feature},
};
template <class A>
void check_averaged_key(argument const* x, int count) {
    door<A>::check_axes(x, count, averaged_key_rules);
    for (int i = 0; i < count; ++i) {
        if (x[i].offsets) { door<A>::refuse(sentence<A>("heed: ", x[i].name, " is ragged; sequences of different lengths have different transforms, call once for each")); }
    }
    door<A>::check_outputs(x, count);
}
// The scores beside the plan's workspace, in one piece of memory.
struct averaged_key_memory {
    arena parts{nullptr};
    template <class T>
    void lay(std::byte* at, shape q, int copies, double*& mean, T* (&z)[2]) {
        parts = arena(at);
        mean = parts.take<double>(q.batch * q.head * q.feature);
        for (int i = 0; i < copies; ++i) { z[i] = parts.take<T>(q.batch * q.head * q.seq); }
    }
};

} // namespace detail

// q (B, H, N, d), k (B, G, M, d), v (B, G, M, dv), out (B, H, N, dv), H a multiple of G. Option: a backend heed::cpu{...}. Throws shape_error before out is written. Makes
// one allocation.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires AveragedKey<M>
void forward(M const& mechanism, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the option of forward with the averaged key is a backend, heed::cpu{...}");
    tensor_view const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    detail::check_spectral_elements<T>();
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    detail::argument const args[] = {detail::argument::of("q", q), detail::argument::of("k", k), detail::argument::of("v", v), detail::argument::of("out", out)};
    detail::check_averaged_key<A>(args, 4);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    shape const rows{q.extent(0), q.extent(1), q.extent(2), 1};
    auto p = plan<T, A>(mechanism.mixing(), rows, v.shape(), out.shape(), backend);
    double* mean;
    T* z[2] = {};
    detail::averaged_key_memory layout;
    layout.lay(nullptr, q.shape(), 1, mean, z);
    std::size_t const own = layout.parts.bytes(), bytes = line_bytes + own + p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    std::byte* const at = aligned(memory.get());
    layout.lay(at, q.shape(), 1, mean, z);
    averaged_scores<T, A>{q, k}.forward(backend.executor, p.slots(), mean, z[0]);
    p.run(tensor_view<T const>(z[0], rows), v, out, std::span<std::byte>(at + own, p.workspace_bytes()));
}

// The gradients of sum(out dout). Everything is written, nothing accumulated. Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, AveragedKey M, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class B = cpu<serial, A>>
void backward(M const& mechanism, Q const& q_in, K const& k_in, V const& v_in, O const& out_in, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, B const& given = {}) {
    static_assert(detail::is_backend<B>, "heed: the option of backward with the averaged key is a backend, heed::cpu{...}");
    tensor_view const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    using T = typename decltype(dq)::element_type;
    detail::check_spectral_elements<T>();
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), out = as_view(out_in), dout = as_view(dout_in);
    detail::argument const args[] = {detail::argument::of("q", q),       detail::argument::of("k", k),   detail::argument::of("v", v),   detail::argument::of("out", out),
                                     detail::argument::of("dout", dout), detail::argument::of("dq", dq), detail::argument::of("dk", dk), detail::argument::of("dv", dv)};
    detail::check_averaged_key<A>(args, 8);
    detail::door<A>::check_same(args[4], args[3]);
    for (int i = 0; i < 3; ++i) { detail::door<A>::check_same(args[5 + i], args[i]); }
    B backend = given;
    shape const rows{q.extent(0), q.extent(1), q.extent(2), 1};
    spectral_backward_plan<decltype(mechanism.mixing()), T, B> p(mechanism.mixing(), rows, v.shape(), out.shape(), backend);
    double* mean;
    T* z[2] = {};
    detail::averaged_key_memory layout;
    layout.lay(nullptr, q.shape(), 2, mean, z);
    std::size_t const own = layout.parts.bytes(), bytes = line_bytes + own + p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    std::byte* const at = aligned(memory.get());
    layout.lay(at, q.shape(), 2, mean, z);
    averaged_scores<T, A> const scores{q, k};
    scores.forward(backend.executor, p.slots(), mean, z[0]);
    p.run({tensor_view<T const>(z[0], rows), v, out, dout, tensor_view<T>(z[1], rows), dv}, std::span<std::byte>(at + own, p.workspace_bytes()));
    scores.backward(backend.executor, p.slots(), mean, z[1], dq, dk);
}

} // namespace heed
