// SPDX-License-Identifier: BSD-3-Clause
// Rows of memories that learn while they read: titans (a map, one step a token), titans_network (two layers, hidden width `hidden`, as wide as d unless set), ttt_linear and
// titans_normalised; forward and backward through the doors, so that a call's one allocation counts. chunk: tokens that take their gradient at the same weights, 16 unless
// set, and 0, the sequential rule, for titans. Operations are the products of the equations, a token at a time, and three times as many in backward, whatever the chunks do.
#include "limit.hpp"
#include "node_arrays.hpp"
#include "registry.hpp"

#include <heed/front/gradient_memory.hpp>
#include <heed/front/memory_network.hpp>

#include <algorithm>
#include <cmath>
#include <memory>

namespace heed::bench {

namespace {

bool is_map(problem const& p) { return p.mechanism == "titans"; }
extent_t hidden_of(problem const& p) { return whole(p, "hidden", p.dim); }
extent_t chunk_of(problem const& p) { return whole(p, "chunk", is_map(p) ? 0 : 16); }

double work(problem const& p) {
    auto const d = static_cast<double>(p.dim), dv = static_cast<double>(p.dim_v), h = static_cast<double>(hidden_of(p));
    double const products = p.mechanism == "titans_network" ? 3 * d * h + 4 * h * dv : 3 * d * dv;
    return static_cast<double>(p.heads * p.queries) * 2 * products * (p.verb == "backward" ? 3 : 1);
}

struct memory_run : node_arrays {
    std::vector<float> theta, alpha, eta, weight, bias, dtheta, dalpha, deta, dweight, dbias;
    explicit memory_run(problem const& of) : node_arrays{of, {}, {}, {}, {}, {}, {}, {}, {}, {}} {}

    shape steps() const { return {1, p.heads, p.queries, 1}; }
    shape row() const { return {1, p.heads, 1, p.dim_v}; }
    void prepare(std::uint64_t seed) {
        fill(seed);
        auto const short_rows = [&](std::vector<float>& x) {
            for (std::size_t r = 0; r < x.size(); r += static_cast<std::size_t>(p.dim)) {
                float square = 0;
                for (std::size_t c = 0; c < static_cast<std::size_t>(p.dim); ++c) { square += x[r + c] * x[r + c]; }
                for (std::size_t c = 0; c < static_cast<std::size_t>(p.dim); ++c) { x[r + c] /= std::sqrt(square); }
            }
        };
        short_rows(q), short_rows(k);
        // steps small enough for a chunk of tokens to learn together, memories that forget slowly
        auto const spread = [&](std::vector<float>& x, shape s, std::uint64_t stream, float least, float most) {
            x.resize(static_cast<std::size_t>(s.size()));
            fill_normal(x, seed, stream);
            for (float& y : x) { y = least + (most - least) / (1 + std::exp(-y)); }
        };
        spread(theta, steps(), 4, 0, 0.02f), spread(alpha, steps(), 5, 0, 0.02f), spread(eta, steps(), 6, 0.2f, 0.8f), spread(weight, row(), 7, 0.9f, 1.1f), spread(bias, row(), 8, -0.1f, 0.1f);
        dtheta = theta, dalpha = alpha, deta = eta, dweight = weight, dbias = bias;
    }
    tensor_view<float const> in(std::vector<float> const& x, shape s) const { return {x.data(), s}; }
    tensor_view<float> to(std::vector<float>& x, shape s) const { return {x.data(), s}; }

