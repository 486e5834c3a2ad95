// SPDX-License-Identifier: BSD-3-Clause
// Rows of sparse and routed attention; FLOPs are those of attended pairs, and of the choice where the row makes one.
//   block_sparse     a random map of block x block pairs, density=
//   neighbourhood    a square image of N points, kernel= keys on both axes, queries taken in patches of patch= points (6x8: rows by columns; 0: in the image's order), from
//                    where they stand, by a plan
//   moba             block=, top=; part=all (means, choice, attention), choice (means and choice), attention (blocks given)
//   native_sparse    decode only: a step against M tokens, block=, top=, local=, one key head
#include "gate_builder.hpp"
#include "limit.hpp"
#include "node_arrays.hpp"
#include "registry.hpp"

#include <heed/front/nsa_decode.hpp>
#include <heed/front/reordered.hpp>
#include <heed/mechanism/softmax.hpp>
#include <heed/policy/pattern/neighbourhood.hpp>

#include <functional>
#include <memory>
#include <random>

namespace heed::bench {

namespace {

double share(problem const& p) {
    auto const found = p.extra.find("density");
    return found == p.extra.end() ? 0.1 : parse_number(found->second);
}
std::string word(problem const& p, std::string const& key, std::string const& otherwise) {
    auto const found = p.extra.find(key);
    return found == p.extra.end() ? otherwise : found->second;
}
void refuse(problem const& p, std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); }

block_bits random_blocks(problem const& p) {
    extent_t const block = whole(p, "block", 64);
    block_bits bits(1, 1, (p.queries + block - 1) / block, (p.keys + block - 1) / block);
    std::mt19937_64 random(17);
    auto const limit = static_cast<std::uint64_t>(share(p) * 0x1p64 >= 0x1p64 ? 0x1.fffffp63 : share(p) * 0x1p64);
    for (extent_t r = 0; r < bits.bits().extent(2); ++r)
        for (extent_t c = 0; c < bits.blocks(); ++c) {
            if (random() < limit) { bits.set(0, 0, r, c); }
        }
    return bits;
}
neighbourhood_map map_of(problem const& p, bool patches = true) {
    extent_t side = 1;
    while (side * side < p.queries) { ++side; }
    if (side * side != p.queries || p.queries != p.keys) { refuse(p, "queries and keys are the points of one square image"); }
    neighbourhood_axis const axis{side, whole(p, "kernel", 13)};
    std::string const patch = word(p, "patch", "0"), rows = patch.substr(0, patch.find('x')), columns = patch.substr(patch.find('x') + 1); // one number: both
    if (!patches || patch == "0") { return neighbourhood_map({axis, axis}); }
    return neighbourhood_map({axis, axis}, {static_cast<extent_t>(parse_number(rows)), static_cast<extent_t>(parse_number(columns))});
}
// Pairs of one head.
double pairs_of(problem const& p) {
    if (p.mechanism == "neighbourhood") { return static_cast<double>(map_of(p, false).pairs()); }
    double pairs = 0;
    if (p.mechanism == "block_sparse") {
        auto const bits = random_blocks(p);
        extent_t const block = whole(p, "block", 64);
        auto const size = [&](extent_t b, extent_t n) { return static_cast<double>(b * block + block < n ? block : n - b * block); };
        for (extent_t r = 0; r < bits.bits().extent(2); ++r)
            for (extent_t c = 0; c < bits.blocks(); ++c) { pairs += bits.keeps(0, 0, r, c) ? size(r, p.queries) * size(c, p.keys) : 0; }
        return pairs;
    }
    if (p.mechanism == "moba") {
        extent_t const block = whole(p, "block", 512), top = whole(p, "top", 8);
        for (extent_t i = 0; i < p.queries; ++i) {
            extent_t const t = i + p.keys - p.queries, own = t / block;
            pairs += static_cast<double>(t % block + 1 + std::min(top - 1, own) * block);
        }
        return pairs;
    }
    extent_t const block = whole(p, "block", 64);
    return static_cast<double>(p.keys / block + whole(p, "top", 16) * block + whole(p, "local", 512));
}
double pair_flops(problem const& p) {
    std::string const part = p.mechanism == "moba" ? word(p, "part", "all") : "attention";
    double flops = part == "choice" ? 0 : static_cast<double>(p.heads * 2 * (p.dim + p.dim_v)) * pairs_of(p);
    if (part == "attention") { return flops; }
    extent_t const block = whole(p, "block", 512);
    for (extent_t i = 0; i < p.queries; ++i) { flops += static_cast<double>(p.heads * 2 * p.dim * ((i + p.keys - p.queries) / block)); } // products with means of earlier blocks
    return flops + static_cast<double>(p.heads * p.keys * p.dim);                                                                        // their sums
}

struct sparse_run : node_arrays {
    std::unique_ptr<block_bits> bits;
    std::unique_ptr<neighbourhood_map> map;
    std::unique_ptr<neighbourhood> near;
    std::vector<std::byte> workspace;
    std::function<void()> planned;

