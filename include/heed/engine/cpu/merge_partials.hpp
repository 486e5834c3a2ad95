// SPDX-License-Identifier: BSD-3-Clause
// Partial results of one set of queries over different keys, joined: out = sum_s w_s out_s, the weights from the normalizer's monoid.
//
//   state = start + resume(lse_0) + resume(lse_1) + ...   from left to right; each step gives the factor of what came before and of what comes
//   w_s   = factor of part s times the later factors of what came before, times close(state)
//
// Backward, where the weights of a row share one sum (softmax and its kin, w_s = e^{lse_s - lse}):
//   d out_s = w_s d out        d lse_s = w_s ( d out . (out_s - out) + d lse )
// and where they share nothing (w_s = 1): d out_s = d out. A sink is a part without values: d sink = sum over rows of w_0 (d lse - d out . out).
// Vectors along features. A part that saw no key (log-sum-exp -inf) is never read.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/kernel/math.hpp>
#include <heed/kernel/row_reduce.hpp>
#include <heed/kernel/row_sums.hpp>
#include <heed/policy/concepts.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// What one part is: rows of values and the log-sum-exp of each row, {B, H, N, 1} (null where the normalizer keeps nothing).
// unit: what the saved number is multiplied by to be in the normalizer's units.
template <class T>
struct part_rows {
    tensor_view<T> out, lse;
    double unit = 1;
};

template <class N, class T, class A>
struct merge_partials {
    static constexpr int group = 128; // parts whose weights are held at once
    static constexpr extent_t rows_of_item = 32;
    static constexpr bool keeps = N::kept != 0;

    // part(s) is a part_rows<T const>, count of them; into: result. Null lse of `into` is not written.
    template <class Parts, class E>
    static void run(N const& normalizer, Parts const& part, extent_t count, part_rows<T> const& into, E& executor, int slots) {
        each_row(into.out, executor, slots, [&](place const& at, extent_t i) { merge_row(normalizer, part, count, into, at, i); });
    }
    // merged: the result of run; d: gradients of it (null lse: none); d_part(s): part_rows<T>, written.
    template <class Parts, class Gradients, class E>
    static void run_backward(N const& normalizer, Parts const& part, extent_t count, part_rows<T const> const& merged, part_rows<T const> const& d,
                             Gradients const& d_part, E& executor, int slots) {
        each_row(merged.out, executor, slots, [&](place const& at, extent_t i) { split_row(normalizer, part, count, merged, d, d_part, at, i); });
    }
    // Gradient of the normalizer's own numbers, d_own: {1, H, 1, 1}, or one number for all heads; summed row by row, whoever runs it.
    template <class U, class E>
    static void run_parameter(N const& normalizer, part_rows<T const> const& merged, part_rows<T const> const& d, tensor_view<U> const& d_own, E& executor, int slots) {
        extent_t const own = d_own.extent(1), each = own == 1 ? merged.out.extent(1) : 1;
        detail::for_each_item<A>(executor, slots, own, [&](extent_t g, int) noexcept {
            R sum(0);
            for (extent_t b = 0; b < merged.out.extent(0); ++b) {
                for (extent_t h = g; h < g + each; ++h) {
                    place const at{b, h, h, merged.out.length(b), 0, 0};
                    for (extent_t i = 0; i < at.queries; ++i) {
                        row_pull const pull = pull_of(merged, d, at, i);
                        if (!pull.empty) { sum += normalizer.row_parameter(at, normalizer.template resume<R>(at, pull.total), pull.centre - pull.dlse); }
                    }
                }
            }
            d_own(0, g, 0, 0) = static_cast<U>(sum);
        });
    }

private:
    // States and weights in double, whatever T: a few numbers a row, and a log-sum-exp keeps its bits on the way through other units.
    using R = double;
    using row_type = typename N::template row<R>;

    template <class U, class E, class F>
    static void each_row(tensor_view<U> const& out, E& executor, int slots, F const& f) {
        extent_t const heads = out.extent(1), blocks = (out.extent(2) + rows_of_item - 1) / rows_of_item;
        detail::for_each_item<A>(executor, slots, out.extent(0) * heads * blocks, [&](extent_t item, int) noexcept {
            extent_t const b = item / blocks / heads, h = item / blocks % heads, begin = item % blocks * rows_of_item;
            place const at{b, h, h, out.length(b), 0, 0};
            for (extent_t i = begin; i < begin + rows_of_item && i < at.queries; ++i) { f(at, i); }
        });
    }

    template <class U>
    static R kept_number(part_rows<U> const& p, place const& at, extent_t i) {
        if constexpr (keeps) {
            return static_cast<R>(p.lse(at.batch, at.head, i, 0)) * p.unit;
        } else {
            return R(0);
        }
    }

