// SPDX-License-Identifier: BSD-3-Clause
// A cache that is made shorter by merging neighbours (AsymKV). Keys are kept as they are before any rotary embedding; an entry stands at the position of its
// last token. Merging entries a and b, l multiplicities, h sensitivities of the keys' elements (accumulated gradients of a loss; a diagonal of Fisher's matrix):
//
//   key     (h_a^2 k_a + h_b^2 k_b) / (h_a^2 + h_b^2), element by element; where both are 0, and without sensitivities, the mean by multiplicity
//   value   the mean by multiplicity, so that with the multiplicity in the softmax the sum of the values is kept       l = l_a + l_b     h = h_a + h_b
//
// Pairs of neighbours are merged in rounds, the least weight first, none twice in a round: weight = (mass_a + mass_b)(l_a + l_b) e^{-index / age}, mass the
// attention that an entry got. The first `sinks` entries stay. All heads and elements of a sequence merge the same pairs.
//
//   append(cache, k, v); forward(merged_attention(cache.log_multiplicity(), causal_lengths{cache.lengths()}), q, cache.keys(), cache.values(), out);
//   attention_mass(mechanism, q, cache.keys(), saved, mass); compress(cache, 1024, mass);     steps: decode(mechanism, q, cache.view(), out)
//
// The newest entries are the newest tokens, so that a causal pattern among N <= (tokens since the last compression) queries is right: causal_lengths, or
// causal_bottom_right in steps and where all sequences have as many entries.
#pragma once

#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/front/cache.hpp>
#include <heed/mechanism/merged.hpp>
#include <heed/policy/pattern/lengths.hpp>
#include <heed/policy/load/rotary.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace heed {

struct merge_rule {
    extent_t sinks = 32;
    double age = 656.6; // 4096 / ln 512
};

template <class T>
class merged_cache {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: entries are merged as float or double");
    cache_shape s_;
    merge_rule rule_;
    std::vector<extent_t> entries_, tokens_; // of each sequence
    std::vector<T> k_, v_, h_, log_l_;       // log_l_ behind a sequence's last entry: -inf
    std::vector<std::int32_t> position_, l_, length_, asked_;

    T* row(std::vector<T>& x, extent_t width, extent_t b, extent_t h, extent_t j) { return x.data() + ((b * s_.heads + h) * s_.tokens + j) * width; }
    template <class X>
    tensor_view<X> rows(X* x, extent_t width) const {
        return {x, {s_.batch, s_.heads, entries(), width}, {s_.heads * s_.tokens * width, s_.tokens * width, width, 1}};
    }

public:
    // s.tokens: room, in entries.
    explicit merged_cache(cache_shape s, merge_rule rule = {}) : s_(s), rule_(rule) {
        if (s.batch < 0 || s.heads < 0 || s.tokens < 0 || s.width < 0 || s.value_width < 0 || rule.sinks < 0) { HEED_THROW(shape_error("heed: sizes of a cache must not be negative")); }
        auto const size = [&](extent_t width) { return static_cast<std::size_t>(s.batch * s.heads * s.tokens * width); };
        k_.resize(size(s.width)), h_.resize(size(s.width)), v_.resize(size(s.value_width));
        log_l_.resize(static_cast<std::size_t>(s.batch * s.tokens), -math::inf<T>()), position_.resize(log_l_.size()), l_.resize(log_l_.size());
        entries_.resize(static_cast<std::size_t>(s.batch)), tokens_.resize(entries_.size()), length_.resize(entries_.size());
    }
    extent_t entries(extent_t b) const { return entries_[static_cast<std::size_t>(b)]; }
    extent_t tokens(extent_t b) const { return tokens_[static_cast<std::size_t>(b)]; }
    extent_t entries() const { return entries_.empty() ? 0 : *std::max_element(entries_.begin(), entries_.end()); } // of the sequence with most
    extent_t tokens() const { return tokens_.empty() ? 0 : *std::max_element(tokens_.begin(), tokens_.end()); }
    cache_shape const& sizes() const { return s_; }
    tensor_view<T const> keys() const { return rows(k_.data(), s_.width); }
    tensor_view<T const> values() const { return rows(v_.data(), s_.value_width); }
    tensor_view<T> sensitivities() { return rows(h_.data(), s_.width); } // {B, H, entries, d}, written by the caller; 0: not known
    tensor_view<T const> log_multiplicity() const { return {log_l_.data(), {s_.batch, 1, 1, entries()}, {s_.tokens, 0, 0, 1}}; }
    tensor_view<std::int32_t const> lengths() const { return {length_.data(), {s_.batch, 1, 1, 1}}; } // entries of each sequence
    // For decode; of as many rows as the longest sequence has entries.
    cache_view<T> view() {
        strides const k{s_.heads * s_.tokens * s_.width, s_.tokens * s_.width, s_.width, 1}, v{s_.heads * s_.tokens * s_.value_width, s_.tokens * s_.value_width, s_.value_width, 1};
        return {cache_kind::contiguous, {k_.data(), {s_.batch, s_.heads, entries(), s_.width}, k}, {v_.data(), {s_.batch, s_.heads, entries(), s_.value_width}, v}, entries_};
    }
    extent_t multiplicity(extent_t b, extent_t j) const { return l_[static_cast<std::size_t>(b * s_.tokens + j)]; }
    tensor_view<std::int32_t const> positions() const { return {position_.data(), {s_.batch, 1, entries(), 1}, {s_.tokens, 0, 1, 0}}; }
    std::size_t bytes() const {
        return (k_.size() + v_.size() + h_.size() + log_l_.size()) * sizeof(T) + (position_.size() + l_.size() + length_.size()) * sizeof(std::int32_t) + (entries_.size() + tokens_.size()) * sizeof(extent_t);
    }

