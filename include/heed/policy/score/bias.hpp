// SPDX-License-Identifier: BSD-3-Clause
// Additive terms of a score.
// An element of -inf means masked, whatever else the chain says of the pair; NaN and +inf spread to their row.
//   bias            s <- s + b[b, h, i, j]; any extent of b may be 1 (broadcast)
//   alibi           s <- s - m_h |i + (M-N) - j|   (Press et al., arXiv:2108.12409; with a causal mask the sign of the distance is fixed)
//   relative_bias   s <- s + t[h, clamp(j - i - (M-N), -left, E-1-left) + left], E entries per head on the sequence axis of t
//   forgetting      s <- s + c_i - c_j with c the running sum of log forget gates (forgetting transformer, arXiv:2503.02130); c [B, H, N, 1], N = M
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// Options of backward: gradients of the data of the stages below, in the shape of that data.
template <class T>
struct bias_gradient {
    tensor_view<T> d; // as bias::b
    static constexpr char const* name = "bias gradient";
};
template <class T>
bias_gradient(tensor_view<T>) -> bias_gradient<T>;
template <class T>
struct alibi_gradient {
    tensor_view<T> d; // as alibi::slopes
    static constexpr char const* name = "alibi gradient";
};
template <class T>
alibi_gradient(tensor_view<T>) -> alibi_gradient<T>;
template <class T>
struct relative_bias_gradient {
    tensor_view<T> d; // as relative_bias::t
    static constexpr char const* name = "relative bias gradient";
};
template <class T>
relative_bias_gradient(tensor_view<T>) -> relative_bias_gradient<T>;
template <class T>
struct forgetting_gradient {
    tensor_view<T> d; // as forgetting::c
    static constexpr char const* name = "cumulative gates gradient";
};
template <class T>
forgetting_gradient(tensor_view<T>) -> forgetting_gradient<T>;

template <class T>
struct bias {
    using gradient = bias_gradient<T>;
    tensor_view<T const> b; // [B|1, H|1, N|1, M|1]

    HEED_HD shape gradient_shape() const { return b.shape(); }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }

    HEED_HD constexpr tensor_view<T const> table() const { return b; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        return raw + V(p.load(b));
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("bias", b, shape{n.batch, n.head, n.queries, n.keys});
    }
};
template <class T>
bias(tensor_view<T>) -> bias<std::remove_const_t<T>>;

template <class T>
struct alibi {
    using gradient = alibi_gradient<T>;
    tensor_view<T const> slopes; // per head

    HEED_HD shape gradient_shape() const { return slopes.shape(); }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }
    template <class V, class Pair>
    HEED_HD V parameter_slope(V, Pair const& p) const {
        using math::abs;
        return -abs(to_value<V>(p.distance()));
    }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        using math::abs;
        using math::fma;
        T const slope = slopes(0, slopes.extent(1) == 1 ? 0 : p.at.head, 0, 0);
        return fma(V(-slope), abs(to_value<V>(p.distance())), raw);
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("alibi slopes", slopes, shape{1, n.head, 1, 1});
    }
};
template <class T>
alibi(tensor_view<T>) -> alibi<std::remove_const_t<T>>;

template <class T>
struct relative_bias {
    using gradient = relative_bias_gradient<T>;
    tensor_view<T const> t; // [1, H|1, E, 1]
    extent_t left;

    HEED_HD shape gradient_shape() const { return t.shape(); }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }

    struct by_distance {
        tensor_view<T const> t;
        extent_t left;
        // the entry and the element of every pair with j - i = d
        HEED_HD extent_t entry(place const& at, extent_t d) const {
            extent_t const last = t.extent(2) - 1, e = d - at.shift() + left;
            return e < 0 ? 0 : e > last ? last : e;
        }
        HEED_HD T diagonal(place const& at, extent_t d) const { return t(0, t.extent(1) == 1 ? 0 : at.head, entry(at, d), 0); }
    };
    HEED_HD constexpr by_distance table() const { return {t, left}; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        return raw + V(p.load(table()));
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("relative bias", t, shape{1, n.head, t.extent(2) > 0 ? t.extent(2) : 1, 1});
    }
};
template <class T>
relative_bias(tensor_view<T>, extent_t) -> relative_bias<std::remove_const_t<T>>;

template <class T>
struct forgetting {
    using gradient = forgetting_gradient<T>;
    tensor_view<T const> c; // [B, H, N, 1]

    HEED_HD shape gradient_shape() const { return c.shape(); }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }

    struct difference {
        tensor_view<T const> c;
        HEED_HD T of_row(place const& at, extent_t i) const { return gate(at, row_entry(at, i)); }
        HEED_HD T of_col(place const& at, extent_t j) const { return -gate(at, col_entry(at, j)); }
        // rows before the first key see none of them under a causal pattern; they count as the first
        HEED_HD extent_t row_entry(place const& at, extent_t i) const { return col_entry(at, i + at.shift() < 0 ? 0 : i + at.shift()); }
        HEED_HD extent_t col_entry(place const&, extent_t j) const { return c.extent(2) == 1 ? 0 : j; }
        static constexpr int row_sign = 1, col_sign = -1; // of the entry in the element

    private:
        HEED_HD T gate(place const& at, extent_t entry) const { return c(c.extent(0) == 1 ? 0 : at.batch, c.extent(1) == 1 ? 0 : at.head, entry, 0); }
    };
    HEED_HD constexpr difference table() const { return {c}; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        return raw + V(p.load(table()));
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("cumulative gates", c, shape{n.batch, n.head, n.keys, 1});
    }
};
template <class T>
forgetting(tensor_view<T>) -> forgetting<std::remove_const_t<T>>;

namespace detail {

// A table over pairs has one of three forms: a view; one number per diagonal; a number per row plus a number per column.
template <class Table>
concept DiagonalTable = requires(Table const t, place const at, extent_t d) { t.diagonal(at, d); };
template <class Table>
concept RowColumnTable = requires(Table const t, place const at, extent_t i) {
    t.of_row(at, i);
    t.of_col(at, i);
};

// optional, where a number per column is a function of what is stored: map_col(V) of of_col, taken in vectors
template <class Table>
concept MappedColumns = RowColumnTable<Table> && requires(Table const t, double x) { t.map_col(x); };

// Element (i, j), whatever the form; extents of 1 broadcast.
template <class T>
HEED_HD std::remove_const_t<T> table_element(tensor_view<T> const& t, place const& at, extent_t i, extent_t j) {
    return t(t.extent(0) == 1 ? 0 : at.batch, t.extent(1) == 1 ? 0 : at.head, t.extent(2) == 1 ? 0 : i, t.extent(3) == 1 ? 0 : j);
}
template <DiagonalTable Table>
HEED_HD auto table_element(Table const& t, place const& at, extent_t i, extent_t j) {
    return t.diagonal(at, j - i);
}
template <RowColumnTable Table>
HEED_HD auto table_element(Table const& t, place const& at, extent_t i, extent_t j) {
    if constexpr (MappedColumns<Table>) {
        return t.of_row(at, i) + t.map_col(t.of_col(at, j));
    } else {
        return t.of_row(at, i) + t.of_col(at, j);
    }
}

} // namespace detail
} // namespace heed
