// SPDX-License-Identifier: BSD-3-Clause
// A step of native sparse attention against a cache, which keeps the means of the blocks of keys and values beside them:
//
//   nsa_cache<float> cache({.batch = 1, .heads = 8, .tokens = 65536, .width = 128, .value_width = 128}, block);
//   cache.append(k_new, v_new);
//   decode(nsa{block, top, window, gates...}, q_new, cache, out_new);
//
// Cost of a step: (M / block) d + top block d + window d, for each head; M d for none of them.
#pragma once

#include <heed/front/decode.hpp>
#include <heed/front/nsa.hpp>

namespace heed {

template <class T>
class nsa_cache {
    cache<T> tokens_;
    block_summaries<T> keys_, values_;

public:
    nsa_cache(cache_shape s, extent_t block)
        : tokens_(s, cache_kind::contiguous, s.tokens, s.batch), keys_(s.batch, s.heads, s.tokens, s.width, block), values_(s.batch, s.heads, s.tokens, s.value_width, block) {}
    // New tokens, (B, Hkv, n, d) and (B, Hkv, n, dv). Throws shape_error, before anything is written, where they do not fit.
    template <class K, class V>
    void append(K const& k, V const& v) {
        heed::append(tokens_, k, v);
        keys_.append(k);
        values_.append(v);
    }
    cache<T>& tokens() { return tokens_; }
    block_summaries<T>& keys() { return keys_; }
    block_summaries<T>& values() { return values_; }
    std::size_t bytes() const { return tokens_.bytes() + keys_.bytes() + values_.bytes(); }
};

// q, out (B, H, N, d | dv) with gates {B, H, N, 1}; all sequences of the cache have the same length. Option: a backend. Throws shape_error.
template <class A = native_arch, class M, class Q, class C, class O, class... Options>
    requires NativeSparse<M>
void decode(M const& m, Q const& q_in, C&& cache, O&& out_in, Options const&... options) {
    using door = detail::door<A>;
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    tensor_view<T const> const q = as_view(q_in);
    block_summaries<T>&key_means = cache.keys(), &value_means = cache.values();
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::check_nsa<A>(m, q.shape(), q.is_ragged());
    auto const rows = cache.tokens().view();
    extent_t const heads = rows.heads(), group = heads > 0 ? q.extent(1) / heads : 1, batch = q.extent(0), keys = batch > 0 ? key_means.length(0) : 0;
    for (extent_t b = 0; b < rows.sequences(); ++b) {
        if (key_means.length(b) != keys) { door::refuse(sentence<A>("heed: sequence ", b, " of the cache has ", key_means.length(b), " tokens and the first has ", keys, "; native sparse attention takes sequences of one length")); }
    }
    if (key_means.block() != m.block) { door::refuse(sentence<A>("heed: the cache keeps means of blocks of ", key_means.block(), " tokens, the mechanism's have ", m.block)); }
    shape const s{batch, q.extent(1), q.extent(2), out.extent(3)};
    std::vector<T> part(static_cast<std::size_t>(s.size())), sums(static_cast<std::size_t>(s.batch * s.head * s.seq));
    tensor_view<T> const to(part.data(), s), lse(sums.data(), {s.batch, s.head, s.seq, 1});
    int const slots = detail::concurrency_of(backend.executor);
    T const factor = m.scale(q.extent(3));
    auto const branch = [&](int n, auto const& pattern, auto const& from, bool first) {
        decode<A>(chosen_attention(any_pattern(pattern), factor), q, from, to, save{lse}, backend);
        gated_rows<T, A>::sum(m.gate(n), to, out, first, backend.executor, slots);
    };
    // Summaries are a cache of their own, of as many rows as there are blocks.
    std::vector<extent_t> blocks(static_cast<std::size_t>(batch), (keys + m.block - 1) / m.block);
    auto const summaries = contiguous_cache<A>(key_means.memory(), value_means.memory(), std::span<extent_t>(blocks));
    branch(0, compressed{m.block, keys - q.extent(2)}, summaries, true);
    shape const lengths{batch, heads, keys, q.extent(3)}; // of the keys: a shape without memory
    block_bits const bits = select_nsa<A>(q, tensor_view<T const>(key_means.means().data_handle(), lengths, strides{}), key_means, tensor_view<T const>(lse), static_cast<double>(factor), m.top, backend);
    branch(1, routed(bits.map(1, m.block, group), causal_bottom_right{}), rows, false);
    if (m.window > 0) { branch(2, window{m.window}, rows, false); }
}

} // namespace heed