    // The loaders of keys at their entries' positions, and of queries that are the last `count(b)` tokens of each sequence (a number: of all).
    template <class P, class F>
    rotary<P, F> of_keys(rotary<P, F> rope) const {
        rope.positions = positions();
        return rope;
    }
    template <class P, class F, class N>
    rotary<P, F> of_queries(rotary<P, F> rope, N const& count) {
        auto const last = [&](extent_t b) {
            if constexpr (std::is_convertible_v<N, extent_t>) { return static_cast<extent_t>(count); } else { return static_cast<extent_t>(count(b)); }
        };
        extent_t most = 0;
        for (extent_t b = 0; b < s_.batch; ++b) { most = std::max(most, last(b)); }
        asked_.assign(static_cast<std::size_t>(s_.batch * most), 0);
        for (extent_t b = 0; b < s_.batch; ++b) {
            for (extent_t i = 0; i < last(b); ++i) { asked_[static_cast<std::size_t>(b * most + i)] = static_cast<std::int32_t>(tokens(b) - last(b) + i); }
        }
        rope.positions = {asked_.data(), {s_.batch, 1, most, 1}};
        return rope;
    }

    // New tokens, one entry each. Checked by append.
    template <class A>
    void take(tensor_view<T const> const& k, tensor_view<T const> const& v) {
        for (extent_t b = 0; b < s_.batch; ++b) {
            extent_t const n = k.length(b), end = entries(b);
            for (extent_t h = 0; h < s_.heads; ++h) {
                pack_rows<A>(k.row(b, h, 0), k.stride(2), k.stride(3), n, s_.width, row(k_, s_.width, b, h, end), s_.width);
                pack_rows<A>(v.row(b, h, 0), v.stride(2), v.stride(3), n, s_.value_width, row(v_, s_.value_width, b, h, end), s_.value_width);
                std::fill_n(row(h_, s_.width, b, h, end), n * s_.width, T(0));
            }
            for (extent_t i = 0; i < n; ++i) {
                std::size_t const at = static_cast<std::size_t>(b * s_.tokens + end + i);
                log_l_[at] = T(0), l_[at] = 1, position_[at] = static_cast<std::int32_t>(tokens(b) + i);
            }
            resize(b, end + n);
            tokens_[static_cast<std::size_t>(b)] += n;
        }
    }
    // Rounds of merging until `size` entries are left. mass(b, j): attention that entry j got.
    template <class Mass>
    void shrink(extent_t size, Mass const& mass) {
        std::vector<double> got(static_cast<std::size_t>(s_.tokens));
        for (extent_t b = 0; b < s_.batch; ++b) {
            for (extent_t j = 0; j < entries(b); ++j) { got[static_cast<std::size_t>(j)] = mass(b, j); }
            while (entries(b) > size && entries(b) - rule_.sinks > 1) {
                extent_t const most = (entries(b) - rule_.sinks) / 2;
                resize(b, round(b, std::min(entries(b) - size, most), got.data()));
            }
        }
    }

private:
    void resize(extent_t b, extent_t n) {
        for (extent_t j = n; j < entries(b); ++j) { log_l_[static_cast<std::size_t>(b * s_.tokens + j)] = -math::inf<T>(); }
        entries_[static_cast<std::size_t>(b)] = n, length_[static_cast<std::size_t>(b)] = static_cast<std::int32_t>(n);
    }
    // How many entries are left.
    extent_t round(extent_t b, extent_t merges, double* mass) {
        extent_t const count = entries(b);
        std::int32_t* const l = l_.data() + b * s_.tokens;
        std::vector<extent_t> order(static_cast<std::size_t>(count - 1 - rule_.sinks));
        std::iota(order.begin(), order.end(), rule_.sinks);
        auto const weight = [&](extent_t j) { return (mass[j] + mass[j + 1]) * static_cast<double>(l[j] + l[j + 1]) * std::exp(-static_cast<double>(j) / rule_.age); };
        std::vector<double> cost(static_cast<std::size_t>(count));
        for (extent_t const j : order) { cost[static_cast<std::size_t>(j)] = weight(j); }
        std::stable_sort(order.begin(), order.end(), [&](extent_t x, extent_t y) { return cost[static_cast<std::size_t>(x)] < cost[static_cast<std::size_t>(y)]; });
        // The least first, none that touches one already chosen. That may block the rest with fewer than `merges`: then pairs from the front on, which always suffice.
        std::vector<bool> joins(static_cast<std::size_t>(count), false), taken(static_cast<std::size_t>(count), false);
        extent_t chosen = 0;
        for (extent_t const j : order) {
            if (chosen == merges) { break; }
            std::size_t const at = static_cast<std::size_t>(j);
            if (taken[at] || taken[at + 1]) { continue; }
            taken[at] = taken[at + 1] = joins[at] = true;
            ++chosen;
        }
        if (chosen < merges) {
            std::fill(joins.begin(), joins.end(), false);
            for (extent_t i = 0; i < merges; ++i) { joins[static_cast<std::size_t>(rule_.sinks + 2 * i)] = true; }
        }
        extent_t to = 0;
        for (extent_t j = 0; j < count; ++j, ++to) {
            bool const join = joins[static_cast<std::size_t>(j)];
            double const a = l[j], total = join ? a + l[j + 1] : a;
            for (extent_t h = 0; h < s_.heads; ++h) { put(b, h, j, to, join, a / total); }
            mass[to] = join ? mass[j] + mass[j + 1] : mass[j];
            std::size_t const from = static_cast<std::size_t>(b * s_.tokens + j), at = static_cast<std::size_t>(b * s_.tokens + to);
            position_[at] = position_[from + (join ? 1 : 0)];
            l_[at] = static_cast<std::int32_t>(total);
            log_l_[at] = static_cast<T>(std::log(total));
            if (join) { ++j; }
        }
        return to;
    }
    // Entry j, or j and j + 1 joined, as entry `to`; share: of j in the multiplicity of both.
    void put(extent_t b, extent_t h, extent_t j, extent_t to, bool join, double share) {
        T *const k = row(k_, s_.width, b, h, j), *const s = row(h_, s_.width, b, h, j), *const v = row(v_, s_.value_width, b, h, j);
        T *const k_to = row(k_, s_.width, b, h, to), *const s_to = row(h_, s_.width, b, h, to), *const v_to = row(v_, s_.value_width, b, h, to);
        if (!join) {
            if (to == j) { return; }
            std::copy_n(k, s_.width, k_to), std::copy_n(s, s_.width, s_to), std::copy_n(v, s_.value_width, v_to);
            return;
        }
        T const part = static_cast<T>(share);
        for (extent_t e = 0; e < s_.width; ++e) {
            T const x = s[e] * s[e], y = s[s_.width + e] * s[s_.width + e], sum = x + y, w = sum > T(0) ? x / sum : part;
            T const second = k[s_.width + e];
            k_to[e] = second + w * (k[e] - second); // equal keys stay what they are
            s_to[e] = s[e] + s[s_.width + e];
        }
        for (extent_t e = 0; e < s_.value_width; ++e) {
            T const second = v[s_.value_width + e];
            v_to[e] = second + part * (v[e] - second);
        }
    }
};

