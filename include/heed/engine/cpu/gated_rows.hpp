// SPDX-License-Identifier: BSD-3-Clause
// Rows of partial attentions under weights of their own, which need not sum to 1 (gates of native sparse attention, weights of retrieved chunks):
//
//   sum       out_i (+)= g_i part_i
//   gradient  dy_i = g_i dout_i, dg_i (+)= dout_i . part_i          heads that share a gate add up, from the first to the last
//   spread    dk_j += dmean_c / (keys of block c)                   the adjoint of block_means
//
// Items are heads of gates, or of keys: no result depends on threads.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/kernel/half.hpp>
#include <heed/kernel/row_ops.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

template <class T, class A>
struct gated_rows {
    using V = vec<T, A>;

    // gate {B, S, N, 1}; part, out {B, H, N, dv}, H a multiple of S.
    template <class Executor>
    static void sum(tensor_view<T const> const& gate, tensor_view<T const> const& part, tensor_view<T> const& out, bool first, Executor& executor, int slots) {
        for_heads(gate, out, executor, slots, [&](extent_t b, extent_t h, extent_t i, T g) {
            each(out.extent(3), out.stride(3) == 1 && part.stride(3) == 1, [&](auto lanes, extent_t e) HEED_INLINE_LAMBDA {
                using X = decltype(lanes);
                T* const to = &out(b, h, i, e);
                X const x = load<X>(&part(b, h, i, e)) * X(g);
                put(first ? x : load<X>(to) + x, to);
            });
        });
    }
    template <class Executor>
    static void gradient(tensor_view<T const> const& gate, tensor_view<T const> const& part, tensor_view<T const> const& dout, tensor_view<T> const& dy, tensor_view<T> const& dgate,
                         Executor& executor, int slots) {
        extent_t const group = gate.extent(1) > 0 ? dout.extent(1) / gate.extent(1) : 1;
        for_heads(gate, dy, executor, slots, [&](extent_t b, extent_t h, extent_t i, T g) {
            T dot(0);
            for (extent_t e = 0; e < dy.extent(3); ++e) { dot += dout(b, h, i, e) * part(b, h, i, e); }
            each(dy.extent(3), dy.stride(3) == 1 && dout.stride(3) == 1, [&](auto lanes, extent_t e) HEED_INLINE_LAMBDA {
                using X = decltype(lanes);
                put(load<X>(&dout(b, h, i, e)) * X(g), &dy(b, h, i, e));
            });
            if (dgate.data_handle() != nullptr) {
                T& to = dgate(b, h / group, i, 0);
                to = h % group == 0 ? dot : to + dot;
            }
        });
    }
    // dk += the share of each key in the gradient of its block's mean
    template <class Executor>
    static void spread(tensor_view<T const> const& dmeans, extent_t block, tensor_view<T> const& dk, Executor& executor, int slots) {
        detail::for_each_item<A>(executor, slots, dk.extent(0) * dk.extent(1), [&](extent_t item, int) noexcept {
            extent_t const b = item / dk.extent(1), h = item % dk.extent(1), keys = dk.length(b);
            for (extent_t j = 0; j < keys; ++j) {
                extent_t const c = j / block, count = (c + 1) * block <= keys ? block : keys - c * block;
                T const share = T(1) / static_cast<T>(count);
                each(dk.extent(3), dk.stride(3) == 1 && dmeans.stride(3) == 1, [&](auto lanes, extent_t e) HEED_INLINE_LAMBDA {
                    using X = decltype(lanes);
                    T* const to = &dk(b, h, j, e);
                    put(load<X>(to) + load<X>(&dmeans(b, h, c, e)) * X(share), to);
                });
            }
        });
    }
    template <class Executor>
    static void add(tensor_view<T const> const& from, tensor_view<T> const& to, Executor& executor, int slots) {
        detail::for_each_item<A>(executor, slots, to.extent(0) * to.extent(1), [&](extent_t item, int) noexcept {
            extent_t const b = item / to.extent(1), h = item % to.extent(1);
            for (extent_t i = 0; i < to.length(b); ++i) {
                each(to.extent(3), to.stride(3) == 1 && from.stride(3) == 1, [&](auto lanes, extent_t e) HEED_INLINE_LAMBDA {
                    using X = decltype(lanes);
                    put(load<X>(&to(b, h, i, e)) + load<X>(&from(b, h, i, e)), &to(b, h, i, e));
                });
            }
        });
    }

private:
    template <class X>
    HEED_INLINE static X load(T const* p) {
        if constexpr (std::is_same_v<X, T>) { return *p; } else { return X::load(p); }
    }
    HEED_INLINE static void put(T x, T* p) { *p = x; }
    HEED_INLINE static void put(V x, T* p) { x.store(p); }
    // f(V or T, first feature): whole vectors where features lie side by side, then one by one.
    template <class F>
    HEED_INLINE static void each(extent_t n, bool side_by_side, F const& f) {
        extent_t e = 0;
        for (; side_by_side && e + V::lanes <= n; e += V::lanes) { f(V(0), e); }
        for (; e < n; ++e) { f(T(0), e); }
    }
    template <class Executor, class F>
    static void for_heads(tensor_view<T const> const& gate, tensor_view<T> const& rows, Executor& executor, int slots, F const& f) {
        extent_t const heads = gate.extent(1), group = heads > 0 ? rows.extent(1) / heads : 1;
        detail::for_each_item<A>(executor, slots, rows.extent(0) * heads, [&](extent_t item, int) noexcept {
            extent_t const b = item / heads, s = item % heads;
            for (extent_t g = 0; g < group; ++g) {
                for (extent_t i = 0; i < rows.length(b); ++i) { f(b, s * group + g, i, gate(b, s, i, 0)); }
            }
        });
    }
};

} // namespace heed
