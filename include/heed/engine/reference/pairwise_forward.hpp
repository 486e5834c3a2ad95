// SPDX-License-Identifier: BSD-3-Clause
// The scalar engine: every pair by itself, in the order of the definition, for any pairwise mechanism. For users who debug; not the tests' oracle.
#pragma once

#include <heed/engine/problem.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/policy/score/bias.hpp>

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

} // namespace detail

template <class M, class T, class A>
struct reference_pairwise_forward {
    static constexpr std::string_view name = "reference.pairwise.forward";

    static void run(M const& m, pairwise_problem<T> const& x) {
        for (extent_t b = 0; b < x.q.extent(0); ++b) {
            for (extent_t h = 0; h < x.q.extent(1); ++h) {
                place const at = x.at(b, h);
                for (extent_t i = 0; i < at.queries; ++i) { row(m, x, at, i); }
            }
        }
    }

private:
    using normalizer_type = decltype(M::normalizer);
    using ring = typename decltype(M::score)::contraction;

    // -inf is masked: the pattern leaves the pair out, or a table of the score does.
    static T score(M const& m, pairwise_problem<T> const& x, place const& at, extent_t i, extent_t j) {
        bool kept = m.pattern.keep(at, i, j);
        detail::for_each_table(m.score, [&](int, auto const& table) { kept = kept && static_cast<T>(detail::table_element(table, at, i, j)) != -math::inf<T>(); });
        if (!kept) { return -math::inf<T>(); }
        T raw = ring::template zero<T>();
        for (extent_t c = 0; c < at.width; ++c) { raw = ring::step(raw, x.k(at.batch, at.kv_head, j, c), x.q(at.batch, at.head, i, c)); }
        return m.score(raw, detail::scalar_pair<T>{at, i, j}) * static_cast<T>(normalizer_type::unit);
    }
    static void row(M const& m, pairwise_problem<T> const& x, place const& at, extent_t i) {
        extent_t const dv = x.v.extent(3);
        auto state = m.normalizer.template start<T>(at);
        for (extent_t e = 0; e < dv; ++e) { x.out(at.batch, at.head, i, e) = T(0); }
        for (extent_t j = 0; j < at.keys; ++j) {
            T const s = score(m, x, at, i, j);
            if (s == -math::inf<T>()) { continue; }
            T const factor = m.normalizer.raise(state, s), p = m.normalizer.weight(state, s);
            m.normalizer.settle(state, p);
            for (extent_t e = 0; e < dv; ++e) {
                T& o = x.out(at.batch, at.head, i, e);
                o = decltype(M::mix)::step(o * factor, x.v(at.batch, at.kv_head, j, e), p);
            }
        }
        T const last = m.normalizer.close(state);
        for (extent_t e = 0; e < dv; ++e) { x.out(at.batch, at.head, i, e) *= last; }
        if (x.lse.data_handle() != nullptr) {
            if constexpr (MergeableNormalizer<normalizer_type>) {
                x.lse(at.batch, at.head, i, 0) = static_cast<T>(static_cast<double>(m.normalizer.log_sum_exp(state)) * x.lse_unit);
            }
        }
    }
};

} // namespace heed
