// SPDX-License-Identifier: BSD-3-Clause
// valuate(valuation, x, u) and valuate_backward(valuation, x, u, du, dx[, dshift]): features into logarithms, row by row, for tropical attention.
#pragma once

#include <heed/front/check.hpp>
#include <heed/policy/valuation.hpp>
#include <heed/view/adapt.hpp>

namespace heed {

namespace detail {

template <class A, class P, class T>
struct valuated_rows {
    using V = vec<T, A>;
    P const& p;

    T shift_at(extent_t h, extent_t c) const {
        return p.shift.data_handle() == nullptr ? T(0) : static_cast<T>(p.shift(0, p.shift.extent(1) == 1 ? 0 : h, 0, p.shift.extent(3) == 1 ? 0 : c));
    }
    template <class F>
    static void each_row(shape s, F const& f) {
        for (extent_t b = 0; b < s.batch; ++b) {
            for (extent_t h = 0; h < s.head; ++h) {
                for (extent_t i = 0; i < s.seq; ++i) { f(b, h, i); }
            }
        }
    }
    void forward(tensor_view<T const> const& x, tensor_view<T> const& u) const {
        extent_t const n = x.extent(3), from = x.stride(3), to = u.stride(3);
        each_row(x.shape(), [&](extent_t b, extent_t h, extent_t i) {
            T const* const row = x.row(b, h, i);
            T* const out = u.row(b, h, i);
            extent_t c = 0;
            if (from == 1 && to == 1) {
                for (; c + V::lanes <= n; c += V::lanes) { p(V::load(row + c)).store(out + c); }
            }
            for (; c < n; ++c) { out[c * to] = p(row[c * from]); }
            T top = -math::inf<T>();
            for (c = 0; c < n; ++c) { out[c * to] -= shift_at(h, c), top = out[c * to] > top ? out[c * to] : top; }
            if (P::simplex && top != -math::inf<T>()) {
                for (c = 0; c < n; ++c) { out[c * to] -= top; }
            }
        });
    }
    // On the simplex u_c = w_c - w_m, m the first greatest coordinate (where u is 0): what all others get, m gives.
    void backward(tensor_view<T const> const& x, tensor_view<T const> const& u, tensor_view<T const> const& du, tensor_view<T> const& dx, tensor_view<T> const& dshift) const {
        extent_t const n = x.extent(3);
        bool const shifts = dshift.data_handle() != nullptr;
        if (shifts) { each_row(dshift.shape(), [&](extent_t b, extent_t h, extent_t i) { for (extent_t c = 0; c < dshift.extent(3); ++c) { dshift(b, h, i, c) = T(0); } }); }
        each_row(x.shape(), [&](extent_t b, extent_t h, extent_t i) {
            T sum(0);
            extent_t top = -1;
            for (extent_t c = 0; P::simplex && c < n; ++c) {
                if (u(b, h, i, c) == -math::inf<T>()) { continue; }
                sum += du(b, h, i, c);
                if (top < 0 && u(b, h, i, c) == T(0)) { top = c; }
            }
            for (extent_t c = 0; c < n; ++c) {
                T const own = P::simplex && u(b, h, i, c) == -math::inf<T>() ? T(0) : du(b, h, i, c), dw = c == top ? own - sum : own;
                if (dx.data_handle() != nullptr) { dx(b, h, i, c) = dw * p.slope(x(b, h, i, c)); }
                if (shifts) { dshift(0, dshift.extent(1) == 1 ? 0 : h, 0, dshift.extent(3) == 1 ? 0 : c) -= dw; }
            }
        });
    }
};

template <class A, class P, class T, class... More>
void check_valuation(P const& p, tensor_view<T const> const& x, More const&... more) {
    using door = detail::door<A>;
    argument const list[] = {argument::of("x", x), more...};
    int const count = 1 + static_cast<int>(sizeof...(more));
    door::check_axes(list, count, pairwise_rules, 0);
    for (int i = 1; i < count; ++i) { door::check_same(list[i], list[0]); }
    door::check_outputs(list, count);
    if (p.shift.data_handle() != nullptr) {
        door::check_view("shift", p.shift.shape(), {1, x.extent(1), 1, x.extent(3)}, false);
        for (auto const& a : list) {
            if (a.written) { door::check_apart(a, argument::of("shift", p.shift)); }
        }
    }
}

} // namespace detail

// x, u: (B, H, N, D), float or double, any strides. The simplex is that of a row of the view.
template <class A = native_arch, class P, class X, class U>
void valuate(P const& valuation, X const& x_in, U&& u_in) {
    auto const u = as_view(u_in);
    using T = typename decltype(u)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: valuate writes float or double, to a view that is not of const");
    tensor_view<T const> const x = as_view(x_in);
    detail::check_valuation<A>(valuation, x, detail::argument::of("u", u));
    detail::valuated_rows<A, P, T>{valuation}.forward(x, u);
}
// u is what valuate wrote; dx (or a null view) and dshift (in the shape of the shift, or null) are written.
template <class A = native_arch, class P, class X, class U, class DU, class T>
void valuate_backward(P const& valuation, X const& x_in, U const& u_in, DU const& du_in, tensor_view<T> dx, tensor_view<T> dshift = {}) {
    tensor_view<T const> const x = as_view(x_in), u = as_view(u_in), du = as_view(du_in);
    auto const as_x = [&](char const* name, auto const& v) {
        return v.data_handle() == nullptr ? detail::argument{name, x.shape(), x.strides(), reinterpret_cast<std::uintptr_t>(x.data_handle()), sizeof(T), x.offsets(), false}
                                          : detail::argument::of(name, v);
    };
    detail::check_valuation<A>(valuation, x, detail::argument::of("u", u), detail::argument::of("du", du), as_x("dx", dx));
    if (dshift.data_handle() != nullptr) {
        detail::check_valuation<A>(valuation, tensor_view<T const>(dshift.data_handle(), dshift.shape(), dshift.strides()));
        detail::argument const have = detail::argument::of("dshift", dshift), want = {"the shift", valuation.shift.shape(), {}, 1, sizeof(T), {}, false};
        detail::door<A>::check_same(have, want);
    }
    detail::valuated_rows<A, P, T>{valuation}.backward(x, u, du, dx, dshift);
}

} // namespace heed
