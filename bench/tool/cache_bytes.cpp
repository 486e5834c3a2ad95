// SPDX-License-Identifier: BSD-3-Clause
#include "cache_bytes.hpp"

#include <heed/front/grouped_cache.hpp>
#include <heed/mechanism/softmax.hpp>

#include <array>
#include <ostream>

namespace heed::tool {

namespace {

struct model {
    char const* name;
    extent_t heads, groups, width; // query heads; KV heads of the grouped form; of a head
};
// Sizes that the papers of tensor-product attention (arXiv:2501.06425: its example, its code), LLaMA 3.1 8B and DeepSeek-V3 (arXiv:2412.19437) state.
constexpr std::array models{model{"32 heads of 64", 32, 8, 64}, model{"22 heads of 64", 22, 2, 64}, model{"32 heads of 128", 32, 8, 128}, model{"128 heads of 128", 128, 16, 128}};
constexpr extent_t latent = 512, rope = 64, tokens = 64;

std::size_t per_token(std::size_t bytes) { return bytes / static_cast<std::size_t>(tokens); } // lengths of sequences, 8 bytes, fall away

std::size_t dense(extent_t heads, extent_t width) {
    return per_token(make_cache<bf16>(softmax_attention(), {.batch = 1, .heads = heads, .tokens = tokens, .width = width, .value_width = width}).bytes());
}
std::size_t factors(model const& m, extent_t rank) {
    return per_token(make_factor_cache<bf16>({.batch = 1, .heads = m.heads, .tokens = tokens, .width = m.width, .value_width = m.width, .rank_k = rank, .rank_v = rank}).bytes());
}

} // namespace

void print_caches(std::ostream& out) {
    out << "| cache, bytes of a token in a layer, bf16 |";
    for (auto const& m : models) { out << " " << m.name << " |"; }
    out << "\n|---|";
    for (std::size_t i = 0; i < models.size(); ++i) { out << "---|"; }
    auto const row = [&](std::string_view name, auto const& bytes) {
        out << "\n| " << name << " |";
        for (auto const& m : models) { out << " " << bytes(m) << " |"; }
    };
    row("multi-head", [](model const& m) { return dense(m.heads, m.width); });
    row("grouped, KV heads 8, 2, 8, 16", [](model const& m) { return dense(m.groups, m.width); });
    row("multi-query", [](model const& m) { return dense(1, m.width); });
    row("latent, 512 + 64", [](model const&) { return per_token(make_latent_cache<bf16>({.batch = 1, .heads = 1, .tokens = tokens, .width = latent + rope, .value_width = latent}).bytes()); });
    row("tensor product, ranks 2 and 2", [](model const& m) { return factors(m, 2); });
    row("tensor product, ranks 1 and 1", [](model const& m) { return factors(m, 1); });
    out << "\n";
}

} // namespace heed::tool
