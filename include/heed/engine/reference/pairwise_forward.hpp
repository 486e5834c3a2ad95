// SPDX-License-Identifier: BSD-3-Clause
// The scalar engine: every pair by itself, in the order of the definition, for any pairwise mechanism. For users who debug; not the tests' oracle.
#pragma once

#include <heed/engine/problem.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/kernel/tile_config.hpp>
#include <heed/policy/score/bias.hpp>

#include <limits>

namespace heed {

namespace detail {

template <class T>
struct scalar_pair {
    place const& at;
    extent_t i, j;
    extent_t distance() const { return i + at.shift() - j; }
    template <class View>
    T load(View const& view) const {
        return static_cast<T>(table_element(view, at, i, j));
    }
    template <int>
    scalar_pair const& after() const {
        return *this;
    }
};

// A row's scores, made anew for every fold.
template <class F>
struct scalar_scores {
    F const& score;
    extent_t keys;
    template <class X>
    X fold(X x) const {
        for (extent_t j = 0; j < keys; ++j) { x.add(score(j)); }
        return x;
    }
};

} // namespace detail

template <class M, class E, class A>
struct reference_pairwise_forward {
    using T = compute_t<E>; // E is the type of elements, T that of everything inside
    static constexpr std::string_view name = "reference.pairwise.forward";

    // One row of q, k, v and out.
    struct slot {
        T *q, *k, *v, *o;
        slot(arena& a, extent_t d, extent_t dv) : q(a.template take<T>(d)), k(a.template take<T>(d)), v(a.template take<T>(dv)), o(a.template take<T>(dv)) {}
    };
    static std::size_t slot_bytes(shape q, shape v) {
        arena count(nullptr);
        slot(count, q.feature, v.feature);
        return count.bytes();
    }

    static void run(M const& m, pairwise_problem<E> const& x, std::byte* workspace) {
        arena memory(aligned(workspace));
        slot const mine(memory, x.q.extent(3), x.v.extent(3));
        for (extent_t b = 0; b < x.q.extent(0); ++b) {
            for (extent_t h = 0; h < x.q.extent(1); ++h) {
                place const at = x.at(b, h);
                for (extent_t i = 0; i < at.queries; ++i) { row(m, x, at, i, mine); }
            }
        }
    }

private:
    using normalizer_type = decltype(M::normalizer);
    using ring = typename decltype(M::score)::contraction;

    // A row as its loader produces it.
    template <class L>
    static void fetch(L const& loader, operand const& of, tensor_view<E const> const& x, extent_t r, T* dst) {
        extent_t const width = x.extent(3);
        if constexpr (is_plain<L>) {
            for (extent_t c = 0; c < width; ++c) { dst[c] = static_cast<T>(x(of.at.batch, of.head, r, c)); }
        } else {
            loader.template rows<A>(of, range{r, r + 1}, x, dst, width);
        }
    }
    // -inf is masked: the pattern leaves the pair out, or a table of the score does.
    static T score(M const& m, pairwise_problem<E> const& x, place const& at, extent_t i, extent_t j, slot const& mine) {
        bool kept = m.pattern.keep(at, i, j);
        detail::for_each_table(m.score, [&](int, auto const& table) { kept = kept && static_cast<T>(detail::table_element(table, at, i, j)) != -math::inf<T>(); });
        if (!kept) { return -math::inf<T>(); }
        fetch(m.load.k, operand::of_key(at), x.k, j, mine.k);
        ring const of = detail::contraction_of(m.score);
        auto sum = ring::template zero<T>();
        bool odd = false;
        for (extent_t c = 0; c < at.width; ++c) {
            odd = odd || mine.k[c] != mine.k[c] || mine.q[c] != mine.q[c];
            if constexpr (detail::has_operand<ring>) {
                sum = of.step(sum, mine.k[c], mine.q[c], static_cast<T>(detail::head_of(m.score).operand(at, c)));
            } else {
                sum = of.step(sum, mine.k[c], mine.q[c]);
            }
        }
        T raw = detail::finish_sum<ring, T>(of, sum, at.width);
        if (detail::skips_nan<ring> && odd) { raw = std::numeric_limits<T>::quiet_NaN(); }
        return m.score(raw, detail::scalar_pair<T>{at, i, j}) * static_cast<T>(normalizer_type::unit);
    }
    static T gather(T before, T factor, T value, T weight) {
        using mix = decltype(M::mix);
        if constexpr (requires { mix::join(before, factor, mix::combine(value, weight)); }) {
            return mix::join(before, factor, mix::combine(value, weight));
        } else {
            return mix::step(before * factor, value, weight);
        }
    }
    template <class State>
    static T written(normalizer_type const& n, State const& state, T gathered, T last) {
        if constexpr (requires { n.finish(state, gathered); }) {
            return n.finish(state, gathered);
        } else {
            return gathered * last;
        }
    }
    static void row(M const& m, pairwise_problem<E> const& x, place const& at, extent_t i, slot const& mine) {
        extent_t const dv = x.v.extent(3);
        auto state = m.normalizer.template start<T>(at);
        fetch(m.load.q, operand::of_query(at), x.q, i, mine.q);
        for (extent_t e = 0; e < dv; ++e) { mine.o[e] = decltype(M::mix)::template zero<T>(); }
        if constexpr (RowWiseNormalizer<normalizer_type, T>) {
            auto const score_of = [&](extent_t j) { return score(m, x, at, i, j, mine); };
            m.normalizer.solve(state, detail::scalar_scores<decltype(score_of)>{score_of, at.keys});
        }
        for (extent_t j = 0; j < at.keys; ++j) {
            T const s = score(m, x, at, i, j, mine);
            if (s == -math::inf<T>()) { continue; }
            fetch(m.load.v, operand::of_key(at), x.v, j, mine.v);
            T const factor = m.normalizer.raise(state, s), p = m.normalizer.weight(state, s);
            if constexpr (requires { m.normalizer.tally(p, p); }) {
                m.normalizer.settle(state, m.normalizer.tally(T(0), p));
            } else if constexpr (CountingNormalizer<normalizer_type, T>) {
                m.normalizer.settle(state, p, T(1));
            } else {
                m.normalizer.settle(state, p);
            }
            for (extent_t e = 0; e < dv; ++e) { mine.o[e] = gather(mine.o[e], factor, mine.v[e], p); }
        }
        T const last = m.normalizer.close(state);
        for (extent_t e = 0; e < dv; ++e) { x.out(at.batch, at.head, i, e) = static_cast<E>(written(m.normalizer, state, mine.o[e], last)); }
        if (x.lse.data_handle() != nullptr) {
            constexpr int kept = detail::kept_of<normalizer_type>();
            if constexpr (kept > 0) {
                T value[kept];
                detail::saved_numbers(m.normalizer, state, value);
                for (int c = 0; c < kept; ++c) { x.lse(at.batch, at.head, i, c) = static_cast<T>(static_cast<double>(value[c]) * x.lse_unit); }
            }
        }
    }
};

} // namespace heed
