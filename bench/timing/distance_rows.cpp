// SPDX-License-Identifier: BSD-3-Clause
// Rows of softmax over distances: squared_distance, weights exp(-|q - k|^2 / (2 sqrt d)), and l1_distance, exp(-|q - k|_1 / sqrt d). An operation is counted as the
// two of a multiply-add, whose pipes it takes on most machines: a squared difference is a subtraction and a multiply-add, an absolute one three; values one.
#include "limit.hpp"
#include "node_arrays.hpp"
#include "registry.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/policy/normalize/softmax.hpp>
#include <heed/policy/score/contractions.hpp>
#include <heed/policy/score/scale.hpp>

#include <algorithm>

namespace heed::bench {

namespace {

bool squares(problem const& p) { return p.mechanism == "squared_distance"; }
double distance_flops(problem const& p) {
    double const forward = 2 * static_cast<double>(p.heads * p.queries) * static_cast<double>(p.keys) * static_cast<double>((squares(p) ? 2 : 3) * p.dim + p.dim_v);
    return p.verb == "backward" ? 2.5 * forward : forward;
}

struct distance_run : node_arrays {
    explicit distance_run(problem const& of) : node_arrays{of, {}, {}, {}, {}, {}, {}, {}, {}, {}} {}

    template <class F>
    void with_mechanism(F const& f) {
        float const c = 1 / std::sqrt(static_cast<float>(std::max<std::int64_t>(p.dim, 1)));
        if (squares(p)) { return f(attention{squared_distance{} | scale{-0.5f * c}, full{}, softmax{}}); }
        f(attention{l1_distance{} | scale{-c}, full{}, softmax{}});
    }
    save<float> saved() { return {per_row(lse.data(), 1, p.heads, p.queries)}; }
    void ahead() {
        with_mechanism([&](auto const& m) { forward(m, view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved()); });
    }
    void back() {
        with_mechanism([&](auto const& m) {
            backward(m, view(q, queries(p.dim)), view(k, keys(p.dim)), view(v, keys(p.dim_v)), view(out, queries(p.dim_v)), saved(), view(dout, queries(p.dim_v)), view(dq, queries(p.dim)),
                     view(dk, keys(p.dim)), view(dv, keys(p.dim_v)));
        });
    }
    std::string verify() {
        if (p.verb == "backward") { return check_backward([](extent_t) { return true; }); }
        extent_t const h = p.heads - 1;
        double const c = 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(p.dim, 1)));
        for (extent_t const i : {extent_t(0), p.queries / 2, p.queries - 1}) {
            std::vector<double> score(static_cast<std::size_t>(p.keys)), sum(static_cast<std::size_t>(p.dim_v)), size(sum.size());
            for (extent_t j = 0; j < p.keys; ++j) {
                double s = 0;
                for (extent_t e = 0; e < p.dim; ++e) {
                    double const x = static_cast<double>(view(q, queries(p.dim))(0, h, i, e)) - static_cast<double>(view(k, keys(p.dim))(0, h, j, e));
                    s += squares(p) ? x * x / 2 : std::abs(x);
                }
                score[static_cast<std::size_t>(j)] = -c * s;
            }
            double const top = *std::max_element(score.begin(), score.end());
            double total = 0;
            for (extent_t j = 0; j < p.keys; ++j) {
                double const w = std::exp(score[static_cast<std::size_t>(j)] - top);
                total += w;
                for (extent_t e = 0; e < p.dim_v; ++e) {
                    double const x = static_cast<double>(view(v, keys(p.dim_v))(0, h, j, e));
                    sum[static_cast<std::size_t>(e)] += w * x;
                    size[static_cast<std::size_t>(e)] += w * std::abs(x);
                }
            }
            for (extent_t e = 0; e < p.dim_v; ++e) {
                std::size_t const at = static_cast<std::size_t>(e);
                double const got = static_cast<double>(view(out, queries(p.dim_v))(0, h, i, e));
                if (!(std::abs(got - sum[at] / total) <= 2e-5 * size[at] / total)) {
                    return "row " + std::to_string(i) + ", feature " + std::to_string(e) + ": got " + std::to_string(got) + ", expected " + std::to_string(sum[at] / total);
                }
            }
        }
        return {};
    }
};

timed_case distance_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_node_problem(p, {});
    auto const run = std::make_shared<distance_run>(p);
    timed_case c;
    c.name = name_of(p);
    c.flops = distance_flops(p);
    c.bytes = static_cast<double>(p.heads * (p.queries + p.keys) * (p.dim + p.dim_v) * 4);
    c.limit = limit_name("fma_f32", 1);
    c.prepare = [run, seed = store->seed()] {
        run->fill(seed);
        if (run->p.verb == "backward") { run->ahead(); }
        return std::string("tiles, ") + arch_name<native_arch>();
    };
    c.run = [run] { run->p.verb == "backward" ? run->back() : run->ahead(); };
    c.release = [run] { run->release(); };
    c.verify = [run] { return run->verify(); };
    return c;
}

row_registration const squared_rows({"squared_distance", distance_case, distance_flops});
row_registration const l1_rows({"l1_distance", distance_case, distance_flops});

} // namespace

} // namespace heed::bench
