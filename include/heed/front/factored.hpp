// SPDX-License-Identifier: BSD-3-Clause
// The door of attention on factors: forward where q, k or v is a heed::factored{a, b} instead of a tensor. Rows are made when a tile is packed: nothing of
// size N H d is kept. Backward: heed/front/factored_backward.hpp.
#pragma once

#include <heed/front/attention.hpp>
#include <heed/policy/load/factored.hpp>

namespace heed {

namespace detail {

template <class X>
concept FactoredOperand = is_factored<std::remove_cvref_t<X>> || is_third_order<std::remove_cvref_t<X>>;
template <class Q, class K, class V>
inline constexpr bool any_factored = FactoredOperand<Q> || FactoredOperand<K> || FactoredOperand<V>;

template <class T, class X>
tensor_view<T const> operand_view(X const& x) {
    if constexpr (FactoredOperand<X>) {
        static_assert(std::is_same_v<T, typename X::element_type>, "heed: factors have the element type of the tensors of their call");
        return x.rows_view();
    } else {
        return as_view(x);
    }
}
// The loader of an operand: the operand itself if it is factored (Made: rows of its head will lie in a tensor), else the mechanism's.
template <bool Made, class X, class L>
auto loader_of(X const& x, L const& loader) {
    if constexpr (FactoredOperand<X>) {
        static_assert(is_plain<L>, "heed: a factored operand has no other loader; what turns its rows is its own, heed::factored{a, b, rotary}");
        if constexpr (Made) { return plain{}; } else { return x; }
    } else {
        return loader;
    }
}
template <bool Made, class M, class Q, class K, class V>
auto with_operands(M const& m, Q const& q, K const& k, V const& v) {
    auto const lq = loader_of<Made>(q, m.load.q);
    auto const lk = loader_of<Made>(k, m.load.k);
    auto const lv = loader_of<Made>(v, m.load.v);
    return with_load(m, load<std::remove_const_t<decltype(lq)>, std::remove_const_t<decltype(lk)>, std::remove_const_t<decltype(lv)>>{lq, lk, lv});
}
// Heads first ... first + count of a view.
template <class T>
tensor_view<T> heads_of(tensor_view<T> const& v, extent_t first, extent_t count) {
    if (v.data_handle() == nullptr) { return v; }
    return {v.data_handle() + first * v.stride(1), {v.extent(0), count, v.extent(2), v.extent(3)}, v.strides(), v.offsets()};
}
template <class A, class X, class T>
void check_factors(X const& x, tensor_view<T const> const& rows) {
    if constexpr (FactoredOperand<X>) {
        using door = detail::door<A>;
        ragged_offsets offsets;
        char const* ragged = nullptr;
        x.each_factor([&](char const* name, auto const& f) {
            argument const own = argument::of(name, f);
            door::check_axes(&own, 1, nullptr, 0);
            if (!f.is_ragged()) { return; }
            argument before = own;
            if (ragged != nullptr) {
                before.name = ragged, before.offsets = offsets;
                door::check_offsets(own, before);
            }
            ragged = name, offsets = f.offsets();
        });
        if (ragged == nullptr || rows.extent(0) == 1) { return; }
        x.each_factor([&](char const* name, auto const& f) {
            if (!f.is_ragged() && f.extent(2) != 1) { door::refuse(sentence<A>("heed: ", ragged, " is ragged and ", name, " has ", f.extent(2), " positions; both need the same offsets, or one row for all")); }
        });
    }
}

} // namespace detail

// As heed::forward of tensors. q, k, v: tensors or heed::factored; shapes are those that the factors stand for.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires(Pairwise<M> && detail::any_factored<Q, K, V>)
auto forward(M const& mechanism, Q const& q_in, K const& k_in, V const& v_in, O&& out, Options const&... options) {
    using T = typename decltype(as_view(out))::element_type;
    static_assert(!std::is_const_v<T>, "heed: out is written; it must not be a view of const");
    tensor_view<T const> const q = detail::operand_view<T>(q_in), k = detail::operand_view<T>(k_in), v = detail::operand_view<T>(v_in);
    detail::check_factors<A>(q_in, q);
    detail::check_factors<A>(k_in, k);
    detail::check_factors<A>(v_in, v);
    return heed::forward<A>(detail::with_operands<false>(mechanism, q_in, k_in, v_in), q, k, v, out, options...);
}

} // namespace heed
