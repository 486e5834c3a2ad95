// SPDX-License-Identifier: BSD-3-Clause
// Rows of attention along the edges of a random graph (targets N, sources M, edges=n): the graph transformer's dot products; and edge_gather, a bare loop that
// reads the same key and value rows in the same order, prefetching as it goes: what the memory gives.
#include "gate_builder.hpp"
#include "limit.hpp"
#include "node_arrays.hpp"
#include "registry.hpp"

#include <heed/front/edge.hpp>
#include <heed/mechanism/graph.hpp>

#include <array>
#include <optional>

namespace heed::bench {

namespace {

double edge_flops(problem const& p) {
    double const forward = static_cast<double>(p.heads * whole(p, "edges", 1000000) * 2 * (p.dim + p.dim_v));
    return p.verb == "backward" ? 2.5 * forward : forward;
}

struct graph_run : node_arrays {
    std::optional<graph> lists;
    float sink = 0;

    void prepare(std::uint64_t seed) {
        fill(seed);
        std::size_t const edges = static_cast<std::size_t>(whole(p, "edges", 1000000));
        std::vector<std::int32_t> source(edges), target(edges);
        for (std::size_t e = 0; e < edges; ++e) {
            source[e] = static_cast<std::int32_t>(random_word(seed, 2 * e) % static_cast<std::uint64_t>(p.keys));
            target[e] = static_cast<std::int32_t>(random_word(seed, 2 * e + 1) % static_cast<std::uint64_t>(p.queries));
        }
        lists.emplace(source, target, p.keys, p.queries);
    }
    save<float> saved() { return {per_row(lse.data(), 1, p.heads, p.queries)}; }
    void ahead() {
        forward(graph_transformer_attention<float>(lists->edges()), view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved());
    }
    void back() {
        backward(graph_transformer_attention<float>(lists->edges()), view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved(),
                 view(dout, queries(p.dim_v)), view(dq, queries(p.dim)), view(dk, keys(p.dim)), view(dv, keys(p.dim_v)));
    }
    // Every key and value row of every edge, added up.
    void gather() {
        using V = vec<float, native_arch>;
        constexpr extent_t distance = 8;
        edge_list const edges = lists->edges();
        extent_t const wide = p.heads * p.dim, wide_v = p.heads * p.dim_v;
        std::array<V, 8> sum{};
        auto const row = [](std::vector<float> const& x, extent_t j, extent_t width) { return x.data() + j * width; };
        auto const add = [&](float const* x, extent_t width) {
            extent_t e = 0;
            for (; e + 8 * V::lanes <= width; e += 8 * V::lanes) {
                static_for<8>([&](auto c) HEED_INLINE_LAMBDA { sum[c] = sum[c] + V::load(x + e + c * V::lanes); });
            }
            for (; e + V::lanes <= width; e += V::lanes) { sum[0] = sum[0] + V::load(x + e); }
        };
        for (extent_t s = 0; s < edges.edges(); ++s) {
            if (s + distance < edges.edges()) {
                extent_t const next = edges.source(s + distance);
                for (extent_t e = 0; e < wide; e += 16) { HEED_PREFETCH(row(k, next, wide) + e); }
                for (extent_t e = 0; e < wide_v; e += 16) { HEED_PREFETCH(row(v, next, wide_v) + e); }
            }
            add(row(k, edges.source(s), wide), wide);
            add(row(v, edges.source(s), wide_v), wide_v);
        }
        float lane[V::lanes];
        for (V const& x : sum) {
            x.store(lane);
            sink += lane[0];
        }
    }
    std::string verify() {
        edge_list const e = lists->edges();
        if (p.mechanism == "edge_gather") { return sink == sink ? "" : "the sum of the rows is not a number"; }
        if (p.verb == "backward") { return check_backward([&](extent_t i) { return e.end(i) > e.begin(i); }); }
        for (extent_t const i : {extent_t(0), p.queries / 2, p.queries - 1}) {
            auto const found = check_forward(p.heads - 1, i, [&](auto const& key) {
                for (extent_t s = e.begin(i); s < e.end(i); ++s) { key(e.source(s), 1); }
            });
            if (!found.empty()) { return found; }
        }
        return {};
    }
};

timed_case graph_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_node_problem(p, {"edges"});
    if (p.mechanism == "edge_gather" && p.verb != "forward") { throw unsupported_error(name_of(p) + ": it has the verb forward alone"); }
    auto const run = std::make_shared<graph_run>();
    run->p = p;
    timed_case c;
    c.name = name_of(p);
    c.flops = p.mechanism == "edge_gather" ? 0 : edge_flops(p);
    c.bytes = static_cast<double>(whole(p, "edges", 1000000) * p.heads * (p.dim + p.dim_v) * 4 * (p.verb == "backward" ? 2 : 1));
    c.limit = limit_name(p.mechanism == "edge_gather" ? "read" : "fma_f32", 1);
    c.prepare = [run, seed = store->seed()] {
        run->prepare(seed);
        if (run->p.verb == "backward") { run->ahead(); }
        return std::string(run->p.mechanism == "edge_gather" ? "rows read, prefetched 8 edges ahead, " : "cpu.edge, ") + arch_name<native_arch>();
    };
    c.run = [run] {
        if (run->p.mechanism == "edge_gather") { return run->gather(); }
        run->p.verb == "backward" ? run->back() : run->ahead();
    };
    c.release = [run] {
        run->release();
        run->lists.reset();
    };
    c.verify = [run] { return run->verify(); };
    return c;
}

void graph_gates(int, std::vector<gate_group>& groups) {
    gate_builder g("graph, 50k nodes, 1M edges, 8 heads x 32");
    problem p;
    p.mechanism = "graph_transformer";
    p.queries = p.keys = 50000;
    p.dim = p.dim_v = 32;
    p.extra = {{"edges", "1000000"}};
    problem gather = p, back = p, few = p;
    gather.mechanism = "edge_gather";
    back.verb = "backward";
    few.extra["edges"] = "250000";
    g.against("of the rate of a bare gather loop", measure_of::speedup, p, gather, 0.70, 0.85);
    g.against("backward over forward", measure_of::slowdown, back, p, 3, 2.5);
    groups.push_back(g.finish());
    gate_builder linear("graph, linear in edges: rate at 1M over that at 250k"); // a row has one rival in a group
    linear.against("50k nodes, 8 heads x 32", measure_of::rate, p, few, 0.8, 0.95);
    groups.push_back(linear.finish());
}

row_registration const rows({"graph_transformer", graph_case, edge_flops});
row_registration const gather_rows({"edge_gather", graph_case, edge_flops});
gate_registration const gates(graph_gates);

} // namespace

} // namespace heed::bench
