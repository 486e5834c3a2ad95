// SPDX-License-Identifier: BSD-3-Clause
// A step of attention to retrieved chunks against a cache, which keeps a landmark for every chunk beside the tokens:
//
//   hsa_cache<float> cache({.batch = 1, .heads = 2, .tokens = 65536, .width = 64, .value_width = 64}, chunk, landmark_heads, landmark_width);
//   cache.append(k_new, v_new);
//   cache.append_landmarks(l_new);                                     of chunks that are complete
//   auto const choice = cache.retrieve(e_new, slots, chunk_weights::stick_breaking);
//   decode(hsa{chunk, choice.lists(), choice.weights()}, q_new, cache, out_new);
//
// Cost of a step: (M / chunk) d_r for the choice, slots chunk (d + dv) for attention; M (d + dv) without a choice.
#pragma once

#include <heed/front/decode.hpp>
#include <heed/front/hsa.hpp>

namespace heed {

template <class T>
class hsa_cache {
    cache<T> tokens_;
    extent_t chunk_, room_, complete_ = 0, length_ = 0;
    shape marks_shape_;
    std::vector<T> marks_;

public:
    hsa_cache(cache_shape s, extent_t chunk, extent_t landmark_heads, extent_t landmark_width)
        : tokens_(s, cache_kind::contiguous, s.tokens, s.batch), chunk_(chunk), room_(chunk < 1 ? 0 : (s.tokens + chunk - 1) / chunk), marks_shape_{s.batch, landmark_heads, room_, landmark_width},
          marks_(static_cast<std::size_t>(marks_shape_.size())) {
        if (chunk < 1) { HEED_THROW(shape_error(sentence("heed: chunks of ", chunk, " keys; a chunk has at least one"))); }
    }
    // New tokens, (B, Hkv, n, d) and (B, Hkv, n, dv), as many for every sequence. Throws shape_error, before anything is written, where they do not fit.
    template <class K, class V>
    void append(K const& k, V const& v) {
        if (as_view(k).is_ragged()) { HEED_THROW(shape_error("heed: attention to chunks takes sequences of one length")); }
        heed::append(tokens_, k, v);
        length_ += as_view(k).extent(2);
    }
    // Landmarks (B, S, n, d_r) of the next n chunks, which must be complete. Throws shape_error.
    template <class L>
    void append_landmarks(L const& l_in) {
        auto const l = as_view(l_in);
        if (l.extent(0) != marks_shape_.batch || l.extent(1) != marks_shape_.head || l.extent(3) != marks_shape_.feature) {
            HEED_THROW(shape_error(sentence("heed: landmarks have ", l.extent(0), " batch entries, ", l.extent(1), " heads and ", l.extent(3), " features; the cache's have ", marks_shape_.batch, ", ", marks_shape_.head, " and ", marks_shape_.feature)));
        }
        if ((complete_ + l.extent(2)) * chunk_ > length_) { HEED_THROW(shape_error(sentence("heed: ", complete_ + l.extent(2), " landmarks of chunks of ", chunk_, " keys, and ", length_, " keys; a landmark stands for a complete chunk"))); }
        for (extent_t b = 0; b < l.extent(0); ++b)
            for (extent_t h = 0; h < l.extent(1); ++h)
                for (extent_t c = 0; c < l.extent(2); ++c)
                    for (extent_t e = 0; e < l.extent(3); ++e) { marks_[static_cast<std::size_t>(((b * marks_shape_.head + h) * room_ + complete_ + c) * marks_shape_.feature + e)] = l(b, h, c, e); }
        complete_ += l.extent(2);
    }
    // The choice of the last positions for e (B, S, N, d_r). Throws shape_error where a chunk that they may choose has no landmark yet.
    template <class A = native_arch, class E, class... Options>
    hsa_choice<T> retrieve(E const& e, extent_t slots, chunk_weights kind, Options const&... options) const {
        if ((complete_ + 1) * chunk_ < length_) { HEED_THROW(shape_error(sentence("heed: ", complete_, " landmarks for ", length_, " keys in chunks of ", chunk_, "; every chunk before the last has one"))); }
        shape const keys{marks_shape_.batch, marks_shape_.head, length_, marks_shape_.feature}; // a shape without memory
        return retrieve_chunks<A>(e, tensor_view<T const>(marks_.data(), marks_shape_), tensor_view<T const>(marks_.data(), keys, strides{}), chunk_, slots, kind, options...);
    }
    cache<T>& tokens() { return tokens_; }
    extent_t chunk() const { return chunk_; }
    extent_t length() const { return length_; }
    std::size_t bytes() const { return tokens_.bytes() + marks_.size() * sizeof(T); }
};

// q, out (B, H, N, d | dv), N queries at the end of the cache, with lists and weights {B, S, N, slots}. Option: a backend. Throws shape_error.
template <class A = native_arch, class M, class Q, class C, class O, class... Options>
    requires ChunkedSparse<M>
void decode(M const& m, Q const& q_in, C&& cache, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    tensor_view<T const> const q = as_view(q_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    if (cache.chunk() != m.chunk) { detail::door<A>::refuse(sentence<A>("heed: the cache keeps landmarks of chunks of ", cache.chunk(), " keys, the mechanism's have ", m.chunk)); }
    int const slots = detail::concurrency_of(backend.executor);
    shape const s = out.shape();
    std::vector<T> part(static_cast<std::size_t>(s.size()));
    tensor_view<T> const to(part.data(), s);
    for (extent_t x = 0; m.lists.extent(3) == 0 && x < s.size(); ++x) { out(x / s.feature / s.seq / s.head, x / s.feature / s.seq % s.head, x / s.feature % s.seq, x % s.feature) = T(0); }
    tensor_view<T const> const keys(nullptr, {q.extent(0), 1, cache.length(), q.extent(3)}, strides{});
    detail::for_each_slot<A>(m, q, keys, [&](extent_t n, any_pattern const& pattern) {
        decode<A>(detail::chunk_attention<T>(m, pattern, q.extent(3)), q, cache.tokens().view(), to, backend);
        gated_rows<T, A>::sum(detail::slot_of(m.weights, n), to, out, n == 0, backend.executor, slots);
    });
}

} // namespace heed
