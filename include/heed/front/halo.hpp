// SPDX-License-Identifier: BSD-3-Clause
// HaloNet (Vaswani et al., arXiv:2103.12731): a map is cut into blocks; the queries of a block attend to the block and a halo around it, with relative logits:
//
//   s_ij = factor q_i . k_j + relative q_i . (r^H[dy] + r^W[dx]),   dy, dx = side - 1 + (place of j in the window) - (place of i in the block), side = block + 2 reach
//
// and a softmax over the side^2 keys. Keys outside of the map are zeros that take part (their score is the relative part alone), or masked (border). A map that
// blocks do not divide has short blocks at its end, and what is missing of them is outside too. Relative logits are products with rows of the tables, computed
// once a query, and ride as 2 side more features against unit vectors: their gradients come out of the same backward.
// Cost: 2 (d + 2 side + dv) side^2 a query; memory of (side / block)^2 keys and values a point. No relative tables: 2 (d + dv) side^2.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/engine/cpu/placed_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/kernel/row_dots.hpp>
#include <heed/policy/pattern/halo.hpp>

#include <vector>

namespace heed {

template <class T>
struct halo {
    extent_t height, width; // of the map; point y width + x is position y width + x
    extent_t block, reach;
    tensor_view<T const> rows = {}, columns = {}; // r^H, r^W {1, 1 or H, 2 side - 1, d}; no data: no relative logits
    border outside = border::zeros;
    T factor = 0;   // of the products; 0: 1 / sqrt(d)
    T relative = 1; // of the relative logits

    extent_t side() const { return block + 2 * reach; }
    bool has_tables() const { return rows.data_handle() != nullptr; }
};
template <class T>
halo(extent_t, extent_t, extent_t, extent_t, tensor_view<T>, tensor_view<T>) -> halo<std::remove_const_t<T>>;
template <class T>
halo(extent_t, extent_t, extent_t, extent_t, tensor_view<T>, tensor_view<T>, border) -> halo<std::remove_const_t<T>>;

template <class T>
halo<std::remove_const_t<T>> halo_attention(extent_t height, extent_t width, extent_t block, extent_t reach, tensor_view<T> rows, tensor_view<T> columns, border outside = border::zeros) {
    return {height, width, block, reach, rows, columns, outside};
}

// Option of backward: gradients of the relative tables, in their shape.
template <class T>
struct halo_table_gradients {
    tensor_view<T> rows = {}, columns = {};
};
template <class T>
halo_table_gradients(tensor_view<T>, tensor_view<T>) -> halo_table_gradients<T>;

// What forward leaves for backward.
template <class T>
struct halo_saved {
    std::vector<T> out, lse; // of the pieces
};

namespace detail {

template <class M>
inline constexpr bool is_halo = false;
template <class T>
inline constexpr bool is_halo<halo<T>> = true;
template <class O>
inline constexpr bool is_halo_gradient = false;
template <class T>
inline constexpr bool is_halo_gradient<halo_table_gradients<T>> = true;

// Pieces of one call: blocks of queries and windows of keys as batch entries of their own.
template <class A, class T>
class halo_pieces {
    using door = detail::door<A>;
    using moves = placed_rows<T, A>;

    halo<T> const& m_;
    extent_t heads_, kv_heads_, d_, dv_, batch_, pieces_, side_, tail_;
    std::vector<std::int32_t> of_q_, of_k_;
    std::vector<T> tables_[2]; // {heads of the table, 2 side - 1, d}
    extent_t table_heads_ = 1;

public:
    halo_window pattern;