    template <class Parts>
    static void merge_row(N const& normalizer, Parts const& part, extent_t count, part_rows<T> const& into, place const& at, extent_t i) {
        extent_t const width = into.out.extent(3), step = into.out.stride(3);
        T* const out = into.out.row(at.batch, at.head, i);
        if constexpr (detail::is_idempotent<N>) { // the ring itself joins: any order, any split, the same bits
            for (extent_t e = 0; e < width; ++e) {
                T best = N::ring::template zero<T>();
                for (extent_t s = 0; s < count; ++s) { best = N::ring::reduce(best, part(s).out(at.batch, at.head, i, e)); }
                out[e * step] = best;
            }
        } else {
            merge_weighted(normalizer, part, count, into, at, i, width, step, out);
        }
    }
    template <class Parts>
    static void merge_weighted(N const& normalizer, Parts const& part, extent_t count, part_rows<T> const& into, place const& at, extent_t i, extent_t width, extent_t step, T* out) {
        row_type state = normalizer.template start<R>(at);
        R factor[group], weight[group]; // of what came before, of the part
        weighted_row<T> row[group] = {};
        bool first = true;
        extent_t s = 0;
        do {
            int n = 0;
            for (; s < count && n < group; ++s) {
                part_rows<T const> const p = part(s);
                R const lse = kept_number(p, at, i);
                if (keeps && lse == -math::inf<R>()) { continue; }
                state = normalizer.merge(state, normalizer.template resume<R>(at, lse), factor[n], weight[n]);
                row[n++] = {p.out.row(at.batch, at.head, i), p.out.stride(3), T(0)};
            }
            bool const last = s >= count;
            R later = last ? normalizer.close(state) : R(1);
            for (int k = n - 1; k >= 0; --k) {
                row[k].weight = static_cast<T>(weight[k] * later);
                later = later * factor[k];
            }
            T const keep = static_cast<T>(later);
            row_sums<T, A>::combine(row, n, out, step, width, first ? nullptr : &keep);
            first = false;
        } while (s < count);
        if constexpr (keeps) {
            if (into.lse.data_handle() != nullptr) {
                into.lse(at.batch, at.head, i, 0) = static_cast<T>(normalizer.log_sum_exp(state) / into.unit);
            }
        }
    }

    // What the loss pulls a row by.
    struct row_pull {
        R total; // log-sum-exp, in the normalizer's units
        bool empty;
        R dlse, centre; // in natural units; d out . out
    };
    static constexpr double natural = 1.0 / N::unit; // d lse is in the saved unit of `d`; natural units times `unit` are the normalizer's
    static row_pull pull_of(part_rows<T const> const& merged, part_rows<T const> const& d, place const& at, extent_t i) {
        R const total = kept_number(merged, at, i);
        bool const empty = keeps && total == -math::inf<R>();
        R const dlse = keeps && d.lse.data_handle() != nullptr ? static_cast<R>(d.lse(at.batch, at.head, i, 0)) / (d.unit * natural) : R(0);
        auto const product = [&] { return row_dot<A>(d.out.row(at.batch, at.head, i), d.out.stride(3), merged.out.row(at.batch, at.head, i), merged.out.stride(3), merged.out.extent(3)); };
        return {total, empty, dlse, empty ? R(0) : static_cast<R>(product())};
    }
    template <class Parts, class Gradients>
    static void split_row(N const& normalizer, Parts const& part, extent_t count, part_rows<T const> const& merged, part_rows<T const> const& d, Gradients const& d_part,
                          place const& at, extent_t i) {
        using sums = row_sums<T, A>;
        extent_t const width = merged.out.extent(3);
        T const* const dout = d.out.row(at.batch, at.head, i);
        auto const [total, empty, dlse, centre_of_row] = pull_of(merged, d, at, i);
        for (extent_t s = 0; s < count; ++s) {
            part_rows<T const> const p = part(s);
            part_rows<T> const to = d_part(s);
            R const lse = kept_number(p, at, i);
            bool const none = empty || (keeps && lse == -math::inf<R>());
            R weight(1);
            if constexpr (N::centred == centre::output) { weight = none ? R(0) : normalizer.weight(normalizer.template resume<R>(at, total), lse); }
            weighted_row<T> const one{dout, d.out.stride(3), static_cast<T>(weight)};
            sums::combine(&one, none ? 0 : 1, to.out.row(at.batch, at.head, i), to.out.stride(3), width);
            if constexpr (keeps) {
                if (to.lse.data_handle() == nullptr) { continue; }
                R const reach = none ? R(0) : static_cast<R>(row_dot<A>(dout, d.out.stride(3), p.out.row(at.batch, at.head, i), p.out.stride(3), width)) - centre_of_row + dlse;
                to.lse(at.batch, at.head, i, 0) = none ? T(0) : static_cast<T>(weight * reach * (to.unit * natural));
            }
        }
    }
};

} // namespace heed
