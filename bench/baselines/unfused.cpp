// SPDX-License-Identifier: BSD-3-Clause
#include "unfused.hpp"

#include "../timing/pair_count.hpp"
#include "../timing/team.hpp"

#include <heed/engine/workspace.hpp>
#include <heed/kernel/contract_tile.hpp>
#include <heed/kernel/math.hpp>
#include <heed/kernel/mix_tile.hpp>
#include <heed/kernel/pack.hpp>
#include <heed/policy/ring/plus_times.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace heed::bench {

namespace {

using A = native_arch;

// Scores stand in panels: all keys of as many queries as a register block holds, vectors along queries. A panel is
// written, normalised and read as one contiguous stretch.
template <class T>
struct head_pass {
    static constexpr tile_config tiles = default_tiles<T, A>();
    using contract = contract_tile<plus_times, T, A, tiles>;
    using mix = mix_tile<plus_times, T, A, tiles>;
    using V = vec<T, A>;
    static constexpr extent_t lanes = V::lanes, pitch = contract::pitch;
    static constexpr extent_t key_block = 256; // keys of a block stay in the second-level cache while all panels pass

    problem const& p;
    extent_t panels;
    T *queries, *scores, *peaks, *bias_block, *out_panel, *scale;

    head_pass(problem const& what, arena& a)
        : p(what), panels((p.queries + pitch - 1) / pitch), queries(a.take<T>(panels * p.dim * pitch)),
          scores(a.take<T>(panels * p.keys * pitch)), peaks(a.take<T>(panels * pitch)),
          bias_block(a.take<T>(p.bias == bias_kind::full ? key_block * pitch : 0)), out_panel(a.take<T>(p.dim_v * pitch)),
          scale(a.take<T>(pitch)) {}

    void run(operands<T> const& o, extent_t unit) const {
        auto const batch = unit / p.heads, head = unit % p.heads;
        auto const kv = batch * p.kv_heads + head / (p.heads / p.kv_heads);
        pack_queries(o.q + unit * p.queries * p.dim);
        multiply_keys(o.k + kv * p.keys * p.dim);
        for (extent_t panel = 0; panel < panels; ++panel) {
            normalise(o, head, panel);
            multiply_values(o.v + kv * p.keys * p.dim_v, o.out + unit * p.queries * p.dim_v, panel);
        }
    }

private:
    extent_t rows_of(extent_t panel) const { return std::min(pitch, p.queries - panel * pitch); }
    int vectors_of(extent_t panel) const { return static_cast<int>((rows_of(panel) + lanes - 1) / lanes); }
    bool is_plain() const { return p.mask == mask_kind::full && p.softcap == 0 && !p.alibi && p.bias == bias_kind::none; }

    // Queries carry 1/sqrt(d), and log2(e) too where nothing bends the score before the exponential.
    void pack_queries(T const* q) const {
        auto const factor = (is_plain() ? math::log2e : 1.0) / std::sqrt(static_cast<double>(p.dim));
        for (extent_t panel = 0; panel < panels; ++panel)
            pack_transposed<A>(q + panel * pitch * p.dim, p.dim, extent_t{1}, rows_of(panel), p.dim, queries + panel * p.dim * pitch, pitch,
                               pitch);
        scale_in_place<A>(queries, panels * p.dim * pitch, static_cast<T>(factor));
    }

    void multiply_keys(T const* k) const {
        std::fill_n(peaks, panels * pitch, -std::numeric_limits<T>::infinity());
        for (extent_t j = 0; j < p.keys; j += key_block) {
            typename contract::rows const block{k + j * p.dim, p.dim};
            for (extent_t panel = 0; panel < panels; ++panel)
                contract::run(block, std::min(key_block, p.keys - j), block, queries + panel * p.dim * pitch, p.dim,
                              scores + (panel * p.keys + j) * pitch, peaks + panel * pitch, 0, vectors_of(panel));
        }
    }

    // Scores of a panel become weights; `scale` the reciprocals of their sums.
    void normalise(operands<T> const& o, extent_t head, extent_t panel) const {
        auto* const s = scores + panel * p.keys * pitch;
        auto* const peak = peaks + panel * pitch;
        if (!is_plain()) bend_and_mask(o, head, panel, s, peak);
        switch (vectors_of(panel)) {
        case 1:
            weigh<1>(s, peak);
            break;
        case 2:
            weigh<2>(s, peak);
            break;
        default:
            weigh<3>(s, peak);
            break;
        }
    }

