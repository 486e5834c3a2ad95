// SPDX-License-Identifier: BSD-3-Clause
// BiFormer's bi-level routing (Zhu et al., arXiv:2303.08810): a map is cut into regions; a region chooses the `top` regions whose mean keys have the greatest product
// with its mean query, all heads together, and its queries attend to all points of those:
//
//   out_i = softmax over the points j of the chosen regions of factor q_i . k_j,   factor = 1 / sqrt(H d): the width of all heads
//
// The own region is not forced. A map that regions do not divide has short regions at its end: what is missing of them are zeros that take part, or masked
// (border); means are those of the points that are there. Gradients reach q, k, v, none passes through the choice. Rows are brought into the order of regions,
// so that every chosen region is a run of full tiles. Cost: 2 R^2 H d for the choice, 2 N top size (d + dv) for attention, 3 moves of the rows.
#pragma once

#include <heed/engine/cpu/placed_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/front/select.hpp>
#include <heed/policy/pattern/both.hpp>
#include <heed/policy/pattern/halo.hpp>
#include <heed/policy/pattern/mask.hpp>

namespace heed {

template <class T>
struct bi_level_regions {
    extent_t height, width;               // of the map; point y width + x is position y width + x
    extent_t region_height, region_width; // regions count row by row
    extent_t top;
    border outside = border::masked;
    T factor = 0; // 0: 1 / sqrt(H d)

    constexpr extent_t across() const { return (width + region_width - 1) / region_width; }
    constexpr extent_t regions() const { return (height + region_height - 1) / region_height * across(); }
    constexpr extent_t size() const { return region_height * region_width; }
};

template <class T = float>
bi_level_regions<T> region_attention(extent_t height, extent_t width, extent_t region_height, extent_t region_width, extent_t top, border outside = border::masked) {
    return {height, width, region_height, region_width, top, outside};
}

// What forward leaves for backward, and the choice: {B, 1, regions, top}, from the best down.
template <class T>
struct region_saved {
    block_lists<T> choice;
    std::vector<T> out, lse; // region by region
};

namespace detail {

template <class M>
inline constexpr bool is_regions = false;
template <class T>
inline constexpr bool is_regions<bi_level_regions<T>> = true;

template <class A, class T>
class region_rows {
    using door = detail::door<A>;

public:
    bi_level_regions<T> const& m;
    std::vector<std::int32_t> order;
    std::vector<std::uint8_t> there;

    region_rows(bi_level_regions<T> const& of, tensor_view<T const> const& q, tensor_view<T const> const& k) : m(of) {
        if (m.height < 1 || m.width < 1 || m.region_height < 1 || m.region_width < 1 || m.height > longest_sequence / m.width) {
            door::refuse(sentence<A>("heed: regions of ", m.region_height, " x ", m.region_width, " points in a map of ", m.height, " x ", m.width, "; each is at least 1"));
        }
        if (q.is_ragged() || k.is_ragged() || q.extent(2) != m.height * m.width || k.extent(2) != q.extent(2)) {
            door::refuse(sentence<A>("heed: a map of ", m.height, " x ", m.width, " points takes as many queries and keys, in one length; q has ", q.extent(2), " and k ", k.extent(2)));
        }
        if (m.top < 1 || m.top > m.regions()) { door::refuse(sentence<A>("heed: a region chooses ", m.top, " of ", m.regions(), " regions; at least one")); }
        for (extent_t n = 0; n < m.regions() * m.size(); ++n) {
            extent_t const y = n / m.size() / m.across() * m.region_height + n % m.size() / m.region_width, x = n / m.size() % m.across() * m.region_width + n % m.size() % m.region_width;
            order.push_back(y < m.height && x < m.width ? static_cast<std::int32_t>(y * m.width + x) : -1);
            there.push_back(order.back() >= 0 || m.outside == border::zeros);
        }
    }
    extent_t rows() const { return m.regions() * m.size(); }
    T factor(tensor_view<T const> const& q) const { return m.factor == T(0) ? inv_sqrt<T>(q.extent(1) * q.extent(3)) : m.factor; }
    // Mean rows of regions {B, 1, regions, heads d}; a head of k stands for every query head of its group.
    std::vector<T> means(tensor_view<T const> const& x, extent_t heads) const {
        extent_t const d = x.extent(3), group = x.extent(1) > 0 ? heads / x.extent(1) : 1, R = m.regions();
        std::vector<T> to(static_cast<std::size_t>(x.extent(0) * R * heads * d));
        for (extent_t b = 0; b < x.extent(0); ++b)
            for (extent_t r = 0; r < R; ++r) {
                T* const row = to.data() + (b * R + r) * heads * d;
                T count(0);
                for (extent_t n = r * m.size(); n < (r + 1) * m.size(); ++n) {
                    std::int32_t const point = order[static_cast<std::size_t>(n)];
                    count += point >= 0 ? T(1) : T(0);
                    for (extent_t c = 0; point >= 0 && c < heads * d; ++c) { row[c] += x(b, c / d / group, point, c % d); }
                }
                for (extent_t c = 0; c < heads * d; ++c) { row[c] /= count; }
            }
        return to;
    }
    template <class F>
    void with_pattern(block_lists<T> const& choice, extent_t heads, F const& f) const {
        block_bits const bits(choice.lists(), m.regions());
        auto const pattern = bits.map(m.size(), m.size(), heads) & mask{tensor_view<std::uint8_t const>(there.data(), {1, 1, 1, rows()})};
        f(any_pattern(pattern));
    }
};

} // namespace detail

template <class M>
concept RegionAttention = detail::is_regions<M>;

// The regions that q (B, H, N, d) chooses among those of k (B, Hkv, N, d). Option: a backend.
template <class A = native_arch, class T, class Q, class K, class... Options>
block_lists<T> choose_regions(bi_level_regions<T> const& m, Q const& q_in, K const& k_in, Options const&... options) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in);
    detail::region_rows<A, T> const rows(m, q, k);
    extent_t const width = q.extent(1) * q.extent(3);
    shape const s{q.extent(0), 1, m.regions(), width};
    auto const of_q = rows.means(q, q.extent(1)), of_k = rows.means(k, q.extent(1));
    tensor_view<T const> const keys(of_k.data(), s);
    return select_lists<A>(any_block{}, tensor_view<T const>(of_q.data(), s), keys, keys, 1, m.top, 1.0, options...);
}

