// SPDX-License-Identifier: BSD-3-Clause
// The rows of a mixture on the CPU, forward and backward, once its attentions are computed: everything here is linear in N and M. Features lie along
// the lanes. Forward has one item per head, backward one per key head, which alone writes the gradients of its values: no result depends on threads.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/family/mixture.hpp>
#include <heed/kernel/half.hpp>
#include <heed/kernel/row_ops.hpp>

namespace heed {

// What a call gives to the rows of a mixture; T is the type of elements.
template <class T, int Attentions>
struct mixture_problem {
    tensor_view<T const> q, k, v; // q and k by their shapes
    tensor_view<T> out;
    tensor_view<T> term[Attentions == 0 ? 1 : Attentions]; // outputs of the attentions

    HEED_HD place at(extent_t b, extent_t h) const { return {b, h, k.extent(1) > 0 ? h / (q.extent(1) / k.extent(1)) : 0, q.length(b), k.length(b), q.extent(3)}; }
};

namespace detail {

// Sums of runs of rows whose ends do not fall. A row that leaves is subtracted; the sum starts anew every 128 such rows, so that rounding does not pile
// up, and wherever it is not finite, so that what is not finite reaches only the runs that hold it.
template <class T, class A>
struct running_sum {
    using ops = row_ops<T, A>;
    T *sum, *row;
    extent_t width; // padded
    range run = {0, 0};
    int left = 0;
    bool finite = true;

    // read(j, row) puts row j into `row`
    template <class Read>
    void move(range to, Read const& read) {
        auto const add = [&](extent_t j, T c) {
            read(j, row);
            ops::add(row, c, sum, width);
        };
        bool const apart = to.begin >= run.end || left >= 128;
        if (to.size() == 0 || apart || !finite) {
            ops::clear(sum, width);
            run = {to.begin, to.begin};
            left = 0;
        }
        for (extent_t j = run.begin; j < to.begin; ++j, ++left) { add(j, T(-1)); }
        for (extent_t j = run.end; j < to.end; ++j) { add(j, T(1)); }
        run = {to.begin, to.end > to.begin ? to.end : to.begin};
        finite = ops::finite(sum, width);
    }
};

} // namespace detail

template <class M, class E, class A>
struct mixture_rows {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using ops = row_ops<T, A>;
    static constexpr int lanes = V::lanes, attentions = detail::attentions_of<M>;
    using problem = mixture_problem<E, attentions>;

    // One thread's rows.
    struct slot {
        T *y, *x, *extra, *sums, *row;
        slot(arena& a, extent_t dv) {
            extent_t const n = ops::padded(dv);
            y = a.template take<T>(n);
            x = a.template take<T>(n);
            extra = a.template take<T>(n);
            sums = a.template take<T>(detail::terms_of<M> * n);
            row = a.template take<T>(n);
        }
    };
    static std::size_t slot_bytes(extent_t dv) {
        arena count(nullptr);
        slot(count, dv);
        return count.bytes();
    }

    template <class Executor>
    static void forward(M const& m, problem const& x, Executor& executor, int slots, std::byte* workspace) {
        extent_t const heads = x.q.extent(1);
        for_slots(x, executor, slots, x.q.extent(0) * heads, workspace, [&](extent_t item, slot const& mine) { forward_head(m, x, x.at(item / heads, item % heads), mine); });
    }

    // dy = coefficient of term N times dout
    template <int N, class Executor>
    static void weigh_gradient(M const& m, problem const& x, tensor_view<E const> const& dout, tensor_view<E> const& dy, Executor& executor, int slots, std::byte* workspace) {
        extent_t const heads = x.q.extent(1), dv = x.v.extent(3);
        for_slots(x, executor, slots, x.q.extent(0) * heads, workspace, [&](extent_t item, slot const& mine) {
            place const at = x.at(item / heads, item % heads);
            detail::for_each_term(m, [&](auto const& term, auto number, auto) {
                if constexpr (number == N) {
                    for (extent_t i = 0; i < at.queries; ++i) {
                        ops::read(dout.row(at.batch, at.head, i), dout.stride(3), dv, mine.x);
                        weigh_row(term.coefficient, at, i, dv, mine.x);
                        ops::write(mine.x, dy.row(at.batch, at.head, i), dy.stride(3), dv);
                    }
                }
            });
        });
    }

    // to += from
    template <class Executor>
    static void add(tensor_view<E> const& from, tensor_view<E> const& to, Executor& executor, int slots) {
        detail::for_each_item<A>(executor, slots, from.extent(0) * from.extent(1), [&](extent_t item, int) noexcept {
            extent_t const b = item / from.extent(1), h = item % from.extent(1);
            for (extent_t n = 0; n < from.length(b); ++n) {
                for (extent_t e = 0; e < from.extent(3); ++e) { to(b, h, n, e) += from(b, h, n, e); }
            }
        });
    }

