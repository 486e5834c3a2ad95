// SPDX-License-Identifier: BSD-3-Clause
// factored: q, k or v as a sum of outer products over heads and features, never written out:
//
//   x[b, h, n, :] = 1/R sum_r a[b, h, n, r] b[b, r, n, :]                           tensor-product attention, Zhang et al., arXiv:2501.06425, section 3
//
//   a (B|1, H, N|1, R)   b (B|1, R|1, N|1, d); extents of 1 stand for all: a constant A is {1, H, 1, R}, a constant B {1, R, 1, d}. `factor` replaces
// 1/R where it is not 0: other published kernels leave the factor of k and v at 1. `then` is a rotary of the rows made: it acts on features only, so that
// it is the rotary of b's rows (the convention of its pairs, its base and its sign are its type and members).
//
//   third_order{a, b, c}:  x = 1/R sum_r a_r (c_r outer b_r), feature g d_b + i of it c_r[g] b_r[i]; c (B|1, R|1, N|1, d_c), d = d_b d_c; `then` turns each run
//   of d_b features, which is turning b                                              (same paper, appendix on higher orders)
//
// An operand of heed::forward and heed::backward where a tensor may stand, and the loader that makes its rows when a tile is packed: memory
// N R (H + d) instead of N H d. A row costs R d multiply-adds each time that a walk passes: R in (d + dv) N M / (queries of a walk) of a call.
// Laws: R = H, a = H times the unit vectors: multi-head attention; R = 1, a = 1: multi-query; R = G, a_g = G on the heads of group g: grouped.
#pragma once

#include <heed/kernel/factor_rows.hpp>
#include <heed/policy/load/load.hpp>

namespace heed {

namespace detail {

// Index n of sequence b in a view whose extents of 1 stand for all.
template <class T>
HEED_HD constexpr bool one_row(tensor_view<T> const& x) {
    return x.extent(2) == 1 && !x.is_ragged();
}
template <class T>
HEED_HD T* shared_row(tensor_view<T> const& x, extent_t batch, extent_t head, extent_t n) {
    return x.row(x.extent(0) == 1 && !x.is_ragged() ? 0 : batch, x.extent(1) == 1 ? 0 : head, one_row(x) ? 0 : n);
}
template <class T>
HEED_HD extent_t rank_stride(tensor_view<T> const& x) {
    return x.extent(1) == 1 ? 0 : x.stride(1);
}

// What factored and third_order have in common; X says a, b, then, factor, runs() of b's features in a row, and the coefficient of a run.
template <class X, class T>
struct factor_operand {
    using element_type = T;
    static constexpr bool makes_rows = true; // the view that it is given has a shape and no memory

    HEED_HD constexpr X const& self() const { return static_cast<X const&>(*this); }
    HEED_HD constexpr extent_t rank() const { return self().a.extent(3); }
    HEED_HD constexpr double weight() const { return self().factor != 0 ? self().factor : rank() > 0 ? 1.0 / static_cast<double>(rank()) : 0.0; }
    // What it stands for.
    HEED_HD constexpr heed::shape shape() const {
        auto const &a = self().a, &b = self().b;
        return {a.extent(0) == 1 && !a.is_ragged() ? b.extent(0) : a.extent(0), a.extent(1), one_row(a) ? b.extent(2) : a.extent(2), self().runs() * b.extent(3)};
    }
    HEED_HD constexpr tensor_view<T const> rows_view() const { return {nullptr, shape(), heed::strides{}, self().a.is_ragged() ? self().a.offsets() : self().b.offsets()}; }