    explicit sparse_run(problem const& of) : node_arrays{of, {}, {}, {}, {}, {}, {}, {}, {}, {}} {}
    extent_t block() const { return whole(p, "block", p.mechanism == "moba" ? 512 : 64); }
    void choose() {
        block_summaries<float> const means(view(k, keys(p.dim)), block());
        bits = std::make_unique<block_bits>(select_moba(view(q, queries(p.dim)), view(k, keys(p.dim)), means, whole(p, "top", 8)));
    }
    // f(pattern); those that are packed to bits anyway share one engine.
    template <class F>
    void with(F const& f) {
        if (p.mechanism == "block_sparse") {
            f(bits->map(block(), block(), p.heads));
        } else if (p.mechanism == "neighbourhood") {
            f(*near);
        } else {
            f(routed{bits->map(1, block()), causal_bottom_right{}});
        }
    }
    save<float> saved() { return {per_row(lse.data(), 1, p.heads, p.queries)}; }
    void prepare() {
        if (p.mechanism == "block_sparse") { bits = std::make_unique<block_bits>(random_blocks(p)); }
        if (p.mechanism == "moba") { choose(); }
        if (p.mechanism == "neighbourhood") {
            map = std::make_unique<neighbourhood_map>(map_of(p));
            near = std::make_unique<neighbourhood>(map->bands());
            auto const m = with_order(chosen_attention(any_pattern(*near), inv_sqrt<float>(p.dim)), map->order());
            auto ready = plan<float>(m, queries(p.dim), keys(p.dim), keys(p.dim_v));
            workspace.resize(ready.workspace_bytes());
            planned = [this, ready]() mutable { ready.run(view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), std::span(workspace), saved()); };
        }
    }
    void ahead() {
        std::string const part = word(p, "part", "all");
        if (p.mechanism == "moba" && part != "attention") { choose(); }
        if (part == "choice") { return; }
        if (planned) { return planned(); }
        with([&](auto const& pattern) {
            auto const run = [&](auto const& m) { forward(m, view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved()); };
            if constexpr (RoutedPattern<std::remove_cvref_t<decltype(pattern)>>) {
                run(softmax_attention(pattern));
            } else {
                run(chosen_attention(any_pattern(pattern), inv_sqrt<float>(p.dim)));
            }
        });
    }
    std::string verify() {
        if (word(p, "part", "all") == "choice") { return {}; }
        std::string found;
        with([&](auto const& pattern) {
            place const at{0, p.heads - 1, p.heads - 1, p.queries, p.keys, p.dim};
            for (extent_t const i : {extent_t(0), p.queries / 2, p.queries - 1}) {
                if (!found.empty()) { return; }
                extent_t slot = i; // of the order in which queries are taken
                while (map && map->order()(0, 0, slot, 0) != i) { slot = (slot + 1) % p.queries; }
                found = check_forward(p.heads - 1, i, [&](auto const& key) {
                    for (extent_t j = 0; j < p.keys; ++j) {
                        if (pattern.keep(at, slot, j)) { key(j, 1.0); }
                    }
                });
            }
        });
        return found;
    }
};