    // Gradients of the coefficients' data (null: not wanted), and of v through the terms that are no attention, added to dv (null: not wanted).
    // partials: one number per term, batch entry and head.
    template <class Executor>
    static void backward(M const& m, problem const& x, tensor_view<E const> const& dout, tensor_view<E> const& dv, tensor_view<E> const* wanted, T* partials, Executor& executor,
                         int slots, std::byte* workspace) {
        extent_t const heads = x.k.extent(1), group = heads > 0 ? x.q.extent(1) / heads : 0;
        for_slots(x, executor, slots, x.q.extent(0) * heads, workspace, [&](extent_t item, slot const& mine) {
            for (extent_t g = 0; g < group; ++g) { backward_head(m, x, dout, dv, wanted, partials, x.at(item / heads, item % heads * group + g), mine); }
        });
        detail::for_each_term(m, [&](auto const& term, auto number, auto) { reduce(term.coefficient, x, wanted[number], partials + number * x.q.extent(0) * x.q.extent(1)); });
    }

private:
    // Some consecutive features of a row, as coefficients see them.
    struct entry {
        place const& at;
        extent_t i, e, count; // row; first feature, and how many of the lanes are features
        template <class U, class D>
        U load(tensor_view<D> const& view) const {
            D* const p = view.row(view.extent(0) == 1 ? 0 : at.batch, view.extent(1) == 1 ? 0 : at.head, view.extent(2) == 1 ? 0 : i);
            if (view.extent(3) == 1) { return U(static_cast<T>(*p)); }
            T lane[lanes] = {};
            for (extent_t l = 0; l < count; ++l) { lane[l] = static_cast<T>(p[(e + l) * view.stride(3)]); }
            return U::load(lane);
        }
    };
    template <class F>
    static void for_entries(place const& at, extent_t i, extent_t dv, F const& f) {
        for (extent_t e = 0; e < dv; e += lanes) { f(entry{at, i, e, dv - e < lanes ? dv - e : extent_t(lanes)}); }
    }
    template <class C>
    static void weigh_row(C const& c, place const& at, extent_t i, extent_t dv, T* x) {
        for_entries(at, i, dv, [&](entry const& n) { (c.template value<V>(n) * V::load(x + n.e)).store(x + n.e); });
    }
    template <class Executor, class Body>
    static void for_slots(problem const& x, Executor& executor, int slots, extent_t items, std::byte* workspace, Body const& body) {
        std::size_t const bytes = slot_bytes(x.v.extent(3));
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots, items, [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot const mine(memory, x.v.extent(3));
            body(item, mine);
        });
    }
    static auto reader(tensor_view<E const> const& v, place const& at) {
        return [&](extent_t j, T* to) { ops::read(v.row(at.batch, at.kv_head, j), v.stride(3), v.extent(3), to); };
    }

    // Row i of a source into `to`; sum: the running sum of this term.
    template <class S, class Sum>
    static void source_row(S const& source, int before, problem const& x, place const& at, extent_t i, Sum& sum, T* to) {
        extent_t const dv = x.v.extent(3);
        if constexpr (detail::attentions_of<S> != 0) {
            tensor_view<E> const& y = x.term[before];
            ops::read(y.row(at.batch, at.head, i), y.stride(3), dv, to);
        } else if constexpr (requires { source.pattern; }) {
            range const run = detail::hull_of(source.pattern, at, {i, i + 1});
            sum.move(run, reader(x.v, at));
            ops::clear(to, ops::padded(dv));
            if (run.size() > 0) { ops::add(sum.sum, T(1) / static_cast<T>(run.size()), to, ops::padded(dv)); }
        } else {
            extent_t const j = i + at.shift();
            if (j < 0) { return ops::clear(to, ops::padded(dv)); }
            reader(x.v, at)(j, to);
        }
    }
    static detail::running_sum<T, A> sum_of(int term, problem const& x, slot const& mine) {
        extent_t const n = ops::padded(x.v.extent(3));
        return {mine.sums + term * n, mine.row, n};
    }
    template <std::size_t... N>
    static auto sums_of(problem const& x, slot const& mine, std::index_sequence<N...>) {
        struct all {
            detail::running_sum<T, A> term[sizeof...(N)];
        };
        all s{{sum_of(static_cast<int>(N), x, mine)...}};
        for (auto& one : s.term) { ops::clear(one.sum, one.width); }
        return s;
    }

    static void forward_head(M const& m, problem const& x, place const& at, slot const& mine) {
        extent_t const dv = x.v.extent(3);
        auto sums = sums_of(x, mine, std::make_index_sequence<detail::terms_of<M>>{});
        for (extent_t i = 0; i < at.queries; ++i) {
            ops::clear(mine.y, ops::padded(dv));
            detail::for_each_term(m, [&](auto const& term, auto number, auto before) {
                source_row(term.source, before, x, at, i, sums.term[number], mine.x);
                for_entries(at, i, dv, [&](entry const& n) {
                    (V::load(mine.y + n.e) + term.coefficient.template value<V>(n) * V::load(mine.x + n.e)).store(mine.y + n.e);
                });
            });
            ops::write(mine.y, x.out.row(at.batch, at.head, i), x.out.stride(3), dv);
        }
    }

