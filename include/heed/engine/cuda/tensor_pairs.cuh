// SPDX-License-Identifier: BSD-3-Clause
// What backward does between its products on the tensor cores: scores to weights, and the derivative by a weight to that by a product of q and k.
#pragma once

#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/policy/score/pull.hpp>

namespace heed::detail {

// A tile of queries as one thread sees it: element r of an accumulator of 64 keys x 64 queries is the pair (key + 8 (r / 2 % 2), from + 8 (r / 4) + 2 (lane % 4) + r % 2).
template <class M>
struct tensor_pairs {
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    static constexpr bool linear = is_linear<score_type>;
    struct no_sink {
        static constexpr bool wanted = false;
    };

    M const& m;
    place const& at;
    float2 const* rows; // of the tile's queries
    float2 factor;
    int query, key;     // the first; the first of this thread
    bool cut;           // some pair may be masked, or does not exist

    HEED_DEVICE static int query_of(int from, int r) { return from + r / 4 * 8 + 2 * static_cast<int>(threadIdx.x % 4) + r % 2; }
    HEED_DEVICE int i(int from, int r) const { return min(query + query_of(from, r), static_cast<int>(at.queries) - 1); }
    HEED_DEVICE int j(int r) const { return min(key + r / 2 % 2 * 8, static_cast<int>(at.keys) - 1); }
    HEED_DEVICE bool is_pair(int from, int r) const { return query + query_of(from, r) < static_cast<int>(at.queries) && key + r / 2 % 2 * 8 < static_cast<int>(at.keys); }
    // f(r, what is saved of the row, its centre)
    template <class F>
    HEED_DEVICE void each(int from, F const& f) const {
#pragma unroll
        for (int r = 0; r < 32; r += 4) {
            float4 const two = *reinterpret_cast<float4 const*>(rows + query_of(from, r)); // both queries of four elements
#pragma unroll
            for (int u = 0; u < 4; ++u) { f(r + u, m.normalizer.template resume<float>(at, u % 2 == 0 ? two.x : two.z), u % 2 == 0 ? two.y : two.w); }
        }
    }
    HEED_DEVICE void clear_masked(std::uint32_t kept, float (&y)[32]) const {
        if (cut || masks_of<score_type>) {
#pragma unroll
            for (int r = 0; r < 32; ++r) { y[r] = (kept >> r & 1u) != 0 ? y[r] : 0.0f; }
        }
    }

    // Scores to weights; raw scores where the chain bends them; which pairs are attended.
    HEED_DEVICE void weigh(int from, float (&p)[32], float (&raw)[linear ? 1 : 32], std::uint32_t& kept) const {
        if (cut) {
#pragma unroll
            for (int r = 0; r < 32; ++r) {
                if (!(is_pair(from, r) && static_cast<bool>(m.pattern.keep(at, i(from, r), j(r))))) { kept &= ~(1u << r); }
            }
        }
        each(from, [&](int r, row_type const& state, float) {
            float s = p[r] * factor.y;
            if constexpr (!linear) {
                raw[r] = s;
                s = bent_score(m.score, at, i(from, r), j(r), s, static_cast<float>(normalizer_type::unit));
                if (masks_of<score_type> && s == -math::inf<float>()) { kept &= ~(1u << r); }
            }
            p[r] = m.normalizer.weight(state, s);
        });
        clear_masked(kept, p);
    }
    // dp to ds.
    HEED_DEVICE void slope(int from, float const (&p)[32], float const (&raw)[linear ? 1 : 32], std::uint32_t kept, float (&ds)[32]) const {
        each(from, [&](int r, row_type const& state, float centre) {
            float const by_score = m.normalizer.derivative(state, 0.0f, p[r]) * (ds[r] - centre); // a mergeable normalizer's is the weight
            if constexpr (linear) {
                ds[r] = by_score;
            } else {
                pair_tables<score_type> const tables(m.score, at, i(from, r), j(r));
                no_sink sink;
                ds[r] = pull(m.score, raw[r], device_pair<>{at, i(from, r), j(r), tables.of}, by_score, sink);
            }
        });
        clear_masked(kept, ds);
    }
};

} // namespace heed::detail
