// SPDX-License-Identifier: BSD-3-Clause
// The decode rows of one type of elements. Everything here is local to the file that includes it.
#pragma once

#include "decode_case.hpp"
#include "limit.hpp"
#include "operands.hpp"
#include "pair_count.hpp"

#include <heed/heed.hpp>
#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>
#include <vector>

namespace heed::bench {
namespace {

[[maybe_unused]] auto decode_backend([[maybe_unused]] problem const& p) {
#if defined(HEED_HAS_OPENMP)
    return cpu{openmp{p.threads}};
#else
    return cpu{};
#endif
}

// A band that is as wide as the sequence where it has no edge.
heed::window decode_window(problem const& p) {
    extent_t const all = p.keys + p.queries;
    return p.mask == mask_kind::window ? heed::window{p.window} : heed::window{all, p.mask == mask_kind::causal ? 0 : all};
}

template <class E>
class decode_of final : public owned_run {
    using mechanism = decltype(softmax_attention(heed::window{1}));
    using backend = decltype(decode_backend(problem{}));
    using plan_type = decode_plan<mechanism, float, E, E, backend>;

    struct copy {
        raw_memory k, v, k_scale, v_scale;
        std::vector<extent_t> lengths;
        std::vector<std::int32_t> table;
        cache_view<E> cache;
    };

    problem p_;
    std::uint64_t seed_;
    std::vector<copy> copies_;
    std::size_t next_ = 0, last_ = 0;
    std::vector<float> q_, out_, normal_;
    std::vector<std::byte> workspace_;
    std::vector<plan_type> plan_;

    std::string setting(char const* key, char const* usual) const {
        auto const found = p_.extra.find(key);
        return found == p_.extra.end() ? usual : found->second;
    }
    tensor_view<float const> q() const { return {q_.data(), {p_.batch, p_.heads, p_.queries, p_.dim}}; }
    mechanism mech() const { return softmax_attention(decode_window(p_)); }

    copy make_copy(std::uint64_t number) const {
        copy c;
        auto const layout = setting("layout", "contiguous");
        extent_t const page = parse_size(setting("page", "16")), pages = (p_.keys + page - 1) / page;
        bool const paged = layout == "paged";
        extent_t const rows = paged ? page : layout == "ring" ? std::min<extent_t>(p_.window + p_.queries - 1, p_.keys) : p_.keys, entries = paged ? p_.batch * pages : p_.batch;
        heed::shape const ks{entries, p_.kv_heads, rows, p_.dim}, vs{entries, p_.kv_heads, rows, p_.dim_v}, ss{entries, p_.kv_heads, rows, 1};
        c.k.allocate(static_cast<std::size_t>(ks.size()) * sizeof(E));
        c.v.allocate(static_cast<std::size_t>(vs.size()) * sizeof(E));
        auto const view = [](raw_memory& m, heed::shape s) { return tensor_view<E>(reinterpret_cast<E*>(m.data()), s); };
        tensor_view<float> k_scale, v_scale;
        if (is_byte<E>) {
            for (auto* m : {&c.k_scale, &c.v_scale}) m->allocate(static_cast<std::size_t>(ss.size()) * sizeof(float));
            k_scale = {reinterpret_cast<float*>(c.k_scale.data()), ss};
            v_scale = {reinterpret_cast<float*>(c.v_scale.data()), ss};
        }
        c.lengths.assign(static_cast<std::size_t>(p_.batch), 0);
        if (paged) { // pages as a long-running server has them: in no order
            c.table.resize(static_cast<std::size_t>(entries));
            std::iota(c.table.begin(), c.table.end(), 0);
            for (std::size_t i = c.table.size(); i > 1; --i) std::swap(c.table[i - 1], c.table[random_word(seed_ + number, i) % i]);
            c.cache = paged_cache(view(c.k, ks), view(c.v, vs), c.lengths, block_table(c.table, p_.batch, pages, entries), k_scale, v_scale);
        } else if (layout == "ring") {
            c.cache = ring_cache(view(c.k, ks), view(c.v, vs), c.lengths, k_scale, v_scale);
        } else {
            c.cache = contiguous_cache(view(c.k, ks), view(c.v, vs), c.lengths, k_scale, v_scale);
        }
        fill(c, number);
        return c;
    }
    // Tokens in portions; every row is a stretch of one table of normal numbers.
    void fill(copy& c, std::uint64_t number) const {
        extent_t const portion = 512;
        std::vector<float> k(static_cast<std::size_t>(p_.batch * p_.kv_heads * portion * p_.dim)), v(static_cast<std::size_t>(p_.batch * p_.kv_heads * portion * p_.dim_v));
        std::uint64_t row = 0;
        auto const rows = [&](std::vector<float>& to, extent_t n, extent_t width) {
            for (extent_t r = 0; r < p_.batch * p_.kv_heads * n; ++r) {
                auto const at = random_word(seed_ + number, ++row) % (normal_.size() - static_cast<std::size_t>(width) + 1);
                std::copy_n(normal_.begin() + static_cast<std::ptrdiff_t>(at), width, to.begin() + r * width);
            }
        };
        for (extent_t done = 0; done < p_.keys; done += portion) {
            extent_t const n = std::min(portion, p_.keys - done);
            rows(k, n, p_.dim);
            rows(v, n, p_.dim_v);
            append(c.cache, tensor_view<float const>{k.data(), {p_.batch, p_.kv_heads, n, p_.dim}}, tensor_view<float const>{v.data(), {p_.batch, p_.kv_heads, n, p_.dim_v}});
        }
    }

public:
    decode_of(problem const& p, std::uint64_t seed) : p_(p), seed_(seed) {}