    static T lane_sum(V v) {
        T lane[lanes], sum(0);
        v.store(lane);
        for (T const l : lane) { sum += l; }
        return sum;
    }

    static void backward_head(M const& m, problem const& x, tensor_view<E const> const& dout, tensor_view<E> const& dv, tensor_view<E> const* wanted, T* partials, place const& at,
                              slot const& mine) {
        extent_t const width = x.v.extent(3);
        auto sums = sums_of(x, mine, std::make_index_sequence<detail::terms_of<M>>{});
        detail::for_each_term(m, [&](auto const& term, auto number, auto before) {
            if constexpr (requires { term.coefficient.data(); }) {
                tensor_view<E> const& d = wanted[number];
                if (d.data_handle() == nullptr) { return; }
                T total(0); // of all rows
                for (extent_t i = 0; i < at.queries; ++i) {
                    source_row(term.source, before, x, at, i, sums.term[number], mine.x);
                    ops::read(dout.row(at.batch, at.head, i), dout.stride(3), width, mine.extra);
                    V row(0);
                    for_entries(at, i, width, [&](entry const& n) {
                        V const g = V::load(mine.x + n.e) * V::load(mine.extra + n.e) * term.coefficient.template slope<V>(n);
                        g.store(mine.y + n.e);
                        row = row + g;
                    });
                    if (d.extent(3) > 1) {
                        ops::write(mine.y, d.row(at.batch, at.head, i), d.stride(3), width);
                    } else if (d.extent(2) > 1 || at.queries == 1) {
                        d(d.extent(0) == 1 ? 0 : at.batch, at.head, i, 0) = lane_sum(row);
                        total += lane_sum(row);
                    } else {
                        total += lane_sum(row);
                    }
                }
                partials[(number * x.q.extent(0) + at.batch) * x.q.extent(1) + at.head] = total;
            }
        });
        if (dv.data_handle() == nullptr) { return; }
        detail::for_each_term(m, [&](auto const& term, auto number, auto) {
            if constexpr (detail::attentions_of<std::remove_cvref_t<decltype(term.source)>> == 0) {
                auto const gradient = [&](extent_t i, T* to) {
                    ops::read(dout.row(at.batch, at.head, i), dout.stride(3), width, to);
                    weigh_row(term.coefficient, at, i, width, to);
                };
                auto const give = [&](extent_t j, T const* from) {
                    for (extent_t e = 0; e < width; ++e) { dv(at.batch, at.kv_head, j, e) += static_cast<E>(from[e]); }
                };
                if constexpr (requires { term.source.pattern; }) {
                    auto const run_of = [&](extent_t i) { return detail::hull_of(term.source.pattern, at, {i, i + 1}); };
                    auto const share = [&](extent_t i, T* to) {
                        extent_t const seen = run_of(i).size();
                        if (seen == 0) { return ops::clear(to, ops::padded(width)); }
                        gradient(i, to);
                        ops::scale(to, T(1) / static_cast<T>(seen), ops::padded(width));
                    };
                    detail::running_sum<T, A> sum = sum_of(number, x, mine);
                    ops::clear(sum.sum, sum.width);
                    range rows{0, 0}; // that see key j
                    for (extent_t j = 0; j < at.keys; ++j) {
                        while (rows.end < at.queries && run_of(rows.end).begin <= j) { ++rows.end; }
                        while (rows.begin < rows.end && run_of(rows.begin).end <= j) { ++rows.begin; }
                        sum.move(rows, share);
                        give(j, sum.sum);
                    }
                } else {
                    for (extent_t i = at.shift() < 0 ? -at.shift() : 0; i < at.queries; ++i) {
                        gradient(i, mine.x);
                        give(i + at.shift(), mine.x);
                    }
                }
            }
        });
    }

    // A number per head: the partials of the batch entries, in their order.
    template <class C>
    static void reduce(C const& c, problem const& x, tensor_view<E> const& d, T const* partials) {
        if constexpr (requires { c.data(); }) {
            if (d.data_handle() == nullptr || d.shape().size() == 0 || C::wanted(x.out.shape()).seq != 1) { return; }
            for (extent_t h = 0; h < d.extent(1); ++h) { d(0, h, 0, 0) = E(0); }
            for (extent_t b = 0; b < x.q.extent(0); ++b) {
                for (extent_t h = 0; h < x.q.extent(1); ++h) { d(0, d.extent(1) == 1 ? 0 : h, 0, 0) += static_cast<E>(partials[b * x.q.extent(1) + h]); }
            }
        }
    }
};

} // namespace heed
