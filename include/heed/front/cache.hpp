// SPDX-License-Identifier: BSD-3-Clause
// Caches of keys and values: made over memory of the caller's (contiguous_cache, ring_cache, paged_cache) or with memory of their own (make_cache),
// filled by append, read by decode. Elements of K and V: float, double, bf16, fp16, std::int8_t, fp8_e4m3 (heed/kernel/bytes.hpp says what the
// one-byte types cost in accuracy), K and V independently as long as both are computed in the same type.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/cache_append.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <algorithm>
#include <vector>

namespace heed {

namespace detail {

template <class C>
concept Cache = requires(C& c) { c.view().lengths; };

// Shapes and pages of a cache, whoever owns it.
template <class A, class K, class V>
void check_cache(cache_view<K, V> const& c) {
    using door = detail::door<A>;
    argument const args[] = {argument::of("the cache's k", tensor_view<K const>(c.k)), argument::of("the cache's v", tensor_view<V const>(c.v))};
    static constexpr axis_rule rules[] = {
        {1, axis::batch, rule_kind::equal, 0, axis::batch}, {1, axis::head, rule_kind::equal, 0, axis::head}, {1, axis::seq, rule_kind::equal, 0, axis::seq}};
    door::check_axes(args, 2, rules, 3);
    for (argument const& a : args) {
        if (a.extents.feature > 1 && a.steps.feature != 1) { door::refuse(sentence<A>("heed: ", a.name, " has feature stride ", a.steps.feature, "; features of a cache lie side by side")); }
    }
    auto const scales = [](char const* name, bool bytes, tensor_view<float> const& s, shape rows) {
        if (!bytes) { return; }
        if (s.data_handle() == nullptr && rows.size() > 0) { door::refuse(sentence<A>("heed: a cache of one-byte elements needs ", name, ", one per token and head or one per head")); }
        door::check_view(name, s.shape(), {rows.batch, rows.head, rows.seq, 1}, false);
    };
    scales("k_scale", is_byte<K>, c.k_scale, c.k.shape());
    scales("v_scale", is_byte<V>, c.v_scale, c.v.shape());
    extent_t const entries = c.k.extent(0), sequences = c.sequences();
    if (c.kind == cache_kind::paged) {
        if (c.table.sequences() != sequences) { door::refuse(sentence<A>("heed: the block table has ", c.table.sequences(), " sequences and lengths has ", sequences, "; they must be equal")); }
        if (c.table.pages() > entries) { door::refuse(sentence<A>("heed: the block table was checked for ", c.table.pages(), " pages and the cache has ", entries)); }
    } else if (entries != sequences) {
        door::refuse(sentence<A>("heed: the cache has ", entries, " batch entries and lengths has ", sequences, "; they must be equal"));
    }
    for (extent_t b = 0; b < sequences; ++b) {
        extent_t const n = c.lengths[static_cast<std::size_t>(b)];
        if (n < 0 || n > longest_sequence || !c.has_room(b, n)) { door::refuse(sentence<A>("heed: sequence ", b, " of the cache has length ", n, ", which its memory does not hold")); }
    }
}

} // namespace detail

// Caches over the caller's memory. k (B, Hkv, rows, d), v (B, Hkv, rows, dv), any strides but 1 between features; lengths: one number per sequence,
// kept up to date by append. scales: see cache_view. Throws shape_error if they do not fit.
template <class A = native_arch, class K, class V>
cache_view<K, V> contiguous_cache(tensor_view<K> k, tensor_view<V> v, std::span<extent_t> lengths, tensor_view<float> k_scale = {}, tensor_view<float> v_scale = {}) {
    cache_view<K, V> const c{cache_kind::contiguous, k, v, lengths, {}, k_scale, v_scale};
    detail::check_cache<A>(c);
    return c;
}
// The last k.extent(2) tokens of each sequence. decode refuses a mechanism that would look further back.
template <class A = native_arch, class K, class V>
cache_view<K, V> ring_cache(tensor_view<K> k, tensor_view<V> v, std::span<extent_t> lengths, tensor_view<float> k_scale = {}, tensor_view<float> v_scale = {}) {
    cache_view<K, V> const c{cache_kind::ring, k, v, lengths, {}, k_scale, v_scale};
    detail::check_cache<A>(c);
    return c;
}
// k (pages, Hkv, rows of a page, d), v (pages, Hkv, rows of a page, dv); the table says which pages a sequence has, in order.
template <class A = native_arch, class K, class V>
cache_view<K, V> paged_cache(tensor_view<K> k, tensor_view<V> v, std::span<extent_t> lengths, block_table table, tensor_view<float> k_scale = {}, tensor_view<float> v_scale = {}) {
    cache_view<K, V> const c{cache_kind::paged, k, v, lengths, table, k_scale, v_scale};
    detail::check_cache<A>(c);
    return c;
}

// Sizes and kinds of a cache with memory of its own.
struct cache_shape {
    extent_t batch = 0, heads = 0, tokens = 0; // tokens: room of a sequence; of a ring, the tokens it remembers
    extent_t width = 0, value_width = 0;
};
struct contiguous {};
struct ring {};
struct paged {
    extent_t rows, pages; // of a page; in all, shared by the sequences as they grow
};

// Owns its memory and says how much that is. Copies are copies of the memory.
template <class K, class V = K>
class cache {
    cache_view<K, V> layout_; // without memory
    std::vector<K> k_;
    std::vector<V> v_;
    std::vector<float> k_scale_, v_scale_;
    std::vector<extent_t> lengths_;
    std::vector<std::int32_t> table_, free_;

public:
    cache(cache_shape s, cache_kind kind, extent_t rows, extent_t entries) : lengths_(static_cast<std::size_t>(s.batch)) {
        layout_.kind = kind;
        layout_.k = {nullptr, {entries, s.heads, rows, s.width}};
        layout_.v = {nullptr, {entries, s.heads, rows, s.value_width}};
        k_.resize(static_cast<std::size_t>(layout_.k.shape().size()));
        v_.resize(static_cast<std::size_t>(layout_.v.shape().size()));
        std::size_t const scales = static_cast<std::size_t>(entries * s.heads * rows);
        if (is_byte<K>) { k_scale_.resize(scales); }
        if (is_byte<V>) { v_scale_.resize(scales); }
        if (kind == cache_kind::paged) {
            table_.assign(static_cast<std::size_t>(s.batch * width_of(s.tokens, rows)), -1);
            for (extent_t p = entries - 1; p >= 0; --p) { free_.push_back(static_cast<std::int32_t>(p)); }
        }
    }