    // Cap, slopes, bias, mask, in this order; the peak is taken anew, and everything goes to base 2.
    void bend_and_mask(operands<T> const& o, extent_t head, extent_t panel, T* s, T* peak) const {
        auto const vectors = vectors_of(panel);
        auto const first_query = panel * pitch, shift = p.keys - p.queries;
        V const cap(static_cast<T>(p.softcap)), inverse_cap(p.softcap != 0 ? static_cast<T>(1 / p.softcap) : T(0));
        V const slope(p.alibi ? o.slopes[head] : T(0));
        alignas(line_bytes) T begin[pitch], end[pitch], position[pitch]; // per query: keys seen, own place; exact up to 2^24
        for (extent_t i = 0; i < pitch; ++i) {
            auto const query = std::min(first_query + i, p.queries - 1);
            auto const seen = keys_of(p, query);
            begin[i] = static_cast<T>(seen.begin);
            end[i] = static_cast<T>(seen.end);
            position[i] = static_cast<T>(query + shift);
        }
        V top[tiles.vecs];
        for (auto& t : top) t = V(-std::numeric_limits<T>::infinity());
        for (extent_t j0 = 0; j0 < p.keys; j0 += key_block) {
            auto const keys = std::min(key_block, p.keys - j0);
            if (p.bias == bias_kind::full)
                pack_transposed<A>(o.bias + (head * p.queries + first_query) * p.keys + j0, p.keys, extent_t{1}, rows_of(panel), keys,
                                   bias_block, pitch, pitch);
            for (extent_t j = j0; j < j0 + keys; ++j) {
                V const key(static_cast<T>(j));
                for (int w = 0; w < vectors; ++w) {
                    auto* const at = s + j * pitch + w * lanes;
                    V x = V::load(at);
                    if (p.softcap != 0) x = cap * tanh(x * inverse_cap);
                    if (p.alibi) x = fma(-slope, abs(V::load(position + w * lanes) - key), x);
                    if (p.bias == bias_kind::row) x = x + V(o.bias[j]);
                    if (p.bias == bias_kind::full) x = x + V::load(bias_block + (j - j0) * pitch + w * lanes);
                    x = x * V(static_cast<T>(math::log2e));
                    auto const seen = (key >= V::load(begin + w * lanes)) & (key < V::load(end + w * lanes));
                    x = select(seen, x, V(-std::numeric_limits<T>::infinity()));
                    x.store(at);
                    top[w] = max(top[w], x);
                }
            }
        }
        // A query that sees nothing: any finite peak makes all its weights 0.
        for (int w = 0; w < vectors; ++w) select(top[w] == V(-std::numeric_limits<T>::infinity()), V(0), top[w]).store(peak + w * lanes);
    }

    // Six exponentials at a time, so that their latencies overlap.
    template <int W>
    void weigh(T* s, T const* peak) const {
        constexpr int keys_at_once = 6 / W;
        V top[W], sum[W];
        static_for<W>([&](auto w) {
            top[w] = V::load(peak + w * lanes);
            sum[w] = V(0);
        });
        auto const step = [&]<int Keys>(extent_t j, std::integral_constant<int, Keys>) HEED_INLINE_LAMBDA {
            V x[Keys][W];
            static_for<Keys>([&](auto r) HEED_INLINE_LAMBDA {
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { x[r][w] = fast_exp2(V::load(s + (j + r) * pitch + w * lanes) - top[w]); });
            });
            static_for<Keys>([&](auto r) HEED_INLINE_LAMBDA {
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    x[r][w].store(s + (j + r) * pitch + w * lanes);
                    sum[w] = sum[w] + x[r][w];
                });
            });
        };
        extent_t j = 0;
        for (; j + keys_at_once <= p.keys; j += keys_at_once) step(j, std::integral_constant<int, keys_at_once>{});
        for (; j < p.keys; ++j) step(j, std::integral_constant<int, 1>{});
        static_for<W>([&](auto w) { select(sum[w] == V(0), V(0), V(1) / sum[w]).store(scale + w * lanes); });
    }

    void multiply_values(T const* v, T* out, extent_t panel) const {
        auto const vectors = vectors_of(panel);
        std::fill_n(out_panel, p.dim_v * pitch, T(0));
        alignas(line_bytes) T one[pitch];
        std::fill_n(one, pitch, T(1));
        for (extent_t j = 0; j < p.keys; j += key_block) {
            segment const all{0, static_cast<int>(std::min(key_block, p.keys - j)), 0, vectors, false};
            mix::run(v + j * p.dim_v, p.dim_v, scores + (panel * p.keys + j) * pitch, &all, 1, out_panel, one, p.dim_v, vectors);
        }
        for (extent_t e = 0; e < p.dim_v; ++e)
            for (int w = 0; w < vectors; ++w) {
                auto* const at = out_panel + e * pitch + w * lanes;
                (V::load(at) * V::load(scale + w * lanes)).store(at);
            }
        unpack_transposed<A>(out_panel, pitch, rows_of(panel), p.dim_v, out + panel * pitch * p.dim_v, p.dim_v, extent_t{1});
    }
};

template <class T>
std::size_t bytes_per_thread(problem const& p) {
    arena count(nullptr);
    head_pass<T> const layout(p, count);
    return count.bytes();
}

extent_t team_of(problem const& p) { return std::min<extent_t>(p.threads, p.batch * p.heads); }

} // namespace

template <class T>
std::size_t unfused_scratch_bytes(problem const& p) {
    return static_cast<std::size_t>(team_of(p)) * bytes_per_thread<T>(p);
}

template <class T>
void unfused_attention(problem const& p, operands<T> const& o, std::span<std::byte> scratch) {
    auto const team = team_of(p), units = p.batch * p.heads;
    auto const bytes = bytes_per_thread<T>(p);
    auto const work = [&](int thread) {
        arena place(scratch.data() + static_cast<std::size_t>(thread) * bytes);
        head_pass<T> const pass(p, place);
        for (extent_t unit = thread; unit < units; unit += team) pass.run(o, unit);
    };
    if (team == 1)
        work(0);
    else
        on_team(static_cast<int>(team), work);
}

template <class T>
std::string unfused_tile() {
    return std::to_string(head_pass<T>::pitch) + " queries x " + std::to_string(head_pass<T>::key_block) + " keys";
}

template std::size_t unfused_scratch_bytes<float>(problem const&);
template std::size_t unfused_scratch_bytes<double>(problem const&);
template void unfused_attention(problem const&, operands<float> const&, std::span<std::byte>);
template void unfused_attention(problem const&, operands<double> const&, std::span<std::byte>);
template std::string unfused_tile<float>();
template std::string unfused_tile<double>();

} // namespace heed::bench