timed_case sparse_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    if (p.verb != "forward") { refuse(p, "it has the verb forward here"); }
    if (p.mechanism == "block_sparse") { refuse_node_problem(p, {"block", "density"}); }
    if (p.mechanism == "neighbourhood") { refuse_node_problem(p, {"kernel", "patch"}), map_of(p); }
    if (p.mechanism == "moba") {
        refuse_node_problem(p, {"block", "top", "part"});
        std::string const part = word(p, "part", "all");
        if (part != "all" && part != "choice" && part != "attention") { refuse(p, "part is all, choice or attention"); }
        if (p.queries > p.keys || whole(p, "block", 512) < 1 || whole(p, "top", 8) < 1) { refuse(p, "no more queries than keys; block and top are at least 1"); }
    } else if (whole(p, "block", 64) < 1) {
        refuse(p, "a block has at least one key");
    }
    auto const run = std::make_shared<sparse_run>(p);
    timed_case c;
    c.name = name_of(p);
    c.flops = pair_flops(p);
    c.bytes = static_cast<double>(p.heads * (p.queries + p.keys) * (p.dim + p.dim_v) * 4);
    c.limit = limit_name("fma_f32", 1);
    c.prepare = [run, seed = store->seed()] {
        run->fill(seed);
        run->prepare();
        return std::string(arch_name<native_arch>());
    };
    c.run = [run] { run->ahead(); };
    c.release = [run] { run->release(), run->bits.reset(), run->map.reset(), run->planned = {}, run->workspace = {}; };
    c.verify = [run] { return run->verify(); };
    return c;
}

// One step of native sparse attention, all query heads on one key head.
struct step_run {
    problem p;
    std::vector<float> q, k, v, out, gates;
    std::unique_ptr<nsa_cache<float>> cache;

    explicit step_run(problem const& of) : p(of) {}
    shape rows(extent_t d) const { return {1, p.heads, 1, d}; }
    auto mechanism() const {
        tensor_view<float const> const g(gates.data(), rows(1));
        return nsa{whole(p, "block", 64), whole(p, "top", 16), whole(p, "local", 512), g, g, g};
    }
    void prepare(std::uint64_t seed) {
        shape const sk{1, 1, p.keys, p.dim}, sv{1, 1, p.keys, p.dim_v};
        q.resize(static_cast<std::size_t>(rows(p.dim).size())), k.resize(static_cast<std::size_t>(sk.size())), v.resize(static_cast<std::size_t>(sv.size()));
        out.resize(static_cast<std::size_t>(rows(p.dim_v).size())), gates.assign(static_cast<std::size_t>(p.heads), 1.0f);
        fill_normal(q, seed, 0), fill_normal(k, seed, 1), fill_normal(v, seed, 2);
        cache = std::make_unique<nsa_cache<float>>(cache_shape{1, 1, p.keys, p.dim, p.dim_v}, whole(p, "block", 64));
        cache->append(tensor_view<float const>(k.data(), sk), tensor_view<float const>(v.data(), sv));
    }
    void run() { decode(mechanism(), tensor_view<float const>(q.data(), rows(p.dim)), *cache, tensor_view<float>(out.data(), rows(p.dim_v))); }
    std::string verify() { // the same by forward
        std::vector<float> want(out.size());
        forward(mechanism(), tensor_view<float const>(q.data(), rows(p.dim)), tensor_view<float const>(k.data(), {1, 1, p.keys, p.dim}), tensor_view<float const>(v.data(), {1, 1, p.keys, p.dim_v}),
                tensor_view<float>(want.data(), rows(p.dim_v)));
        for (std::size_t i = 0; i < out.size(); ++i) {
            if (!(std::abs(out[i] - want[i]) <= 1e-4f)) { return "element " + std::to_string(i) + " is " + std::to_string(out[i]) + ", forward gives " + std::to_string(want[i]); }
        }
        return {};
    }
};
timed_case step_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    if (p.verb != "decode" || p.dtype != element::f32 || p.backend != "cpu" || !p.isa.empty() || p.batch != 1 || p.kv_heads != 1 || p.queries != 1 || p.threads != 1) {
        refuse(p, "it has the verb decode, f32, for one query, one batch entry, one key head and one thread");
    }
    for (auto const& [key, value] : p.extra) {
        if (key != "block" && key != "top" && key != "local") { refuse(p, "it has no setting '" + key + "'"); }
    }
    auto const run = std::make_shared<step_run>(p);
    timed_case c;
    c.name = name_of(p);
    c.flops = pair_flops(p);
    c.bytes = pairs_of(p) * static_cast<double>(p.dim + p.dim_v) * 4;
    c.limit = limit_name("read", 1);
    c.prepare = [run, seed = store->seed()] {
        run->prepare(seed);
        return std::string(arch_name<native_arch>());
    };
    c.run = [run] { run->run(); };
    c.release = [run] { *run = step_run(run->p); };
    c.verify = [run] { return run->verify(); };
    return c;
}

