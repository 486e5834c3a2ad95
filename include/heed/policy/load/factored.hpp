// SPDX-License-Identifier: BSD-3-Clause
// factored: q, k or v as a sum of outer products over heads and features, never written out:
//
//   x[b, h, n, :] = 1/R sum_r a[b, h, n, r] b[b, r, n, :]                           tensor-product attention, Zhang et al., arXiv:2501.06425, section 3
//
//   a (B|1, H, N|1, R)   b (B|1, R|1, N|1, d); extents of 1 stand for all: a constant A is {1, H, 1, R}, a constant B {1, R, 1, d}. `factor` replaces
// 1/R where it is not 0: other published kernels leave the factor of k and v at 1. `then` is a rotary of the rows made: it acts on features only, so that
// it is the rotary of b's rows (the convention of its pairs, its base and its sign are its type and members).
//
// An operand of heed::forward and heed::backward where a tensor may stand, and the loader that makes its rows when a tile is packed: memory
// N R (H + d) instead of N H d. A row costs R d multiply-adds each time that a walk passes: R in (d + dv) N M / (queries of a walk) of a call.
// Laws: R = H, a = H times the unit vectors: multi-head attention; R = 1, a = 1: multi-query; R = G, a_g = G on the heads of group g: grouped.
#pragma once

#include <heed/kernel/factor_rows.hpp>
#include <heed/policy/load/load.hpp>

namespace heed {

template <class T, class Then = plain>
struct factored {
    using element_type = T;
    static constexpr bool makes_rows = true; // the view that it is given has a shape and no memory

    tensor_view<T const> a, b;
    Then then = {};
    double factor = 0;

    HEED_HD constexpr extent_t rank() const { return a.extent(3); }
    HEED_HD constexpr double weight() const { return factor != 0 ? factor : rank() > 0 ? 1.0 / static_cast<double>(rank()) : 0.0; }
    HEED_HD constexpr bool is_ragged() const { return a.is_ragged() || b.is_ragged(); }
    // What it stands for.
    HEED_HD constexpr heed::shape shape() const {
        return {a.extent(0) == 1 && !a.is_ragged() ? b.extent(0) : a.extent(0), a.extent(1), shared_rows(a) ? b.extent(2) : a.extent(2), b.extent(3)};
    }
    HEED_HD constexpr tensor_view<T const> rows_view() const { return {nullptr, shape(), heed::strides{}, a.is_ragged() ? a.offsets() : b.offsets()}; }

    // Index n of sequence b in a view whose extents of 1 stand for all.
    HEED_HD static constexpr bool shared_rows(tensor_view<T const> const& x) { return x.extent(2) == 1 && !x.is_ragged(); }
    HEED_HD static T const* entry(tensor_view<T const> const& x, extent_t batch, extent_t head, extent_t n) {
        return x.row(x.extent(0) == 1 && !x.is_ragged() ? 0 : batch, x.extent(1) == 1 ? 0 : head, shared_rows(x) ? 0 : n);
    }
    HEED_HD extent_t rank_stride() const { return b.extent(1) == 1 ? 0 : b.stride(1); }

    template <class A, class S>
    void rows(operand const& of, range which, tensor_view<S const> const&, compute_t<S>* dst, extent_t stride) const {
        static_assert(std::is_same_v<S, T>, "heed: factors have the element type of the tensors of their call");
        using C = compute_t<T>;
        constexpr extent_t chunk = 64; // of the rank
        C const by = static_cast<C>(weight());
        C w[chunk];
        extent_t const width = b.extent(3), step = a.stride(3);
        for (extent_t n = which.begin; n < which.end; ++n) {
            C* const out = dst + (n - which.begin) * stride;
            T const *const an = entry(a, of.at.batch, of.head, n), *const bn = entry(b, of.at.batch, 0, n);
            extent_t const count = rank() < chunk ? rank() : chunk;
            for (extent_t r = 0; r < count; ++r) { w[r] = static_cast<C>(an[r * step]) * by; }
            factor_rows<T, A>::combine(bn, rank_stride(), b.stride(3), w, count, width, out);
            for (extent_t r = chunk; r < rank(); ++r) { // the rest one by one
                C const one = static_cast<C>(an[r * step]) * by;
                T const* const row = bn + r * rank_stride();
                for (extent_t e = 0; e < width; ++e) { out[e] += one * static_cast<C>(row[e * b.stride(3)]); }
            }
        }
        if constexpr (!is_plain<Then>) {
            then.template turn_rows<A, C>(of, which, width, 1, 1, 1.0, [&](extent_t, extent_t n) { return dst + (n - which.begin) * stride; });
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, extent_t rows, F&& f) const {
        f("the factor a", a, heed::shape{n.batch, a.extent(1), rows, a.extent(3)});
        f("the factor b", b, heed::shape{n.batch, rank(), rows, b.extent(3)});
        if constexpr (requires { then.views(n, rows, f); }) { then.views(n, rows, f); }
    }
};
template <class T, class U>
factored(tensor_view<T>, tensor_view<U>) -> factored<std::remove_const_t<T>>;
template <class T, class U, class Then>
factored(tensor_view<T>, tensor_view<U>, Then) -> factored<std::remove_const_t<T>, Then>;
template <class T, class U, class Then>
factored(tensor_view<T>, tensor_view<U>, Then, double) -> factored<std::remove_const_t<T>, Then>;

namespace detail {
template <class X>
inline constexpr bool is_factored = false;
template <class T, class Then>
inline constexpr bool is_factored<factored<T, Then>> = true;
} // namespace detail

} // namespace heed