    halo_pieces(halo<T> const& m, tensor_view<T const> const& q, tensor_view<T const> const& k, tensor_view<T const> const& v)
        : m_(m), heads_(q.extent(1)), kv_heads_(k.extent(1)), d_(q.extent(3)), dv_(v.extent(3)), batch_(q.extent(0)), pieces_(0), side_(m.side()), tail_(m.has_tables() ? 2 * m.side() : 0),
          pattern{m.height, m.width, m.block, m.reach, m.outside} {
        if (m.height < 1 || m.width < 1 || m.block < 1 || m.reach < 0 || m.height > longest_sequence / m.width) {
            door::refuse(sentence<A>("heed: halo{height ", m.height, ", width ", m.width, ", block ", m.block, ", reach ", m.reach, "}; height, width and block are at least 1, reach at least 0"));
        }
        if (q.is_ragged() || k.is_ragged() || q.extent(2) != m.height * m.width || k.extent(2) != q.extent(2)) {
            door::refuse(sentence<A>("heed: a map of ", m.height, " x ", m.width, " points takes as many queries and keys, in one length; q has ", q.extent(2), " and k ", k.extent(2)));
        }
        pieces_ = pattern.across() * pattern.down();
        for (int n = 0; n < 2 && m.has_tables(); ++n) {
            auto const& table = n == 0 ? m.rows : m.columns;
            door::check_view(n == 0 ? "the relative rows" : "the relative columns", table.shape(), {1, heads_, 2 * side_ - 1, d_}, false);
            if (table.extent(2) != 2 * side_ - 1 || table.extent(3) != d_ || table.extent(1) != m.rows.extent(1)) {
                door::refuse(sentence<A>("heed: relative tables have ", 2 * side_ - 1, " rows of ", d_, " features for each or for all heads, both alike; this one has ", table.extent(2), " of ", table.extent(3)));
            }
            table_heads_ = table.extent(1);
            for (extent_t h = 0; h < table_heads_; ++h)
                for (extent_t r = 0; r < 2 * side_ - 1; ++r)
                    for (extent_t e = 0; e < d_; ++e) { tables_[n].push_back(table(0, h, r, e)); }
        }
        of_q_.assign(static_cast<std::size_t>(pieces_ * m.block * m.block), -1);
        of_k_.assign(static_cast<std::size_t>(pieces_ * side_ * side_), -1);
        fill(of_q_, m.block, 0), fill(of_k_, side_, m.reach);
    }

    shape q_shape() const { return {batch_ * pieces_, heads_, m_.block * m_.block, d_ + tail_}; }
    shape k_shape() const { return {batch_ * pieces_, kv_heads_, side_ * side_, d_ + tail_}; }
    shape v_shape() const { return {batch_ * pieces_, kv_heads_, side_ * side_, dv_}; }
    shape out_shape() const { return {batch_ * pieces_, heads_, m_.block * m_.block, dv_}; }
    shape lse_shape() const { return {batch_ * pieces_, heads_, m_.block * m_.block, 1}; }
    T factor() const { return m_.factor == T(0) ? inv_sqrt<T>(d_) : m_.factor; }

    template <class E>
    void take_queries(tensor_view<T const> const& q, tensor_view<T> const& to, E& executor, int slots) const {
        moves::take(of_q_, q, to, executor, slots);
        T const by = factor();
        for_each_item<A>(executor, slots, to.extent(0) * heads_, [&](extent_t item, int) noexcept {
            for (extent_t n = 0; n < to.extent(2); ++n) {
                T* const row = to.row(item / heads_, item % heads_, n);
                for (int axis = 0; axis < 2 && tail_ > 0; ++axis) { row_dots<A>(table(axis, item % heads_, n), d_, side_, m_.relative, row, d_, row + d_ + axis * side_); }
                for (extent_t e = 0; e < d_; ++e) { row[e] *= by; }
            }
        });
    }
    template <class E>
    void take_keys(tensor_view<T const> const& k, tensor_view<T> const& to, E& executor, int slots) const {
        moves::take(of_k_, k, to, executor, slots);
        for_each_item<A>(executor, slots, to.extent(0) * kv_heads_, [&](extent_t item, int) noexcept {
            for (extent_t n = 0; n < to.extent(2) && tail_ > 0; ++n) {
                T* const row = to.row(item / kv_heads_, item % kv_heads_, n) + d_;
                for (extent_t e = 0; e < tail_; ++e) { row[e] = e == n / side_ || e == side_ + n % side_ ? T(1) : T(0); }
            }
        });
    }
    template <class E>
    void take_values(tensor_view<T const> const& v, tensor_view<T> const& to, E& executor, int slots) const { moves::take(of_k_, v, to, executor, slots); }
    template <class E>
    void take_rows(tensor_view<T const> const& out, tensor_view<T> const& to, E& executor, int slots) const { moves::take(of_q_, out, to, executor, slots); }
    template <class E>
    void give_rows(tensor_view<T const> const& from, tensor_view<T> const& out, E& executor, int slots) const { moves::give(of_q_, from, out, true, executor, slots); }
    template <class E>
    void give_keys(tensor_view<T const> const& from, tensor_view<T> const& dk, E& executor, int slots) const { moves::give(of_k_, from, dk, true, executor, slots); }