// q, out (B, H, N, d | dv), k, v (B, Hkv, N, d | dv), float or double. Returns the choice and what backward needs. Option: a backend. Throws shape_error before
// out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires RegionAttention<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: attention to regions takes float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::door<A>::check_pairwise(q, k, v, out);
    detail::region_rows<A, T> const rows(m, q, k);
    region_saved<T> saved{choose_regions<A>(m, q, k, backend), {}, {}};
    int const slots = detail::concurrency_of(backend.executor);
    auto const placed = [&](tensor_view<T const> const& x, std::vector<T>& memory) {
        shape const s{x.extent(0), x.extent(1), rows.rows(), x.extent(3)};
        memory.resize(static_cast<std::size_t>(s.size()));
        tensor_view<T> const to(memory.data(), s);
        placed_rows<T, A>::take(rows.order, x, to, backend.executor, slots);
        return tensor_view<T const>(to);
    };
    std::vector<T> of_q, of_k, of_v;
    auto const pq = placed(q, of_q), pk = placed(k, of_k), pv = placed(v, of_v);
    shape const s{q.extent(0), q.extent(1), rows.rows(), v.extent(3)};
    saved.out.resize(static_cast<std::size_t>(s.size())), saved.lse.resize(static_cast<std::size_t>(s.batch * s.head * s.seq));
    tensor_view<T> const po(saved.out.data(), s), lse(saved.lse.data(), {s.batch, s.head, s.seq, 1});
    rows.with_pattern(saved.choice, q.extent(1), [&](any_pattern const& pattern) { forward<A>(chosen_attention(pattern, rows.factor(q)), pq, pk, pv, po, save{lse}, backend); });
    placed_rows<T, A>::give(rows.order, po, out, true, backend.executor, slots);
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Option: a backend.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires RegionAttention<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, region_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    using door = detail::door<A>;
    detail::region_rows<A, T> const rows(m, q, k);
    door::check_same(argument::of("dout", dout), argument{"out", {q.extent(0), q.extent(1), q.extent(2), v.extent(3)}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("dq", dq), argument::of("q", q));
    door::check_same(argument::of("dk", dk), argument::of("k", k));
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    int const slots = detail::concurrency_of(backend.executor);
    struct piece {
        std::vector<T> memory;
        tensor_view<T> view;
    };
    auto const room = [&](shape of) {
        shape const s{of.batch, of.head, rows.rows(), of.feature};
        piece p{std::vector<T>(static_cast<std::size_t>(s.size())), {}};
        p.view = {p.memory.data(), s};
        return p;
    };
    piece const pq = room(q.shape()), pk = room(k.shape()), pv = room(v.shape()), pdo = room(dout.shape()), pdq = room(q.shape()), pdk = room(k.shape()), pdv = room(v.shape());
    placed_rows<T, A>::take(rows.order, q, pq.view, backend.executor, slots), placed_rows<T, A>::take(rows.order, k, pk.view, backend.executor, slots);
    placed_rows<T, A>::take(rows.order, v, pv.view, backend.executor, slots), placed_rows<T, A>::take(rows.order, dout, pdo.view, backend.executor, slots);
    shape const s = pdo.view.shape();
    tensor_view<T> const lse(const_cast<T*>(saved.lse.data()), {s.batch, s.head, s.seq, 1});
    rows.with_pattern(saved.choice, q.extent(1), [&](any_pattern const& pattern) {
        backward<A>(chosen_attention(pattern, rows.factor(q)), tensor_view<T const>(pq.view), tensor_view<T const>(pk.view), tensor_view<T const>(pv.view), tensor_view<T const>(saved.out.data(), s), save{lse},
                    tensor_view<T const>(pdo.view), pdq.view, pdk.view, pdv.view, backend);
    });
    placed_rows<T, A>::give(rows.order, pdq.view, dq, true, backend.executor, slots), placed_rows<T, A>::give(rows.order, pdk.view, dk, true, backend.executor, slots);
    placed_rows<T, A>::give(rows.order, pdv.view, dv, true, backend.executor, slots);
}

} // namespace heed