    // f(mechanism, its gradients), of tokens [first, first + count)
    template <class F>
    void with(extent_t first, extent_t count, F const& f) {
        auto const part = [&](auto const& x) { return rows_of(x, first, count); };
        auto const t = part(in(theta, steps())), a = part(in(alpha, steps())), e = part(in(eta, steps()));
        auto const w = in(weight, row()), b = in(bias, row());
        if (is_map(p)) { return f(titans_memory(t, a, e, chunk_of(p)), memory_gradient<float>{to(dtheta, steps()), to(dalpha, steps()), to(deta, steps()), {}}); }
        network_gradient<float> g{to(dtheta, steps()), to(dalpha, steps()), to(deta, steps()), to(dweight, row()), to(dbias, row()), {}};
        if (p.mechanism == "titans_network") {
            g.weight = g.bias = {};
            return f(titans_network(t, a, e, hidden_of(p), chunk_of(p)), g);
        }
        if (p.mechanism == "titans_normalised") { return f(titans_normalised(t, a, e, w, b, chunk_of(p)), g); }
        g.alpha = g.eta = {};
        f(ttt_linear(t, w, b, chunk_of(p)), g);
    }
    template <class View>
    static View rows_of(View const& x, extent_t first, extent_t count) {
        return {x.row(0, 0, first), {x.extent(0), x.extent(1), count, x.extent(3)}, x.strides()};
    }
    void ahead() {
        with(0, p.queries, [&](auto const& m, auto const&) { forward(m, view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v))); });
    }
    void back() {
        with(0, p.queries, [&](auto const& m, auto const& gradients) {
            backward(m, view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), nothing_saved{}, view(dout, queries(p.dim_v)), view(dq, queries(p.dim)),
                     view(dk, keys(p.dim)), view(dv, keys(p.dim_v)), gradients);
        });
    }
    // What the first chunks give by themselves is what they gave; nothing was left unwritten.
    std::string verify() {
        extent_t const count = std::min<extent_t>(p.queries, chunk_of(p) > 0 ? 3 * chunk_of(p) : 50);
        std::vector<float> again(static_cast<std::size_t>(shape{1, p.heads, count, p.dim_v}.size()));
        auto const part = [&](auto const& x) { return rows_of(x, 0, count); };
        tensor_view<float> const other(again.data(), {1, p.heads, count, p.dim_v});
        with(0, count, [&](auto const& m, auto const&) { forward(m, part(view(q, queries(p.dim))), part(view(k, keys(p.dim))), part(view(v, keys(p.dim_v))), other); });
        float apart = 0, size = 0;
        for (extent_t h = 0; h < p.heads; ++h)
            for (extent_t n = 0; n < count; ++n)
                for (extent_t e = 0; e < p.dim_v; ++e) {
                    apart = std::fmax(apart, std::fabs(other(0, h, n, e) - view(out, queries(p.dim_v))(0, h, n, e)));
                    size = std::fmax(size, std::fabs(other(0, h, n, e)));
                }
        if (!(apart <= 1e-5f * size)) { return "the first tokens by themselves differ by " + std::to_string(apart) + " where the largest is " + std::to_string(size); }
        for (auto const* x : {&out, &dq, &dk, &dv}) {
            if (x != &out && p.verb != "backward") { continue; }
            for (float const y : *x) {
                if (std::isnan(y)) { return "NaN in a result, or never written"; }
            }
        }
        return {};
    }
};

timed_case memory_case(problem const& of, std::shared_ptr<operand_store> const& store) {
    problem p = of;
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.mask != mask_kind::causal) { refuse("memories are causal: --set mask=causal"); }
    p.mask = mask_kind::full;
    refuse_node_problem(p, {"chunk", "hidden"});
    p.mask = mask_kind::causal;
    if (p.queries != p.keys) { refuse("memories have as many keys as queries"); }
    if (!is_map(p) && p.mechanism != "titans_network" && p.dim != p.dim_v) { refuse("values are as wide as keys here"); }
    auto const run = std::make_shared<memory_run>(p);
    timed_case c;
    c.name = name_of(p);
    c.flops = work(p);
    c.bytes = static_cast<double>(p.heads * p.queries * 2 * (p.dim + p.dim_v) * 4 * (p.verb == "backward" ? 2 : 1));
    c.limit = limit_name("fma_f32", 1);
    c.prepare = [run, seed = store->seed()] {
        run->prepare(seed);
        if (run->p.verb == "backward") { run->ahead(); }
        return std::string(arch_name<native_arch>());
    };
    c.run = [run] { run->p.verb == "backward" ? run->back() : run->ahead(); };
    c.release = [run] { run->release(); };
    c.verify = [run] { return run->verify(); };
    return c;
}

row_registration const titans_rows({"titans", memory_case, work}), network_rows({"titans_network", memory_case, work}), ttt_rows({"ttt_linear", memory_case, work}),
    normalised_rows({"titans_normalised", memory_case, work});

} // namespace

} // namespace heed::bench
