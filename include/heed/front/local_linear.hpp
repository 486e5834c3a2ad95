// SPDX-License-Identifier: BSD-3-Clause
// The doors of local linear attention and of Parallax: forward and backward.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/local_linear_backward.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/mechanism/local_linear.hpp>
#include <heed/view/adapt.hpp>

#include <memory>

namespace heed {

// Option of Parallax's backward: where the gradient by r goes.
template <class E>
struct slope_gradient {
    tensor_view<E> d;
};
template <class E>
slope_gradient(tensor_view<E>) -> slope_gradient<E>;

namespace detail {

template <class M>
inline constexpr bool is_local_linear = false;
template <class P, class R>
inline constexpr bool is_local_linear<local_linear<P, R>> = true;
template <class M>
inline constexpr bool is_parallax = false;
template <class E, class P>
inline constexpr bool is_parallax<parallax<E, P>> = true;
template <class O>
inline constexpr bool is_slope_gradient = false;
template <class E>
inline constexpr bool is_slope_gradient<slope_gradient<E>> = true;

template <class E, class M>
local_form<E> local_form_of(M const& m, extent_t width) {
    using T = compute_t<E>;
    local_form<E> f;
    f.scale = static_cast<T>(m.scale != 0 ? m.scale : 1 / math::sqrt(static_cast<double>(width < 1 ? 1 : width)));
    f.causal = std::is_same_v<decltype(M::order), causal_bottom_right>;
    if constexpr (is_parallax<M>) {
        f.r = m.r;
    } else {
        f.lambda = static_cast<T>(m.penalty.lambda), f.relative = decltype(M::penalty)::relative;
    }
    return f;
}
template <class A, class E>
void check_local(local_form<E> const& m, local_problem<E> const& p, local_gradients<E> const& d, bool slopes) {
    using door = detail::door<A>;
    argument const args[] = {argument::of("q", p.q), argument::of("k", p.k), argument::of("v", p.v), argument::of("out", p.out), argument::of("r", m.r), argument::of("dout", d.dout),
                             argument::of("dq", d.dq), argument::of("dk", d.dk), argument::of("dv", d.dv), argument::of("slope_gradient", d.dr)};
    door::check_axes(args, 4, pairwise_rules, static_cast<int>(std::size(pairwise_rules)) - 3);
    door::check_offsets(args[0], args[3]), door::check_offsets(args[1], args[2]);
    if (slopes) { door::check_same(args[4], args[0]), door::check_offsets(args[4], args[0]); }
    if (!slopes && !(m.lambda > 0)) { door::refuse("heed: the penalty of local linear attention must be above 0; without it a query with few keys has no plane"); }
    constexpr int like[] = {3, 0, 1, 2, 0};
    for (int i = 0; i < 5; ++i) {
        if (args[5 + i].address == 0) { continue; }
        door::check_same(args[5 + i], args[like[i]]), door::check_offsets(args[5 + i], args[like[i]]);
    }
    argument given[10];
    int count = 0;
    for (int i = 0; i < 10; ++i) {
        if (args[i].address == 0) { continue; }
        given[count] = args[i];
        given[count++].written = i >= 6 || (i == 3 && d.dout.data_handle() == nullptr);
    }
    door::check_outputs(given, count);
}

} // namespace detail

// q (B, H, N, d), k (B, G, M, d), v (B, G, M, dv), out (B, H, N, dv), H a multiple of G; r of Parallax as q. Elements float, double, bf16 or fp16. Option: a backend. A query that sees no key
// gives 0. Throws shape_error before out is written. Makes one allocation: a few tiles a thread.
template <class A = native_arch, class M, class Q, class K, class V, class O, class B = cpu<serial, A>>
    requires(detail::is_local_linear<M> || detail::is_parallax<M>)
void forward(M const& mechanism, Q const& q, K const& k, V const& v, O&& out, B const& given = {}) {
    static_assert(detail::is_backend<B>, "heed: the option of local linear attention is a backend, heed::cpu{...}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    local_problem<E> const p{as_view(q), as_view(k), as_view(v), out_view};
    auto const form = detail::local_form_of<E>(mechanism, p.q.extent(3));
    detail::check_local<A, E>(form, p, {}, detail::is_parallax<M>);
    B backend = given;
    using engine = local_linear_forward<E, A>;
    extent_t const items = engine::items(p);
    if (items == 0) { return; }
    int const most = detail::concurrency_of(backend.executor), slots = items < most ? static_cast<int>(items) : most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[line_bytes - 1 + static_cast<std::size_t>(slots) * engine::slot_bytes(form, p)]);
    engine::run(form, p, backend.executor, slots, memory.get());
}

// Gradients of a loss by q, k, v (and, of Parallax, slope_gradient{dr}) from its derivative dout by out; out is what forward wrote. tensor_view<T>{} is not computed. Everything is written, nothing
// accumulated. Makes one allocation: tiles, and the gradients of one head's keys and values, a thread.
template <class A = native_arch, class M, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
    requires(detail::is_local_linear<M> || detail::is_parallax<M>)
void backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || (detail::is_slope_gradient<Options> && detail::is_parallax<M>)) && ...),
                  "heed: options of this backward are a backend (heed::cpu{...}) and, of Parallax, heed::slope_gradient{dr}");
    using E = typename decltype(as_view(dout))::value_type;
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads it
    local_problem<E> const p{as_view(q), as_view(k), as_view(v), tensor_view<E>(const_cast<E*>(read.data_handle()), read.shape(), read.strides(), read.offsets())};
    local_gradients<E> d{as_view(dout), as_view(dq), as_view(dk), as_view(dv), {}};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        if constexpr (detail::is_slope_gradient<std::remove_cvref_t<decltype(option)>>) { d.dr = option.d; }
    };
    (take(options), ...);
    auto const form = detail::local_form_of<E>(mechanism, p.q.extent(3));
    detail::check_local<A, E>(form, p, d, detail::is_parallax<M>);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = local_linear_backward<E, A>;
    extent_t const items = engine::items(p);
    if (items == 0) { return; }
    int const most = detail::concurrency_of(backend.executor), slots = items < most ? static_cast<int>(items) : most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[line_bytes - 1 + static_cast<std::size_t>(slots) * engine::slot_bytes(form, p)]);
    engine::run(form, p, d, backend.executor, slots, memory.get());
}

} // namespace heed