problem one_head(std::string mechanism, extent_t n, extent_t d, settings extra = {}) {
    problem p = square(n, d);
    p.mechanism = std::move(mechanism);
    p.heads = p.kv_heads = 1;
    p.extra = std::move(extra);
    return p;
}
void sparse_gates(int, std::vector<gate_group>& groups) {
    gate_builder blocks("block-sparse, 64 x 64 blocks, N = 8192, d = 128, time over dense");
    problem const dense = one_head("softmax", 8192, 128);
    blocks.against("density 10 %", measure_of::slowdown, one_head("block_sparse", 8192, 128, {{"block", "64"}, {"density", "0.1"}}), dense, 0.135, 0.13);
    blocks.against("density 30 %", measure_of::slowdown, one_head("block_sparse", 8192, 128, {{"block", "64"}, {"density", "0.3"}}), dense, 0.365, 0.33);
    groups.push_back(blocks.finish());

    gate_builder near("neighbourhood, 64 x 64 image, window 13, d = 64, rate of attended pairs over dense");
    near.against("patches of 6 x 8", measure_of::rate, one_head("neighbourhood", 4096, 64, {{"patch", "6x8"}}), one_head("softmax", 4096, 64), 0.33, 0.45);
    groups.push_back(near.finish());

    gate_builder moba("MoBA, N = 32k, blocks of 512, top 8");
    problem const all = one_head("moba", 32768, 128, {{"block", "512"}, {"top", "8"}});
    auto const part = [&](std::string which) {
        problem p = all;
        p.extra["part"] = std::move(which);
        return p;
    };
    moba.against("choice over all", measure_of::slowdown, part("choice"), all, 0.10, 0.03);
    moba.against("all over attention to given blocks", measure_of::slowdown, all, part("attention"), 1.25, 1.05);
    groups.push_back(moba.finish());

    gate_builder step("native sparse attention, one step, M = 64k, 16 heads on one, d = 128");
    problem p;
    p.verb = "decode";
    p.heads = 16, p.kv_heads = 1, p.queries = 1, p.keys = 65536, p.dim = p.dim_v = 128;
    problem routed = p;
    routed.mechanism = "native_sparse";
    step.against("time over dense decode", measure_of::slowdown, routed, p, 0.15, 0.08);
    groups.push_back(step.finish());
}

row_registration const block_rows({"block_sparse", sparse_case, pair_flops});
row_registration const near_rows({"neighbourhood", sparse_case, pair_flops});
row_registration const moba_rows({"moba", sparse_case, pair_flops});
row_registration const step_rows({"native_sparse", step_case, pair_flops});
gate_registration const gates(sparse_gates);

} // namespace

} // namespace heed::bench
