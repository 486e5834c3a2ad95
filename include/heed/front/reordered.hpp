// SPDX-License-Identifier: BSD-3-Clause
// reordered{mechanism, order}: the same attention with its queries taken in another order: slot t of the mechanism is query order[t]. Rows are brought into the
// order, and results back, so that q, out and gradients keep theirs. The mechanism's pattern speaks of slots (neighbourhood of a map with patches: a tile of
// queries is then a compact piece of the image); its score must not depend on the position of the query.
// Cost beyond the mechanism's: (d + dv) moves a row; where the engine takes rows from their places (policy/load/in_order.hpp) no memory, else, and in backward, that of q and out.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>

#include <cstring>
#include <memory>
#include <vector>

namespace heed {

template <class M>
struct reordered {
    M mechanism;
    tensor_view<std::int32_t const> order; // {1, 1, N, 1}, every query once

    static_assert(Pairwise<M>, "heed: reordered{mechanism, order} takes a mechanism of the pairwise family: heed::attention{...}");
};
template <class M, class I>
reordered(M, tensor_view<I>) -> reordered<M>;

// The mechanism with queries taken from their places, for plans of engines that can (places_rows). That each query stands in the order once is not checked.
template <class M>
auto with_order(M const& m, tensor_view<std::int32_t const> const& order) {
    return with_load(m, load{in_order{order, m.load.q}, m.load.k, m.load.v});
}

namespace detail {

template <class M>
inline constexpr bool is_reordered = false;
template <class M>
inline constexpr bool is_reordered<reordered<M>> = true;

// Throws shape_error, naming the slot, unless every query stands in the order once.
template <class A>
void check_order(tensor_view<std::int32_t const> const& order, extent_t queries) {
    using door = detail::door<A>;
    if (order.extent(2) != queries) { door::refuse(sentence<A>("heed: the order names ", order.extent(2), " queries and q has ", queries)); }
    std::vector<bool> seen(static_cast<std::size_t>(queries));
    for (extent_t t = 0; t < queries; ++t) {
        std::int32_t const i = order(0, 0, t, 0);
        if (i < 0 || i >= queries || seen[static_cast<std::size_t>(i)]) { door::refuse(sentence<A>("heed: slot ", t, " of the order names query ", i, "; each of the ", queries, " queries stands in it once")); }
        seen[static_cast<std::size_t>(i)] = true;
    }
}
// Rows of `from` in the order into `to` (Out: rows of `from`, in the order, back to their places in `to`).
template <class A, bool Out, class From, class To, class Executor>
void move_rows(tensor_view<std::int32_t const> const& order, From const& from, To const& to, Executor& executor) {
    using E = typename To::value_type;
    extent_t const heads = to.extent(1), width = to.extent(3);
    bool const side_by_side = from.stride(3) == 1 && to.stride(3) == 1;
    for_each_item<A>(executor, concurrency_of(executor), to.extent(0) * heads, [&](extent_t item, int) noexcept {
        for (extent_t t = 0; t < to.extent(2); ++t) {
            extent_t const i = order(0, 0, t, 0);
            E const* const x = from.row(item / heads, item % heads, Out ? t : i);
            E* const y = to.row(item / heads, item % heads, Out ? i : t);
            if (side_by_side) {
                std::memcpy(y, x, static_cast<std::size_t>(width) * sizeof(E));
            } else {
                for (extent_t e = 0; e < width; ++e) { y[e * to.stride(3)] = x[e * from.stride(3)]; }
            }
        }
    });
}

// Rows are taken from their places, and nothing is lost by it: products of bf16 in pairs want rows as they lie.
template <class M, class E, class B>
inline constexpr bool takes_placed_rows = requires { requires forward_engine<decltype(with_order(std::declval<M const&>(), {})), E, B>::places_rows; } && !requires { requires forward_engine<M, E, B>::pairs; };

} // namespace detail

template <class M>
concept Reordered = detail::is_reordered<M>;

// As forward(mechanism, ...); q of one length for all sequences.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires Reordered<M>
auto forward(M const& m, Q const& q_in, K const& k, V const& v, O&& out_in, Options const&... options) {
    static_assert((detail::is_option<Options> && ...), "heed: options of forward are a backend (heed::cpu{...}) and heed::save{lse} or heed::save_log2{lse}");
    auto const out = as_view(out_in);
    using E = typename decltype(out)::element_type;
    tensor_view<E const> const q = as_view(q_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_save(options...);
    if (q.is_ragged()) { detail::door<A>::refuse("heed: reordered takes sequences of one length"); }
    detail::check_order<A>(m.order, q.extent(2));
    if constexpr (detail::takes_placed_rows<decltype(M::mechanism), E, decltype(backend)>) { return forward<A>(with_order(m.mechanism, m.order), q, k, v, out, options...); }
    detail::argument const outs[] = {detail::argument::of("q", q), detail::argument::of("out", out)};
    detail::door<A>::check_outputs(outs, 2);
    std::unique_ptr<E[]> const rows(new E[static_cast<std::size_t>(q.shape().size())]), results(new E[static_cast<std::size_t>(out.shape().size())]); // all of it is written
    tensor_view<E> const q_rows(rows.get(), q.shape()), out_rows(results.get(), out.shape());
    detail::move_rows<A, false>(m.order, q, q_rows, backend.executor);
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) {
        using T = typename decltype(saved.lse)::value_type;
        std::vector<T> sums(static_cast<std::size_t>(saved.lse.shape().size()));
        auto kept = saved;
        kept.lse = {sums.data(), saved.lse.shape()};
        forward<A>(m.mechanism, tensor_view<E const>(q_rows), k, v, out_rows, kept, backend);
        detail::move_rows<A, true>(m.order, out_rows, out, backend.executor);
        detail::move_rows<A, true>(m.order, kept.lse, saved.lse, backend.executor);
        return saved;
    } else {
        forward<A>(m.mechanism, tensor_view<E const>(q_rows), k, v, out_rows, backend);
        detail::move_rows<A, true>(m.order, out_rows, out, backend.executor);
    }
}

// As backward(mechanism, ...), for what forward(reordered, ..., save{lse}) returned.
template <class A = native_arch, class M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
    requires Reordered<M>
void backward(M const& m, Q const& q_in, K const& k, V const& v, O const& out_in, Saved const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk, DV&& dv, Options const&... options) {
    using E = typename decltype(as_view(dout_in))::value_type;
    tensor_view<E const> const q = as_view(q_in), out = as_view(out_in), dout = as_view(dout_in);
    tensor_view<E> const dq = as_view(dq_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::check_order<A>(m.order, q.extent(2));
    auto const room = [](shape s) { return std::vector<E>(static_cast<std::size_t>(s.size())); };
    auto q_data = room(q.shape()), out_data = room(out.shape()), dout_data = room(dout.shape()), dq_data = room(q.shape());
    tensor_view<E> const q_rows(q_data.data(), q.shape()), out_rows(out_data.data(), out.shape()), dout_rows(dout_data.data(), dout.shape()), dq_rows(dq_data.data(), q.shape());
    detail::move_rows<A, false>(m.order, q, q_rows, backend.executor);
    detail::move_rows<A, false>(m.order, out, out_rows, backend.executor);
    detail::move_rows<A, false>(m.order, dout, dout_rows, backend.executor);
    auto kept = saved;
    std::vector<typename decltype(saved.lse)::value_type> sums(static_cast<std::size_t>(saved.lse.shape().size()));
    kept.lse = {sums.data(), saved.lse.shape()};
    detail::move_rows<A, false>(m.order, saved.lse, kept.lse, backend.executor);
    backward<A>(m.mechanism, tensor_view<E const>(q_rows), k, v, tensor_view<E const>(out_rows), kept, tensor_view<E const>(dout_rows), dq_rows, dk, dv, backend);
    if (dq.data_handle() != nullptr) { detail::move_rows<A, true>(m.order, dq_rows, dq, backend.executor); }
}

} // namespace heed