    template <class A, class S>
    void rows(operand const& of, range which, tensor_view<S const> const&, compute_t<S>* dst, extent_t stride) const {
        static_assert(std::is_same_v<S, T>, "heed: factors have the element type of the tensors of their call");
        using C = compute_t<T>;
        constexpr extent_t chunk = 64; // of the rank
        auto const &a = self().a, &b = self().b;
        C const by = static_cast<C>(weight());
        C w[chunk];
        T const *const a_begin = shared_row(a, of.at.batch, of.head, 0), *const b_begin = shared_row(b, of.at.batch, 0, 0);
        extent_t const a_step = one_row(a) ? 0 : a.stride(2), b_step = one_row(b) ? 0 : b.stride(2);
        extent_t const width = b.extent(3), first = rank() < chunk ? rank() : chunk, step = rank_stride(b);
        for (extent_t n = which.begin; n < which.end; ++n) {
            T const *const an = a_begin + n * a_step, *const bn = b_begin + n * b_step;
            for (extent_t g = 0; g < self().runs(); ++g) {
                C* const out = dst + (n - which.begin) * stride + g * width;
                auto const weight_of = [&](extent_t r) HEED_INLINE_LAMBDA { return static_cast<C>(an[r * a.stride(3)]) * by * self().template coefficient<C>(of.at.batch, r, n, g); };
                for (extent_t r = 0; r < first; ++r) { w[r] = weight_of(r); }
                factor_rows<T, A>::combine(bn, step, b.stride(3), w, first, width, out);
                for (extent_t r = chunk; r < rank(); ++r) { // the rest one by one
                    C const one = weight_of(r);
                    for (extent_t e = 0; e < width; ++e) { out[e] += one * static_cast<C>(bn[r * step + e * b.stride(3)]); }
                }
            }
        }
        turn<A>(of, which, dst, stride, 1.0);
    }
    // Rows (or their gradients, backwards) through what turns them.
    template <class A, class C>
    void turn(operand const& of, range which, C* rows_at, extent_t stride, double direction) const {
        if constexpr (!is_plain<decltype(X::then)>) {
            extent_t const width = self().b.extent(3);
            self().then.template turn_rows<A, C>(of, which, width, self().runs(), 1, direction, [&](extent_t g, extent_t n) { return rows_at + (n - which.begin) * stride + g * width; });
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, extent_t rows, F&& f) const {
        self().each_factor([&](char const* name, auto const& x) { f(name, x, heed::shape{n.batch, &x == &self().a ? x.extent(1) : rank(), rows, x.extent(3)}); });
        if constexpr (requires { self().then.views(n, rows, f); }) { self().then.views(n, rows, f); }
    }
};

} // namespace detail

template <class T, class Then = plain>
struct factored : detail::factor_operand<factored<T, Then>, T> {
    tensor_view<T const> a, b;
    Then then;
    double factor;

    constexpr factored() = default;
    HEED_HD constexpr factored(tensor_view<T const> a_, tensor_view<T const> b_, Then then_ = {}, double factor_ = 0) : a(a_), b(b_), then(then_), factor(factor_) {}

    static constexpr extent_t runs() { return 1; }
    template <class C>
    static constexpr C coefficient(extent_t, extent_t, extent_t, extent_t) {
        return C(1);
    }
    template <class F>
    constexpr void each_factor(F&& f) const {
        f("the factor a", a), f("the factor b", b);
    }
};
template <class T, class U>
factored(tensor_view<T>, tensor_view<U>) -> factored<std::remove_const_t<T>>;
template <class T, class U, class Then>
factored(tensor_view<T>, tensor_view<U>, Then) -> factored<std::remove_const_t<T>, Then>;
template <class T, class U, class Then>
factored(tensor_view<T>, tensor_view<U>, Then, double) -> factored<std::remove_const_t<T>, Then>;

template <class T, class Then = plain>
struct third_order : detail::factor_operand<third_order<T, Then>, T> {
    tensor_view<T const> a, b, c;
    Then then;
    double factor;

    constexpr third_order() = default;
    HEED_HD constexpr third_order(tensor_view<T const> a_, tensor_view<T const> b_, tensor_view<T const> c_, Then then_ = {}, double factor_ = 0) : a(a_), b(b_), c(c_), then(then_), factor(factor_) {}

    HEED_HD constexpr extent_t runs() const { return c.extent(3); }
    template <class C>
    HEED_HD C coefficient(extent_t batch, extent_t r, extent_t n, extent_t g) const {
        return static_cast<C>(detail::shared_row(c, batch, r, n)[g * c.stride(3)]);
    }
    template <class F>
    constexpr void each_factor(F&& f) const {
        f("the factor a", a), f("the factor b", b), f("the factor c", c);
    }
};
template <class T, class U, class W>
third_order(tensor_view<T>, tensor_view<U>, tensor_view<W>) -> third_order<std::remove_const_t<T>>;
template <class T, class U, class W, class Then>
third_order(tensor_view<T>, tensor_view<U>, tensor_view<W>, Then) -> third_order<std::remove_const_t<T>, Then>;

// Where gradients go: each in the shape of its factor; a null view is not wanted.
template <class T>
struct factored_gradient {
    tensor_view<T> da, db;
    template <class F>
    constexpr void each(F&& f) const {
        f("da", da), f("db", db);
    }
};
template <class T>
factored_gradient(tensor_view<T>, tensor_view<T>) -> factored_gradient<T>;
template <class T>
struct third_order_gradient {
    tensor_view<T> da, db, dc;
    template <class F>
    constexpr void each(F&& f) const {
        f("da", da), f("db", db), f("dc", dc);
    }
};
template <class T>
third_order_gradient(tensor_view<T>, tensor_view<T>, tensor_view<T>) -> third_order_gradient<T>;

namespace detail {
template <class X>
inline constexpr bool is_factored = false; // heads times features
template <class T, class Then>
inline constexpr bool is_factored<factored<T, Then>> = true;
template <class X>
inline constexpr bool is_third_order = false;
template <class T, class Then>
inline constexpr bool is_third_order<third_order<T, Then>> = true;
} // namespace detail

} // namespace heed