// New tokens k (B, H, n, d), v (B, H, n, dv) behind the last of each sequence; ragged where they get different numbers of them. Throws shape_error, before anything is written, when there is no room.
template <class A = native_arch, class T, class K, class V>
void append(merged_cache<T>& c, K const& k_in, V const& v_in) {
    using door = detail::door<A>;
    tensor_view<T const> const k = as_view(k_in), v = as_view(v_in);
    cache_shape const& s = c.sizes();
    detail::argument const args[] = {detail::argument::of("k", k), detail::argument::of("v", v)};
    door::check_axes(args, 2, nullptr, 0);
    shape const wk{s.batch, s.heads, k.extent(2), s.width}, wv{s.batch, s.heads, k.extent(2), s.value_width};
    detail::argument const want[] = {{"the cache's entries", wk, {}, 1, sizeof(T), {}, false}, {"the cache's entries", wv, {}, 1, sizeof(T), {}, false}};
    door::check_same(args[0], want[0]);
    door::check_same(args[1], want[1]);
    door::check_offsets(args[0], args[1]);
    for (extent_t b = 0; b < s.batch; ++b) {
        if (c.entries(b) + k.length(b) > s.tokens) { door::refuse(sentence<A>("heed: sequence ", b, " of the cache has ", c.entries(b), " entries and no room for ", k.length(b), " more; compress it first")); }
    }
    c.template take<A>(k, v);
}