    cache_view<K, V> view() {
        cache_view<K, V> c = layout_;
        shape const n = layout_.k.shape(), scales{n.batch, n.head, n.seq, 1};
        c.k = {k_.data(), n};
        c.v = {v_.data(), layout_.v.shape()};
        if (is_byte<K>) { c.k_scale = {k_scale_.data(), scales}; }
        if (is_byte<V>) { c.v_scale = {v_scale_.data(), scales}; }
        c.lengths = lengths_;
        if (c.kind == cache_kind::paged) { c.table = block_table(block_table::trusted{}, table_.data(), batch(), width(), n.batch); }
        return c;
    }
    extent_t batch() const { return static_cast<extent_t>(lengths_.size()); }
    extent_t length(extent_t b) const { return lengths_[static_cast<std::size_t>(b)]; }
    // Memory of keys, values, scales, lengths and table.
    std::size_t bytes() const {
        return k_.size() * sizeof(K) + v_.size() * sizeof(V) + (k_scale_.size() + v_scale_.size()) * sizeof(float) + lengths_.size() * sizeof(extent_t) +
               (table_.size() + free_.capacity()) * sizeof(std::int32_t);
    }
    // Sequence b begins anew; its pages are free again.
    void clear(extent_t b) {
        lengths_[static_cast<std::size_t>(b)] = 0;
        for (extent_t x = 0; x < width(); ++x) {
            std::int32_t& page = table_[static_cast<std::size_t>(b * width() + x)];
            if (page >= 0) { free_.push_back(page); }
            page = -1;
        }
    }
    // Pages for `more` tokens in every sequence that append is about to write; all of them or a refusal.
    template <class A, class More>
    void reserve(More const& more) {
        if (layout_.kind != cache_kind::paged) { return; }
        extent_t wanted = 0;
        for (extent_t b = 0; b < batch(); ++b) { wanted += missing(b, more(b)); }
        if (wanted > static_cast<extent_t>(free_.size())) {
            HEED_THROW(shape_error(sentence<A>("heed: these tokens need ", wanted, " more pages and the cache has ", static_cast<extent_t>(free_.size()), " free")));
        }
        for (extent_t b = 0; b < batch(); ++b) {
            extent_t const has = pages_of(b), n = missing(b, more(b));
            for (extent_t x = has; x < has + n && x < width(); ++x) {
                table_[static_cast<std::size_t>(b * width() + x)] = free_.back();
                free_.pop_back();
            }
        }
    }

private:
    static extent_t width_of(extent_t tokens, extent_t rows) { return rows > 0 ? (tokens + rows - 1) / rows : 0; }
    extent_t width() const { return batch() > 0 ? static_cast<extent_t>(table_.size()) / batch() : 0; }
    extent_t pages_of(extent_t b) const {
        extent_t n = 0;
        while (n < width() && table_[static_cast<std::size_t>(b * width() + n)] >= 0) { ++n; }
        return n;
    }
    extent_t missing(extent_t b, extent_t more) const {
        extent_t const need = width_of(length(b) + more, layout_.k.extent(2)), has = pages_of(b);
        return need > has ? (need < width() ? need : width()) - has : 0; // beyond the table append refuses
    }
};

// make_cache<bf16>(mechanism, {.batch = 4, .heads = 8, .tokens = 4096, .width = 128, .value_width = 128}, paged{16, 1024}): a cache for decode with
// that mechanism. Kinds: contiguous{} (default), ring{}, paged{rows of a page, pages}. Scales of one-byte elements: one per token and head.
template <class K, class V = K, class M, class Kind = contiguous>
cache<K, V> make_cache(M const&, cache_shape s, Kind kind = {}) {
    static_assert(Pairwise<M>, "heed: make_cache makes caches of keys and values, for mechanisms of the pairwise family: heed::attention{...}");
    static_assert(std::is_same_v<compute_t<K>, compute_t<V>>, "heed: keys and values of a cache are computed in the same type; double goes with double");
    if (s.batch < 0 || s.heads < 0 || s.tokens < 0 || s.width < 0 || s.value_width < 0) { HEED_THROW(shape_error("heed: sizes of a cache must not be negative")); }
    if constexpr (std::is_same_v<Kind, paged>) {
        if (kind.rows < 1 || kind.pages < 0) { HEED_THROW(shape_error(sentence("heed: a page has ", kind.rows, " rows and there are ", kind.pages, "; a page needs one row at least"))); }
        return {s, cache_kind::paged, kind.rows, kind.pages};
    } else if constexpr (std::is_same_v<Kind, ring>) {
        return {s, cache_kind::ring, s.tokens, s.batch};
    } else {
        static_assert(std::is_same_v<Kind, contiguous>, "heed: kinds of caches are contiguous{}, ring{} and paged{rows, pages}");
        return {s, cache_kind::contiguous, s.tokens, s.batch};
    }
}

namespace detail {

template <class A, class K, class V, class S, class U, class E>
void append_checked(cache_view<K, V> const& c, tensor_view<S const> const& k, tensor_view<U const> const& v, E& executor) {
    using door = detail::door<A>;
    argument const args[] = {argument::of("k", k), argument::of("v", v), argument::of("the cache's k", c.k), argument::of("the cache's v", c.v)};
    static constexpr axis_rule rules[] = {{1, axis::batch, rule_kind::equal, 0, axis::batch}, {1, axis::head, rule_kind::equal, 0, axis::head},
                                          {1, axis::seq, rule_kind::equal, 0, axis::seq},     {0, axis::head, rule_kind::equal, 2, axis::head},
                                          {0, axis::feature, rule_kind::equal, 2, axis::feature}, {1, axis::feature, rule_kind::equal, 3, axis::feature}};
    door::check_axes(args, 4, rules, 6);
    door::check_offsets(args[0], args[1]);
    if (k.extent(0) != c.sequences()) { door::refuse(sentence<A>("heed: k has ", k.extent(0), " batch entries and the cache has ", c.sequences(), " sequences; they must be equal")); }
    door::check_outputs(args, 4);
    for (extent_t b = 0; b < c.sequences(); ++b) {
        extent_t const before = c.lengths[static_cast<std::size_t>(b)], n = k.length(b);
        if (before + n > longest_sequence || !c.has_room(b, before + n)) {
            door::refuse(sentence<A>("heed: sequence ", b, " has ", before, " tokens and no room in the cache for ", n, " more"));
        }
    }
    detail::for_each_item<A>(executor, concurrency_of(executor), c.sequences(), [&](extent_t b, int) noexcept { cache_append<A>::run(c, k, v, b); });
    for (extent_t b = 0; b < c.sequences(); ++b) { c.lengths[static_cast<std::size_t>(b)] += k.length(b); }
}

} // namespace detail

// Writes new tokens behind the last of each sequence: k (B, Hkv, n, d), v (B, Hkv, n, dv), any strides; ragged where sequences get different numbers of
// them. Rounds to the cache's elements; one-byte elements are scaled by their row's largest, or by the scale of their head where scales are per head.
// Throws shape_error, before anything is written, when a sequence has no room. Option: a backend. A cache with memory of its own takes its pages here.
template <class A = native_arch, detail::Cache C, class Keys, class Values, class... Options>
void append(C& c, Keys const& k_new, Values const& v_new, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the only option of append is a backend, heed::cpu{...}");
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    static_assert(detail::is_cpu<decltype(backend)>, "heed: append runs on the cpu backend");
    auto const k = as_view(k_new);
    auto const v = as_view(v_new);
    using S = typename decltype(k)::value_type;
    using U = typename decltype(v)::value_type;
    if constexpr (requires { c.template reserve<A>([](extent_t) { return extent_t(0); }); }) {
        if (k.extent(0) == c.batch()) {
            c.template reserve<A>([&](extent_t b) { return k.length(b); });
        }
    }
    auto const to = c.view();
    detail::check_cache<A>(to);
    detail::append_checked<A>(to, tensor_view<S const>(k), tensor_view<U const>(v), backend.executor);
}

} // namespace heed
