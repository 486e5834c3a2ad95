// SPDX-License-Identifier: BSD-3-Clause
// Rows of attention along the edges of a random graph (targets N, sources M, edges=n): the graph transformer's dot products; aero, AERO-GNN's additive scores
// divided by the degrees of both ends (one node set, operations counted alike); and edge_gather, a bare loop that reads the same key and value rows in the
// same order, prefetching as it goes: what the memory gives.
#include "gate_builder.hpp"
#include "limit.hpp"
#include "node_arrays.hpp"
#include "registry.hpp"

#include <heed/front/degree_normalised.hpp>
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
    std::vector<float> attention;
    raw_memory work;
    float sink = 0;
    bool aero() const { return p.mechanism == "aero"; }

    void prepare(std::uint64_t seed) {
        fill(seed);
        attention.resize(static_cast<std::size_t>(p.heads * p.dim));
        fill_normal(attention, seed, 5);
        std::size_t const edges = static_cast<std::size_t>(whole(p, "edges", 1000000));
        std::vector<std::int32_t> source(edges), target(edges);
        for (std::size_t e = 0; e < edges; ++e) {
            source[e] = static_cast<std::int32_t>(random_word(seed, 2 * e) % static_cast<std::uint64_t>(p.keys));
            target[e] = static_cast<std::int32_t>(random_word(seed, 2 * e + 1) % static_cast<std::uint64_t>(p.queries));
        }
        lists.emplace(source, target, p.keys, p.queries);
    }
    save<float> saved() { return {per_row(lse.data(), 1, p.heads, p.queries)}; }
    auto aero_weights() const { return aero_edge_attention(lists->edges(), tensor_view<float const>(attention.data(), {1, p.heads, 1, p.dim})); }
    void ahead() {
        if (aero()) { return forward(degree_normalised{aero_weights()}, view(k, keys(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v))); }
        forward(graph_transformer_attention<float>(lists->edges()), view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved());
    }
    void back() {
        if (aero()) {
            return backward(degree_normalised{aero_weights()}, view(k, keys(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), nothing_saved{},
                            view(dout, queries(p.dim_v)), view(dq, queries(p.dim)), view(dk, keys(p.dim)), view(dv, keys(p.dim_v)));
        }
        auto plan = plan_backward(graph_transformer_attention<float>(lists->edges()), view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved(),
                                  view(dout, queries(p.dim_v)), view(dq, queries(p.dim)), view(dk, keys(p.dim)), view(dv, keys(p.dim_v)));
        if (work.size() < plan.workspace_bytes()) { work.allocate(plan.workspace_bytes()); } // once: new pages would be cleared in every call
        plan.run({work.data(), work.size()});
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
    // out is linear in v: the sum of dout out is that of dv v.
    std::string check_linear() {
        double ahead = 0, back = 0, size = 0;
        for (std::size_t i = 0; i < out.size(); ++i) { ahead += static_cast<double>(out[i]) * static_cast<double>(dout[i]), size += std::abs(static_cast<double>(out[i]) * static_cast<double>(dout[i])); }
        for (std::size_t i = 0; i < dv.size(); ++i) { back += static_cast<double>(v[i]) * static_cast<double>(dv[i]); }
        return std::abs(ahead - back) <= 1e-5 * size ? "" : "the sums of dout out and of dv v differ";
    }
    // Some rows of the last head again, in double.
    std::string check_aero() {
        edge_list const e = lists->edges();
        extent_t const h = p.heads - 1;
        auto const weight = [&](extent_t i, extent_t j) {
            double s = 0;
            for (extent_t c = 0; c < p.dim; ++c) {
                double const x = static_cast<double>(view(k, keys(p.dim))(0, h, i, c)) + static_cast<double>(view(k, keys(p.dim))(0, h, j, c));
                s += static_cast<double>(attention[static_cast<std::size_t>(h * p.dim + c)]) * (x < 0 ? std::expm1(x) : x);
            }
            return std::log1p(std::exp(-std::abs(s))) + std::max(s, 0.0) + 1e-6;
        };
        auto const degree = [&](extent_t i) {
            double sum = 0;
            for (extent_t s = e.begin(i); s < e.end(i); ++s) { sum += weight(i, e.source(s)); }
            return sum;
        };
        for (extent_t const i : {extent_t(0), p.queries / 2, p.queries - 1}) {
            double sum = 0, size = 0;
            for (extent_t s = e.begin(i); s < e.end(i); ++s) {
                double const far = degree(e.source(s)), term = far > 0 ? weight(i, e.source(s)) / std::sqrt(degree(i) * far) * static_cast<double>(view(v, keys(p.dim_v))(0, h, e.source(s), 0)) : 0;
                sum += term, size += std::abs(term);
            }
            if (std::abs(static_cast<double>(view(out, queries(p.dim_v))(0, h, i, 0)) - sum) > 2e-5 * size) { return "row " + std::to_string(i) + " is not what its edges give"; }
        }
        return {};
    }
    std::string verify() {
        edge_list const e = lists->edges();
        if (p.mechanism == "edge_gather") { return sink == sink ? "" : "the sum of the rows is not a number"; }
        if (aero()) { return p.verb == "backward" ? check_linear() : check_aero(); }
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
    if (p.mechanism == "aero" && p.queries != p.keys) { throw unsupported_error(name_of(p) + ": one node set, as many queries as keys"); }
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
        run->work = {};
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
row_registration const aero_rows({"aero", graph_case, edge_flops});
row_registration const gather_rows({"edge_gather", graph_case, edge_flops});
gate_registration const gates(graph_gates);

} // namespace

} // namespace heed::bench