// mass (B, H, M, 1): the attention that each key got, summed over the queries and the heads of its group; saved: what forward saved. It is the gradient
// of values by an output whose derivative is 1, one more walk. Option: a backend.
template <class A = native_arch, class M, class Q, class K, class T, class Saved, class... Options>
void attention_mass(M const& mechanism, Q const& q_in, K const& k_in, Saved const& saved, tensor_view<T> mass, Options const&... options) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in);
    static constexpr T one = T(1);
    shape const rows{q.extent(0), q.extent(1), q.extent(2), 1}, keys{k.extent(0), k.extent(1), k.extent(2), 1};
    tensor_view<T const> const ones(&one, rows, strides{}), values(&one, keys, strides{});
    backward<A>(mechanism, q, k, values, ones, saved, ones, tensor_view<T>{}, tensor_view<T>{}, mass, options...);
}

// Merges neighbours until `size` entries of each sequence are left, or only sinks and one more. mass (B, 1 or H, entries, 1).
template <class A = native_arch, class T, class X>
void compress(merged_cache<T>& c, extent_t size, X const& mass_in) {
    tensor_view<T const> const mass = as_view(mass_in);
    cache_shape const& s = c.sizes();
    detail::door<A>::check_view("mass", mass.shape(), {s.batch, s.heads, c.entries(), 1}, true);
    if (mass.extent(0) != s.batch || mass.extent(2) != c.entries() || size < 0) { detail::door<A>::refuse(sentence<A>("heed: mass has ", mass.extent(0), " batch entries of ", mass.extent(2), " positions; the cache has ", s.batch, " of ", c.entries())); }
    c.shrink(size, [&](extent_t b, extent_t j) {
        double sum = 0;
        for (extent_t h = 0; h < mass.extent(1); ++h) { sum += static_cast<double>(mass(b, h, j, 0)); }
        return sum;
    });
}

} // namespace heed
