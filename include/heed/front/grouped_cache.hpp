// SPDX-License-Identifier: BSD-3-Clause
// Caches whose rows serve many heads: latents (make_latent_cache) and factors (make_factor_cache), contiguous, in rings or in pages as heed::make_cache
// has them, or over memory of the caller's: latent_cache_view{rows} and factor_cache_view{rows, factors} of any cache_view.
#pragma once

#include <heed/engine/cpu/factor_append.hpp>
#include <heed/front/cache.hpp>

namespace heed {

// Rows [c | k^R] of `width` numbers, the first `value_width` of which are the value: width numbers a token, whatever the number of heads.
template <class E>
class latent_cache {
    using rows_type = cache<E, compute_t<E>>; // without values
    rows_type rows_;
    extent_t value_width_;

public:
    latent_cache(rows_type rows, extent_t value_width) : rows_(std::move(rows)), value_width_(value_width) {}
    latent_cache_view<E> grouped() {
        auto const c = rows_.view();
        shape const n = c.k.shape();
        return {{c.kind, c.k, {c.k.data_handle(), {n.batch, n.head, n.seq, value_width_}, c.k.strides()}, c.lengths, c.table, c.k_scale, c.k_scale}};
    }
    rows_type& rows() { return rows_; }
    extent_t length(extent_t b) const { return rows_.length(b); }
    std::size_t bytes() const { return rows_.bytes(); }
    void clear(extent_t b) { rows_.clear(b); }
};

// heads: latent heads, 1 for latent attention (arXiv:2405.04434), more for its grouped form. width: latent and rotary part together.
template <class E, class Kind = contiguous>
latent_cache<E> make_latent_cache(cache_shape s, Kind kind = {}) {
    if (s.value_width < 0 || s.value_width > s.width) { HEED_THROW(shape_error(sentence("heed: a latent row has ", s.width, " numbers and its value ", s.value_width, "; the value is the row's first part"))); }
    extent_t const value_width = s.value_width;
    s.value_width = 0;
    return {make_cache<E, compute_t<E>>(attention{dot{}}, s, kind), value_width};
}

// Sizes of a cache of factors.
struct factor_cache_shape {
    extent_t batch = 0, heads = 0, tokens = 0; // heads of keys and values
    extent_t width = 0, value_width = 0;       // of a head
    extent_t rank_k = 1, rank_v = 1;
    shared_factor shared_k = shared_factor::none, shared_v = shared_factor::none; // a constant A, or B, is kept once
};

template <class K, class V = K>
class factor_cache {
    cache<K, V> rows_;
    row_factors of_;
    std::vector<compute_t<K>> beside_k_;
    std::vector<compute_t<V>> beside_v_;

public:
    factor_cache(cache<K, V> rows, row_factors const& of)
        : rows_(std::move(rows)), of_(of), beside_k_(static_cast<std::size_t>(row_factors::beside(of.heads, of.rank_k, of.width, of.shared_k))),
          beside_v_(static_cast<std::size_t>(row_factors::beside(of.heads, of.rank_v, of.value_width, of.shared_v))) {}
    factor_cache_view<K, V> grouped() { return {rows_.view(), of_, beside_k_.data(), beside_v_.data()}; }
    cache<K, V>& rows() { return rows_; }
    extent_t length(extent_t b) const { return rows_.length(b); }
    std::size_t bytes() const { return rows_.bytes() + beside_k_.size() * sizeof(compute_t<K>) + beside_v_.size() * sizeof(compute_t<V>); }
    void clear(extent_t b) { rows_.clear(b); }
};

// rank_k (H + d) + rank_v (H + dv) numbers a token; without H, or d and dv, where that factor is shared.
template <class K, class V = K, class Kind = contiguous>
factor_cache<K, V> make_factor_cache(factor_cache_shape const& s, Kind kind = {}) {
    if (s.heads < 1 || s.rank_k < 1 || s.rank_v < 1 || s.width < 0 || s.value_width < 0) { HEED_THROW(shape_error("heed: a cache of factors has one head and ranks of 1 at least, and widths that are not negative")); }
    row_factors const of{s.heads, s.rank_k, s.rank_v, 0, 0, s.shared_k, s.shared_v, s.width, s.value_width};
    return {make_cache<K, V>(attention{dot{}}, {s.batch, 1, s.tokens, row_factors::row(s.heads, s.rank_k, s.width, s.shared_k), row_factors::row(s.heads, s.rank_v, s.value_width, s.shared_v)}, kind), of};
}

namespace detail {

template <class C>
concept GroupedCache = requires(C& c) { c.grouped().of; };
template <class C>
inline constexpr bool is_latent_cache = false;
template <class E>
inline constexpr bool is_latent_cache<latent_cache_view<E>> = true;
template <class C>
concept LatentCache = GroupedCache<C> && is_latent_cache<std::remove_cvref_t<decltype(std::declval<C&>().grouped())>>;
template <class C>
concept FactorCache = GroupedCache<C> && !LatentCache<C>;

template <class A, class K, class V>
void check_grouped(cache_view<K, V> const& c, row_factors const& f) {
    using door = detail::door<A>;
    check_cache<A>(c);
    if (!f.any()) { return; }
    auto const check = [&](char const* name, extent_t row, extent_t rank, shared_factor shared, extent_t width) {
        extent_t const heads = shared == shared_factor::heads ? 0 : f.heads;
        if (rank < 1 || row % rank != 0 || row / rank < heads || (shared == shared_factor::features && (row != rank * heads || width < 0))) {
            door::refuse(sentence<A>("heed: a row of ", name, " has ", row, " numbers; of ", f.heads, " heads and rank ", rank, " it has ", shared == shared_factor::features ? "" : "a multiple of the rank, ", rank * heads,
                                     shared == shared_factor::features ? ", since the factor of features is shared" : " at least"));
        }
    };
    if (c.heads() != 1) { door::refuse(sentence<A>("heed: the rows of a cache of factors have ", c.heads(), " heads; factors of all heads lie in one row")); }
    check("the cache's k", c.k.extent(3), f.rank_k, f.shared_k, f.width);
    check("the cache's v", c.v.extent(3), f.rank_v, f.shared_v, f.value_width);
}

} // namespace detail

// Writes new latent rows (B, latent heads, n, width) behind the last of each sequence: c normalised, k^R turned. As append of keys and values.
template <class A = native_arch, detail::LatentCache C, class Rows, class... Options>
void append(C& c, Rows const& rows_in, Options const&... options) {
    auto const rows = as_view(rows_in);
    using S = typename decltype(rows)::value_type;
    tensor_view<S const> const no_values(nullptr, {rows.extent(0), rows.extent(1), rows.extent(2), 0}, rows.strides(), rows.offsets());
    if constexpr (requires { c.rows().view(); }) {
        append<A>(c.rows(), rows, no_values, options...);
    } else {
        auto to = c.grouped().rows;
        shape const n = to.k.shape();
        to.v = {nullptr, {n.batch, n.head, n.seq, 0}};
        append<A>(to, rows, no_values, options...);
    }
}

// Writes new factors behind the last token of each sequence; k.b is turned before (heed::rotate on b, offset the first new position). Shapes: a (B, H, n, R),
// b (B, R, n, d); extents of 1 stand for all. A factor that the cache shares is one row, the same in every append. Throws shape_error, before anything is
// written, when a sequence has no room.
template <class A = native_arch, detail::FactorCache C, class S, class U>
void append(C& c, factored<S> const& k, factored<U> const& v) {
    using door = detail::door<A>;
    using detail::axis;
    using detail::rule_kind;
    auto const rows_k = k.rows_view(), rows_v = v.rows_view();
    auto to = c.grouped();
    detail::check_grouped<A>(to.rows, to.of);
    auto const check = [&](auto const& f, auto const& rows, extent_t rank, extent_t width, char const* name) {
        call_sizes const n{rows.extent(0), rows.extent(1), rows.extent(2), rows.extent(2), rows.extent(3), rows.extent(1)};
        f.views(n, rows.extent(2), [](char const* what, auto const& view, shape want) { door::check_view(what, view.shape(), want, false); });
        if (f.rank() != rank || rows.extent(1) != to.of.heads || rows.extent(3) != width) {
            door::refuse(sentence<A>("heed: ", name, " has rank ", f.rank(), ", ", rows.extent(1), " heads of ", rows.extent(3), " features; the cache has rank ", rank, ", ", to.of.heads, " heads of ", width));
        }
    };
    check(k, rows_k, to.of.rank_k, to.width(), "k");
    check(v, rows_v, to.of.rank_v, to.value_width(), "v");
    detail::argument const args[] = {detail::argument::of("k", rows_k), detail::argument::of("v", rows_v)};
    static constexpr detail::axis_rule same[] = {{1, axis::batch, rule_kind::equal, 0, axis::batch}, {1, axis::seq, rule_kind::equal, 0, axis::seq}};
    detail::argument made[] = {args[0], args[1]};
    made[0].made = made[1].made = true;
    door::check_axes(made, 2, same, 2);
    door::check_offsets(args[0], args[1]);
    if (rows_k.extent(0) != to.rows.sequences()) { door::refuse(sentence<A>("heed: k has ", rows_k.extent(0), " batch entries and the cache has ", to.rows.sequences(), " sequences; they must be equal")); }
    if constexpr (requires { c.rows().view(); }) {
        c.rows().template reserve<A>([&](extent_t b) { return rows_k.length(b); });
        to = c.grouped();
    }
    for (extent_t b = 0; b < to.rows.sequences(); ++b) {
        extent_t const before = to.rows.lengths[static_cast<std::size_t>(b)], n = rows_k.length(b);
        if (before + n > longest_sequence || !to.rows.has_room(b, before + n)) { door::refuse(sentence<A>("heed: sequence ", b, " has ", before, " tokens and no room in the cache for ", n, " more")); }
    }
    bool const first = to.rows.longest() == 0;
    auto const share = [&](auto const& f, shared_factor shared, auto* beside, char const* name, bool write) {
        if (shared == shared_factor::none) { return; }
        auto const& x = shared == shared_factor::heads ? f.a : f.b;
        bool is_same = beside != nullptr && x.extent(0) == 1 && x.extent(2) == 1 && !x.is_ragged();
        if (is_same) {
            factor_append<A>::each_shared(f, shared, [&](extent_t at, auto one) {
                auto const number = static_cast<std::remove_reference_t<decltype(*beside)>>(one);
                if (write) { beside[at] = number; }
                is_same = is_same && (first || beside[at] == number || (beside[at] != beside[at] && number != number));
            });
        }
        if (!is_same) { door::refuse(sentence<A>("heed: the factor of ", shared == shared_factor::heads ? "heads" : "features", " of ", name, " is one for all tokens of this cache; it must be one row, and the same in every append")); }
    };
    share(k, to.of.shared_k, to.beside_k, "k", false), share(v, to.of.shared_v, to.beside_v, "v", false);
    if (first) { share(k, to.of.shared_k, to.beside_k, "k", true), share(v, to.of.shared_v, to.beside_v, "v", true); }
    for (extent_t b = 0; b < to.rows.sequences(); ++b) {
        factor_append<A>::run(to, k, v, b, rows_k.length(b));
        to.rows.lengths[static_cast<std::size_t>(b)] += rows_k.length(b);
    }
}

} // namespace heed
