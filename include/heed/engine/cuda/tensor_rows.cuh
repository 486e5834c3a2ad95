// SPDX-License-Identifier: BSD-3-Clause
// Two rows of an accumulator in each thread of a warpgroup (mma.cuh), on their way from scores to weights:
//
//   bend, mask       the score chain and the pattern, on the accumulator; the pattern only where a tile is partial
//   raise, weigh     the normalizer, in its unit; the sum of a row is that of the weights before they are rounded
//   terms            weights as one or two numbers of 16 bits
//
// Where rows carry powers of two (tensor_planes.cuh), those of k meet the scores and those of v the weights. What a row then holds may be of any size: it gets a power
// of its own, tile by tile, which the values that are summed with it are multiplied by.
#pragma once

#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/engine/cuda/tensor_planes.cuh>
#include <heed/engine/cuda/tensor_sizes.cuh>
#include <heed/kernel/cuda/mma.cuh>

namespace heed::detail {

template <class M, int Keys, class Operand>
struct tensor_rows {
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    static constexpr bool linear = is_linear<decltype(M::score)>, scaled = Operand::scaled;
    static constexpr int terms = Operand::terms, apart = scaled ? 2 : 1; // leads that differ

    M const* m;
    place at;
    int row[2], last_row; // of this thread; the last query
    row_type state[2];
    float factor[2], sum[2]; // of a tile; of the weights so far, of this thread's columns
    float power[2] = {1, 1}; // that what is summed from a tile's weights is multiplied by, where rows are scaled

    // first: the query of the warpgroup's first row. powers: of the head's queries.
    HEED_DEVICE tensor_rows(M const& mechanism, place const& where, int first, [[maybe_unused]] float const* powers) : m(&mechanism), at(where) {
        row[0] = first + static_cast<int>(threadIdx.x % 128) / 32 * 16 + static_cast<int>(threadIdx.x % 32) / 4;
        row[1] = row[0] + 8;
        last_row = static_cast<int>(at.queries) - 1;
        float const leading = static_cast<float>(leading_factor(m->score, at) * (linear ? normalizer_type::unit : 1.0));
        odd_lead_ = !(leading > 0);
#pragma unroll
        for (int h = 0; h < apart; ++h) {
            lead_[h] = leading;
            if constexpr (scaled) { lead_[h] *= powers[min(row[h], last_row)]; }
            unit_[h] = linear ? (odd_lead_ ? 1.0f : lead_[h]) : static_cast<float>(normalizer_type::unit);
        }
        state[0] = state[1] = m->normalizer.template start<float>(at);
        sum[0] = sum[1] = 0;
    }
    // Scores of the keys from `key` on become weights. Their sums wait in each thread until the item ends: what is settled late is scaled by the same factors.
    HEED_DEVICE void weigh(float (&s)[Keys / 2], int key, bool partial, [[maybe_unused]] float const* k_powers, [[maybe_unused]] float const* v_powers) {
        int const column = 2 * static_cast<int>(threadIdx.x % 4), first = key + column, end = static_cast<int>(at.keys);
        auto const i_of = [&](int r) { return min(row[r / 2 % 2], last_row); };
        auto const j_of = [&](int r) { return first + r / 4 * 8 + r % 2; };
        if constexpr (scaled) { multiply(s, k_powers + column); }
        if constexpr (!linear) {
#pragma unroll
            for (int r = 0; r < Keys / 2; ++r) { s[r] = bent_score(m->score, at, i_of(r), min(j_of(r), end - 1), s[r] * lead(r), 1.0f); }
        }
        if (linear && odd_lead_) {
#pragma unroll
            for (int r = 0; r < Keys / 2; ++r) { s[r] *= lead(r); }
        }
        if (partial) {
#pragma unroll
            for (int r = 0; r < Keys / 2; ++r) {
                int const j = j_of(r);
                bool const kept = static_cast<bool>(m->pattern.keep(at, i_of(r), min(j, end - 1))) && j < end;
                s[r] = kept ? s[r] : -math::inf<float>();
            }
        }
        each_largest(s, [](float x) { return x; }, [&](int h, float largest) { factor[h] = m->normalizer.raise(state[h], largest * unit(2 * h)); });
        float part[2][2] = {};
#pragma unroll
        for (int r = 0; r < Keys / 2; ++r) {
            s[r] = m->normalizer.weight(state[r / 2 % 2], s[r] * unit(r));
            part[r / 2 % 2][r / 4 % 2] += s[r];
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) { sum[h] = sum[h] * factor[h] + (part[h][0] + part[h][1]); }
        if constexpr (scaled) {
            float there[2];
            multiply(s, v_powers + column);
            each_largest(s, [](float x) { return fabsf(x); }, [&](int h, float largest) {
                auto const p = device::row_power::of<14>(largest);
                there[h] = p.there;
                power[h] = p.back;
            });
#pragma unroll
            for (int r = 0; r < Keys / 2; ++r) { s[r] *= there[r / 2 % 2]; }
        }
    }
    HEED_DEVICE static void to_terms(float const (&s)[Keys / 2], std::uint32_t (&p)[terms][Keys / 4]) {
#pragma unroll
        for (int r = 0; r < Keys / 4; ++r) {
            std::uint32_t w[terms];
            device::split_two<typename Operand::type>(s[2 * r], s[2 * r + 1], w);
#pragma unroll
            for (int t = 0; t < terms; ++t) { p[t][r] = w[t]; }
        }
    }
    // f(a, b, first) for the terms of two factors whose products count, the smallest first.
    template <class F>
    HEED_DEVICE static void each_product(F const& f) {
#pragma unroll
        for (int both = terms - 1; both >= 0; --both) {
#pragma unroll
            for (int a = both; a >= 0; --a) { f(a, both - a, both == terms - 1 && a == both); }
        }
    }
    HEED_DEVICE void settle() {
#pragma unroll
        for (int h = 0; h < 2; ++h) { m->normalizer.settle(state[h], device::quad_sum(sum[h])); }
    }

private:
    bool odd_lead_;                   // the leading factor is not positive: scores are multiplied before their peak is sought
    float lead_[apart], unit_[apart]; // leading factors of the score; what a score is multiplied by then

    // Of register r of an accumulator.
    HEED_DEVICE float lead(int r) const { return lead_[r / 2 % 2 % apart]; }
    HEED_DEVICE float unit(int r) const { return unit_[r / 2 % 2 % apart]; }

    HEED_DEVICE static void multiply(float (&s)[Keys / 2], float const* powers) {
#pragma unroll
        for (int g = 0; g < Keys / 8; ++g) {
            float2 const two = *reinterpret_cast<float2 const*>(powers + 8 * g);
#pragma unroll
            for (int r = 0; r < 4; ++r) { s[4 * g + r] *= r % 2 == 0 ? two.x : two.y; }
        }
    }
    // of(row, the largest f(s) of the row): four chains a row, then the four lanes that share it.
    template <class F, class G>
    HEED_DEVICE static void each_largest(float const (&s)[Keys / 2], F const& f, G const& of) {
        float peak[2][4];
#pragma unroll
        for (int r = 0; r < Keys / 2; ++r) {
            float& to = peak[r / 2 % 2][r / 4 % 4];
            to = r < 16 && r % 2 == 0 ? f(s[r]) : fmaxf(to, f(s[r]));
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) { of(h, device::quad_max(fmaxf(fmaxf(peak[h][0], peak[h][1]), fmaxf(peak[h][2], peak[h][3])))); }
    }
};

} // namespace heed::detail
