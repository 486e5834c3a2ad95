// SPDX-License-Identifier: BSD-3-Clause
// Rows of neighbourhood attention on the sphere: an equiangular grid of N = rings x longitudes points, keys within a cut-off in degrees.
// FLOPs are those of attended pairs.
#include "gate_builder.hpp"
#include "limit.hpp"
#include "node_arrays.hpp"
#include "registry.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/mechanism/spherical.hpp>

namespace heed::bench {

namespace {

double cutoff_of(problem const& p) {
    auto const found = p.extra.find("cutoff");
    return (found == p.extra.end() ? 3.0 : parse_number(found->second)) * std::numbers::pi / 180;
}
sphere_grid grid_of(problem const& p) {
    extent_t const longitudes = whole(p, "longitudes", 360);
    if (longitudes < 1 || p.queries != p.keys || p.queries % longitudes != 0 || p.queries < 2 * longitudes) {
        throw unsupported_error(name_of(p) + ": queries and keys are the same rings x longitudes points, two rings at least");
    }
    return {latitudes::equiangular, p.queries / longitudes, longitudes};
}
double pair_flops(problem const& p) {
    sphere_grid const grid = grid_of(p);
    double const forward = static_cast<double>(p.heads * ring_neighbourhood(grid, grid, cutoff_of(p)).pairs() * 2 * (p.dim + p.dim_v));
    return p.verb == "backward" ? 2.5 * forward : forward;
}

struct sphere_run : node_arrays {
    sphere_grid grid;
    ring_neighbourhood near;
    std::vector<float> weights;

    explicit sphere_run(problem const& of) : node_arrays{of, {}, {}, {}, {}, {}, {}, {}, {}, {}}, grid(grid_of(of)), near(grid, grid, cutoff_of(of)), weights(static_cast<std::size_t>(grid.points())) {
        grid.point_weights(std::span<float>(weights));
    }
    auto mechanism() const { return spherical_neighbourhood_attention(tensor_view<float const>(weights.data(), {1, 1, p.keys, 1}), near.bands()); }
    save<float> saved() { return {per_row(lse.data(), 1, p.heads, p.queries)}; }
    void ahead() { forward(mechanism(), view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved()); }
    void back() {
        backward(mechanism(), view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved(), view(dout, queries(p.dim_v)), view(dq, queries(p.dim)),
                 view(dk, keys(p.dim)), view(dv, keys(p.dim_v)));
    }
    std::string verify() {
        if (p.verb == "backward") { return check_backward([](extent_t) { return true; }); }
        sphere_neighbourhood const pattern{near.bands()};
        for (extent_t const i : {extent_t(0), p.queries / 2, p.queries - 1}) {
            auto const found = check_forward(p.heads - 1, i, [&](auto const& key) {
                for (extent_t j = 0; j < p.keys; ++j) {
                    if (pattern.keep({}, i, j)) { key(j, static_cast<double>(weights[static_cast<std::size_t>(j)])); }
                }
            });
            if (!found.empty()) { return found; }
        }
        return {};
    }
};

timed_case sphere_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_node_problem(p, {"longitudes", "cutoff"});
    auto const run = std::make_shared<sphere_run>(p);
    timed_case c;
    c.name = name_of(p);
    c.flops = pair_flops(p);
    c.bytes = static_cast<double>(p.heads * (p.queries + p.keys) * (p.dim + p.dim_v) * 4);
    c.limit = limit_name("fma_f32", 1);
    c.prepare = [run, seed = store->seed()] {
        run->fill(seed);
        if (run->p.verb == "backward") { run->ahead(); }
        return std::string("arcs of rings, ") + arch_name<native_arch>();
    };
    c.run = [run] { run->p.verb == "backward" ? run->back() : run->ahead(); };
    c.release = [run] { run->release(); };
    c.verify = [run] { return run->verify(); };
    return c;
}

void sphere_gates(int, std::vector<gate_group>& groups) {
    gate_builder g("sphere 181 x 360, cut-off 3 degrees, 64 channels");
    problem p;
    p.mechanism = "spherical_neighbourhood";
    p.heads = p.kv_heads = 1;
    p.queries = p.keys = 181 * 360;
    p.extra = {{"cutoff", "3"}, {"longitudes", "360"}};
    problem back = p;
    back.verb = "backward";
    g.peak(p, 0.25, 0.45);
    g.against("backward over forward", measure_of::slowdown, back, p, 3, 2.5);
    groups.push_back(g.finish());
}

row_registration const rows({"spherical_neighbourhood", sphere_case, pair_flops});
gate_registration const gates(sphere_gates);

} // namespace

} // namespace heed::bench