    std::string prepare() override {
        auto const bytes = std::max(decode_bytes(p_), 1.0);
        auto const count = std::clamp<std::size_t>(static_cast<std::size_t>(static_cast<double>(beyond_caches()) / bytes) + 1, 1, 64);
        normal_.resize((std::size_t{1} << 20) + static_cast<std::size_t>(std::max(p_.dim, p_.dim_v)));
        fill_normal(normal_, seed_, 100);
        for (std::size_t i = 0; i < count; ++i) copies_.push_back(make_copy(i));
        q_.resize(static_cast<std::size_t>(p_.batch * p_.heads * p_.queries * p_.dim));
        fill_normal(q_, seed_, 99);
        out_.assign(static_cast<std::size_t>(p_.batch * p_.heads * p_.queries * p_.dim_v), std::numeric_limits<float>::quiet_NaN());
        plan_.emplace_back(mech(), q().shape(), copies_.front().cache, decode_backend(p_));
        workspace_.resize(plan_.front().workspace_bytes());
        return std::string(plan_.front().engine()) + " on " + arch_name<native_arch>() + ", tiles of " + std::to_string(plan_.front().tile_keys()) + " keys; " +
               std::to_string(count) + " caches in turn";
    }
    void run() override {
        last_ = next_;
        next_ = (next_ + 1) % copies_.size();
        plan_.front().run(q(), copies_[last_].cache, tensor_view<float>{out_.data(), {p_.batch, p_.heads, p_.queries, p_.dim_v}}, workspace_);
    }
    void release() override {
        copies_.clear();
        plan_.clear();
        next_ = last_ = 0;
    }
    // Some rows again in double, from what the cache holds.
    std::string verify() const override {
        auto const& c = copies_[last_].cache;
        auto const value = [](tensor_view<E> const& rows, tensor_view<float> const& scale, auto const& at, extent_t h, extent_t e) {
            double const code = static_cast<double>(static_cast<float>(rows(at.entry, h, at.row, e)));
            return is_byte<E> ? code * static_cast<double>(scale(at.entry, h, at.row, 0)) : code;
        };
        extent_t const rows = p_.batch * p_.heads * p_.queries;
        for (int sample = 0; sample < 6; ++sample) {
            extent_t const row = sample == 0 ? 0 : sample == 1 ? rows - 1 : static_cast<extent_t>(random_word(seed_, static_cast<std::uint64_t>(sample)) % static_cast<std::uint64_t>(rows));
            extent_t const b = row / p_.queries / p_.heads, h = row / p_.queries % p_.heads, i = row % p_.queries, g = h / (p_.heads / p_.kv_heads);
            auto const span = keys_of(p_, i);
            std::vector<double> s;
            double top = -std::numeric_limits<double>::infinity(), total = 0;
            for (auto j = span.begin; j < span.end; ++j) {
                auto const at = c.locate(b, j);
                double dot = 0;
                for (extent_t e = 0; e < p_.dim; ++e) dot += static_cast<double>(q_[static_cast<std::size_t>(row * p_.dim + e)]) * value(c.k, c.k_scale, at, g, e);
                s.push_back(dot / std::sqrt(static_cast<double>(p_.dim)));
                top = std::max(top, s.back());
            }
            std::vector<double> out(static_cast<std::size_t>(p_.dim_v)), size(out.size());
            for (auto j = span.begin; j < span.end; ++j) {
                auto const at = c.locate(b, j);
                double const weight = std::exp(s[static_cast<std::size_t>(j - span.begin)] - top);
                total += weight;
                for (extent_t e = 0; e < p_.dim_v; ++e) {
                    double const x = weight * value(c.v, c.v_scale, at, g, e);
                    out[static_cast<std::size_t>(e)] += x;
                    size[static_cast<std::size_t>(e)] += std::abs(x);
                }
            }
            double const steps = 4 + 4 * std::abs(top) + 4 * std::sqrt(static_cast<double>(span.end - span.begin + p_.dim));
            for (extent_t e = 0; e < p_.dim_v; ++e) {
                double const got = static_cast<double>(out_[static_cast<std::size_t>(row * p_.dim_v + e)]), want = total > 0 ? out[static_cast<std::size_t>(e)] / total : 0;
                double const allowed = total > 0 ? static_cast<double>(std::numeric_limits<float>::epsilon()) * steps * size[static_cast<std::size_t>(e)] / total : 0;
                if (!(std::abs(got - want) <= allowed)) {
                    std::ostringstream text;
                    text << "row batch " << b << ", head " << h << ", token " << i << ", feature " << e << ": got " << got << ", expected " << want << " within " << allowed;
                    return text.str();
                }
            }
        }
        return {};
    }
};

} // namespace
} // namespace heed::bench