    // dq of the pieces, tail included, to dq of the map; changes `from`.
    template <class E>
    void give_queries(tensor_view<T> const& from, tensor_view<T> const& dq, E& executor, int slots) const {
        T const by = factor();
        for_each_item<A>(executor, slots, from.extent(0) * heads_, [&](extent_t item, int) noexcept {
            for (extent_t n = 0; n < from.extent(2); ++n) {
                T* const row = from.row(item / heads_, item % heads_, n);
                for (extent_t e = 0; e < d_; ++e) { row[e] *= by; }
                for (extent_t t = 0; t < tail_; ++t) {
                    T const up = row[d_ + t] * m_.relative, *const r = table(static_cast<int>(t / side_), item % heads_, n) + t % side_ * d_;
                    for (extent_t e = 0; e < d_; ++e) { row[e] += up * r[e]; }
                }
            }
        });
        moves::give(of_q_, from, dq, true, executor, slots);
    }
    // Gradients of the tables from dq of the pieces, before give_queries; heads that share a table add up in their order.
    template <class E>
    void give_tables(tensor_view<T const> const& from, tensor_view<T const> const& q, halo_table_gradients<T> const& to, E& executor, int slots) const {
        std::vector<T> sums[2]{std::vector<T>(tables_[0].size()), std::vector<T>(tables_[1].size())};
        extent_t const group = heads_ / table_heads_;
        for_each_item<A>(executor, slots, table_heads_, [&](extent_t head, int) noexcept {
            for (extent_t piece = 0; piece < from.extent(0); ++piece)
                for (extent_t h = head * group; h < (head + 1) * group; ++h)
                    for (extent_t n = 0; n < from.extent(2); ++n) {
                        std::int32_t const point = of_q_[static_cast<std::size_t>(piece % pieces_ * from.extent(2) + n)];
                        T const* const row = from.row(piece, h, n) + d_;
                        for (extent_t t = 0; point >= 0 && t < tail_; ++t) {
                            T* const r = sums[t / side_].data() + (table(static_cast<int>(t / side_), h, n) - tables_[t / side_].data()) + t % side_ * d_;
                            T const up = row[t] * m_.relative;
                            for (extent_t e = 0; e < d_; ++e) { r[e] += up * q(piece / pieces_, h, point, e); }
                        }
                    }
        });
        for (int axis = 0; axis < 2; ++axis) {
            auto const& d = axis == 0 ? to.rows : to.columns;
            for (std::size_t n = 0; d.data_handle() != nullptr && n < sums[axis].size(); ++n) {
                extent_t const at = static_cast<extent_t>(n);
                d(0, at / d_ / (2 * side_ - 1), at / d_ % (2 * side_ - 1), at % d_) = sums[axis][n];
            }
        }
    }

private:
    // The row of a table that belongs to the window's first row or column, for query n of a block.
    T const* table(int axis, extent_t head, extent_t n) const {
        extent_t const at = axis == 0 ? n / m_.block : n % m_.block, h = table_heads_ == 1 ? 0 : head;
        return tables_[axis].data() + (h * (2 * side_ - 1) + side_ - 1 - at) * d_;
    }
    void fill(std::vector<std::int32_t>& order, extent_t side, extent_t reach) const {
        for (std::size_t n = 0; n < order.size(); ++n) {
            extent_t const at = static_cast<extent_t>(n), c = at / (side * side), in = at % (side * side);
            extent_t const y = c / pattern.across() * m_.block - reach + in / side, x = c % pattern.across() * m_.block - reach + in % side;
            if (y >= 0 && y < m_.height && x >= 0 && x < m_.width) { order[n] = static_cast<std::int32_t>(y * m_.width + x); }
        }
    }
};

template <class T>
halo_table_gradients<T> pick_halo_gradients() { return {}; }
template <class T, class First, class... Rest>
halo_table_gradients<T> pick_halo_gradients(First const& first, Rest const&... rest) {
    if constexpr (is_halo_gradient<First>) { return first; } else { return pick_halo_gradients<T>(rest...); }
}

} // namespace detail

template <class M>
concept HaloAttention = detail::is_halo<M>;

// q, out (B, H, height width, d | dv), k, v (B, Hkv, height width, d | dv), float or double. Returns what backward needs. Option: a backend. Throws shape_error
// before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires HaloAttention<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: block plus halo takes float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::door<A>::check_pairwise(q, k, v, out);
    detail::halo_pieces<A, T> const pieces(m, q, k, v);
    int const slots = detail::concurrency_of(backend.executor);
    auto const room = [](shape s) { return std::vector<T>(static_cast<std::size_t>(s.size())); };
    auto q_rows = room(pieces.q_shape()), k_rows = room(pieces.k_shape()), v_rows = room(pieces.v_shape());
    halo_saved<T> saved{room(pieces.out_shape()), room(pieces.lse_shape())};
    tensor_view<T> const pq(q_rows.data(), pieces.q_shape()), pk(k_rows.data(), pieces.k_shape()), pv(v_rows.data(), pieces.v_shape()), po(saved.out.data(), pieces.out_shape());
    pieces.take_queries(q, pq, backend.executor, slots), pieces.take_keys(k, pk, backend.executor, slots), pieces.take_values(v, pv, backend.executor, slots);
    forward<A>(chosen_attention(any_pattern(pieces.pattern), T(1)), tensor_view<T const>(pq), tensor_view<T const>(pk), tensor_view<T const>(pv), po, save{tensor_view<T>(saved.lse.data(), pieces.lse_shape())}, backend);
    pieces.give_rows(po, out, backend.executor, slots);
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Options: a backend, halo_table_gradients{drows, dcolumns}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires HaloAttention<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, halo_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_halo_gradient<Options>) && ...), "heed: options of backward over halos are a backend and halo_table_gradients{...}");
    halo_table_gradients<T> const dtables = detail::pick_halo_gradients<T>(options...);
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    using door = detail::door<A>;
    detail::halo_pieces<A, T> const pieces(m, q, k, v);
    door::check_same(argument::of("dout", dout), argument{"out", {q.extent(0), q.extent(1), q.extent(2), v.extent(3)}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("dq", dq), argument::of("q", q));
    door::check_same(argument::of("dk", dk), argument::of("k", k));
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    if (dtables.rows.data_handle() != nullptr) { door::check_same(argument::of("the gradient of the rows", dtables.rows), argument::of("the relative rows", m.rows)); }
    if (dtables.columns.data_handle() != nullptr) { door::check_same(argument::of("the gradient of the columns", dtables.columns), argument::of("the relative columns", m.columns)); }
    int const slots = detail::concurrency_of(backend.executor);
    auto const room = [](shape s) { return std::vector<T>(static_cast<std::size_t>(s.size())); };
    shape const sq = pieces.q_shape(), sk = pieces.k_shape(), sv = pieces.v_shape(), so = pieces.out_shape();
    auto q_rows = room(sq), k_rows = room(sk), v_rows = room(sv), up = room(so), dq_rows = room(sq), dk_rows = room(sk), dv_rows = room(sv);
    tensor_view<T> const pq(q_rows.data(), sq), pk(k_rows.data(), sk), pv(v_rows.data(), sv), pdo(up.data(), so), pdq(dq_rows.data(), sq), pdk(dk_rows.data(), sk), pdv(dv_rows.data(), sv);
    pieces.take_queries(q, pq, backend.executor, slots), pieces.take_keys(k, pk, backend.executor, slots), pieces.take_values(v, pv, backend.executor, slots);
    pieces.take_rows(dout, pdo, backend.executor, slots);
    save const lse{tensor_view<T>(const_cast<T*>(saved.lse.data()), pieces.lse_shape())};
    backward<A>(chosen_attention(any_pattern(pieces.pattern), T(1)), tensor_view<T const>(pq), tensor_view<T const>(pk), tensor_view<T const>(pv), tensor_view<T const>(saved.out.data(), so), lse,
                tensor_view<T const>(pdo), pdq, pdk, pdv, backend);
    if (m.has_tables()) { pieces.give_tables(pdq, q, dtables, backend.executor, slots); }
    pieces.give_queries(pdq, dq, backend.executor, slots), pieces.give_keys(pdk, dk, backend.executor, slots), pieces.give_keys(pdv, dv, backend.executor, slots);
}

} // namespace heed
