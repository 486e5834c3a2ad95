// SPDX-License-Identifier: BSD-3-Clause
// Rows of the tropical semiring, one step (an addition and a maximum, counted as two operations) for each pair of numbers that meet:
//   max_plus, tropical     attention, forward and backward; tropical scores by Hilbert's metric, without the exit map
//   max_plus_product       out = q v over (max, +), q (N, D), v (M = D, Dv); order=ikj: the triple loop that compilers vectorize
//   hilbert_scores         s = -(max - min) of q - k, (N, M), tile by tile as attention makes them
#include "gate_builder.hpp"
#include "limit.hpp"
#include "registry.hpp"
#include "softmax_runs.hpp"
#include "team.hpp"

#include <heed/heed.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

namespace heed::bench {

namespace {

[[noreturn]] void refuse(problem const& p, std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); }

void refuse_what_is_not_compiled(problem const& p, bool backward) {
    if (p.dtype != element::f32) { refuse(p, "compiled for f32 here"); }
    if (p.backend != "cpu" || !p.isa.empty()) { refuse(p, "runs on the cpu backend, with the build's own instruction set"); }
    if (p.bias != bias_kind::none || p.softcap != 0 || p.alibi) { refuse(p, "compiled without bias, softcap and alibi here"); }
    if (p.mask != mask_kind::full) { refuse(p, "compiled with mask=full here"); }
    if (p.verb != "forward" && !(backward && p.verb == "backward")) { refuse(p, backward ? "forward and backward are compiled here" : "forward is compiled here"); }
    if (p.threads > 1 && !has_teams()) { refuse(p, "this build has no OpenMP, so one thread only"); }
}

float const* at(float const* x, std::int64_t row, std::int64_t width) { return x + row * width; }

// Rows of out again, in double.
template <class Row>
std::string check_rows_by(problem const& p, operands<float> const& o, std::uint64_t seed, std::int64_t width, Row const& row) {
    for (std::uint64_t n = 0; n < 6; ++n) {
        auto const i = static_cast<std::int64_t>(random_word(seed, n) % static_cast<std::uint64_t>(p.batch * p.heads * p.queries));
        for (std::int64_t e = 0; e < width; ++e) {
            double const expected = row(i, e), got = static_cast<double>(o.out[i * width + e]);
            if (!(std::abs(got - expected) <= 1e-5 * (1 + std::abs(expected)))) {
                std::ostringstream s;
                s << "row " << i << ", feature " << e << " is " << got << ", expected " << expected;
                return s.str();
            }
        }
    }
    return {};
}
double hilbert_of(float const* q, float const* k, std::int64_t d) {
    double top = -std::numeric_limits<double>::infinity(), low = -top;
    for (std::int64_t c = 0; c < d; ++c) { top = std::max(top, double(q[c]) - double(k[c])), low = std::min(low, double(q[c]) - double(k[c])); }
    return low - top;
}
double greatest_of(float const* q, float const* k, std::int64_t d) {
    double top = -std::numeric_limits<double>::infinity();
    for (std::int64_t c = 0; c < d; ++c) { top = std::max(top, double(q[c]) + double(k[c])); }
    return top;
}

timed_case plain_case(problem const& p, std::string_view limit, double work) {
    timed_case c;
    c.name = name_of(p);
    c.threads = p.threads;
    c.flops = work;
    c.bytes = bytes(p);
    c.limit = limit_name(limit, p.threads);
    return c;
}

template <class S>
timed_case attention_case(problem const& p, std::shared_ptr<operand_store> const& store, S const& score, double (*score_of)(float const* q, float const* k, std::int64_t d)) {
    refuse_what_is_not_compiled(p, true);
    store->reserve(p);
    auto c = plain_case(p, "add_max", flops(p));
    attention const m{score, full{}, tropical<max_plus>{}, max_plus{}};
    auto const verify = [=] {
        auto const o = store->of<float>(p);
        return check_rows_by(p, o, store->seed(), p.dim_v, [&](std::int64_t i, std::int64_t e) {
            auto const kv = i / p.queries / p.heads * p.kv_heads + i / p.queries % p.heads / (p.heads / p.kv_heads);
            double top = -std::numeric_limits<double>::infinity();
            for (std::int64_t j = 0; j < p.keys; ++j) { top = std::max(top, score_of(at(o.q, i, p.dim), at(o.k, kv * p.keys + j, p.dim), p.dim) + double(at(o.v, kv * p.keys + j, p.dim_v)[e])); }
            return top;
        });
    };
    auto const prepared = std::make_shared<prepared_run>();
    if (p.verb == "forward") {
        c.prepare = [=] {
            *prepared = planned<float>(m, p, store->of<float>(p), *store, on_cpu(p));
            return prepared->engine;
        };
        c.run = [=] { prepared->run(); };
        c.verify = verify;
        return c;
    }
    struct gradients {
        std::vector<float> dout, dq, dk, dv;
    };
    auto const g = std::make_shared<gradients>();
    c.prepare = [=] {
        auto const o = store->of<float>(p);
        planned<float>(m, p, o, *store, on_cpu(p)).run();
        g->dout.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries * p.dim_v), 0);
        fill_normal(std::span<float>(g->dout), store->seed(), 77);
        g->dq.resize(static_cast<std::size_t>(p.batch * p.heads * p.queries * p.dim));
        g->dk.resize(static_cast<std::size_t>(p.batch * p.kv_heads * p.keys * p.dim));
        g->dv.resize(static_cast<std::size_t>(p.batch * p.kv_heads * p.keys * p.dim_v));
        using backend = std::remove_cvref_t<decltype(on_cpu(p))>;
        return std::string(backward_engine<std::remove_const_t<decltype(m)>, float, backend>::name);
    };
    c.run = [=] {
        auto const o = store->of<float>(p);
        shape const q{p.batch, p.heads, p.queries, p.dim}, k{p.batch, p.kv_heads, p.keys, p.dim}, v{p.batch, p.kv_heads, p.keys, p.dim_v}, out{p.batch, p.heads, p.queries, p.dim_v};
        backward(m, tensor_view<float const>(o.q, q), tensor_view<float const>(o.k, k), tensor_view<float const>(o.v, v), tensor_view<float const>(o.out, out), nothing_saved{},
                 tensor_view<float const>(g->dout.data(), out), tensor_view<float>(g->dq.data(), q), tensor_view<float>(g->dk.data(), k), tensor_view<float>(g->dv.data(), v), on_cpu(p));
    };
    c.release = [=] { *g = {}; };
    c.verify = [=]() -> std::string { // every dout arrives at one value
        double sent = 0, arrived = 0, size = 0;
        for (float x : g->dout) { sent += double(x), size += std::abs(double(x)); }
        for (float x : g->dv) { arrived += double(x); }
        return std::abs(sent - arrived) <= 1e-6 * size ? std::string() : "the sum of dv is not that of dout";
    };
    return c;
}

timed_case max_plus_case(problem const& p, std::shared_ptr<operand_store> const& store) { return attention_case(p, store, max_plus_score{}, greatest_of); }
timed_case tropical_case(problem const& p, std::shared_ptr<operand_store> const& store) { return attention_case(p, store, hilbert{}, hilbert_of); }

double product_work(problem const& p) { return 2.0 * static_cast<double>(p.batch * p.heads) * static_cast<double>(p.queries) * static_cast<double>(p.dim) * static_cast<double>(p.dim_v); }

[[gnu::noinline]] void triple_loop(float const* a, float const* b, float* c, std::int64_t n, std::int64_t k, std::int64_t m) {
    for (std::int64_t i = 0; i < n; ++i) {
        float* const row = c + i * m;
        for (std::int64_t j = 0; j < m; ++j) { row[j] = -std::numeric_limits<float>::infinity(); }
        for (std::int64_t t = 0; t < k; ++t) {
            float const x = a[i * k + t];
            float const* const from = b + t * m;
            for (std::int64_t j = 0; j < m; ++j) {
                float const sum = x + from[j];
                row[j] = sum > row[j] ? sum : row[j];
            }
        }
    }
}

timed_case product_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_what_is_not_compiled(p, false);
    if (p.keys != p.dim || p.heads != p.kv_heads) { refuse(p, "a product q v needs as many keys as features, and as many heads of both"); }
    bool const loop = p.extra.contains("order");
    if (loop && (p.extra.at("order") != "ikj" || p.threads != 1)) { refuse(p, "order=ikj is the triple loop on one thread; there is no other"); }
    store->reserve(p);
    auto c = plain_case(p, "add_max", product_work(p));
    c.prepare = [=] { return loop ? std::string("triple loop, i k j") : std::string(semiring_matmul_engine<max_plus, float, native_arch>::name) + " on " + arch_name<native_arch>(); };
    c.run = [=] {
        auto const o = store->of<float>(p);
        if (loop) {
            for (std::int64_t h = 0; h < p.batch * p.heads; ++h) { triple_loop(o.q + h * p.queries * p.dim, o.v + h * p.keys * p.dim_v, o.out + h * p.queries * p.dim_v, p.queries, p.dim, p.dim_v); }
        } else {
            semiring_matmul(max_plus{}, tensor_view<float const>(o.q, {p.batch, p.heads, p.queries, p.dim}), tensor_view<float const>(o.v, {p.batch, p.heads, p.keys, p.dim_v}),
                            tensor_view<float>(o.out, {p.batch, p.heads, p.queries, p.dim_v}), on_cpu(p));
        }
    };
    c.verify = [=] {
        auto const o = store->of<float>(p);
        return check_rows_by(p, o, store->seed(), p.dim_v, [&](std::int64_t i, std::int64_t e) {
            double top = -std::numeric_limits<double>::infinity();
            for (std::int64_t t = 0; t < p.dim; ++t) { top = std::max(top, double(at(o.q, i, p.dim)[t]) + double(at(o.v, i / p.queries * p.keys + t, p.dim_v)[e])); }
            return top;
        });
    };
    return c;
}

double scores_work(problem const& p) { return 2.0 * static_cast<double>(p.batch * p.heads) * static_cast<double>(p.queries) * static_cast<double>(p.keys) * static_cast<double>(p.dim); }

// Each tile of queries packed, then all keys, a tile at a time, into the tile's memory.
class score_tiles {
    static constexpr tile_config tiles = default_tiles<float, native_arch>();
    using kernel = contract_tile<hilbert_range, float, native_arch, tiles>;
    problem p_;
    std::shared_ptr<operand_store> store_;
    std::vector<float> q_, s_, peak_;

    template <class Each>
    void walk(Each const& each) {
        auto const o = store_->of<float>(p_);
        for (std::int64_t h = 0; h < p_.batch * p_.heads; ++h) {
            for (std::int64_t i = 0; i < p_.queries; i += kernel::pitch) {
                auto const rows = std::min(p_.queries - i, std::int64_t(kernel::pitch));
                pack_transposed<native_arch>(at(o.q, h * p_.queries + i, p_.dim), p_.dim, extent_t(1), rows, p_.dim, q_.data(), kernel::pitch, kernel::pitch);
                for (std::int64_t j = 0; j < p_.keys; j += tiles.keys) {
                    typename kernel::rows const k{at(o.k, h * p_.keys + j, p_.dim), p_.dim};
                    auto const keys = std::min(p_.keys - j, std::int64_t(tiles.keys));
                    kernel::run(k, keys, k, q_.data(), p_.dim, s_.data(), peak_.data(), 0, tiles.vecs);
                    each(o, h, i, j, rows, keys);
                }
            }
        }
    }

public:
    score_tiles(problem const& p, std::shared_ptr<operand_store> store)
        : p_(p), store_(std::move(store)), q_(static_cast<std::size_t>(p.dim * kernel::pitch)), s_(static_cast<std::size_t>(tiles.keys * kernel::pitch)), peak_(static_cast<std::size_t>(kernel::pitch)) {}
    void run() {
        walk([](auto&&...) {});
    }
    std::string verify() {
        double worst = 0;
        walk([&](operands<float> const& o, std::int64_t h, std::int64_t i, std::int64_t j, std::int64_t rows, std::int64_t keys) {
            auto const r = (i + j) % rows, n = (i * 7 + j) % keys;
            worst = std::max(worst, std::abs(double(s_[static_cast<std::size_t>(n * kernel::pitch + r)]) - hilbert_of(at(o.q, h * p_.queries + i + r, p_.dim), at(o.k, h * p_.keys + j + n, p_.dim), p_.dim)));
        });
        return worst <= 1e-5 ? std::string() : "a score is off by " + std::to_string(worst);
    }
};

timed_case scores_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_what_is_not_compiled(p, false);
    if (p.threads != 1 || p.heads != p.kv_heads) { refuse(p, "the score matrix is made on one thread, head by head"); }
    store->reserve(p);
    auto c = plain_case(p, "range", scores_work(p));
    auto const tiles = std::make_shared<score_tiles>(p, store);
    c.prepare = [] { return std::string("contract_tile on ") + arch_name<native_arch>(); };
    c.run = [tiles] { tiles->run(); };
    c.verify = [tiles] { return tiles->verify(); };
    return c;
}

row_registration const max_plus_rows({"max_plus", max_plus_case});
row_registration const tropical_rows({"tropical", tropical_case});
row_registration const product_rows({"max_plus_product", product_case, product_work});
row_registration const score_rows({"hilbert_scores", scores_case, scores_work});

problem of(char const* mechanism, std::int64_t n, std::int64_t d) {
    problem p = square(n, d);
    p.mechanism = mechanism;
    p.heads = p.kv_heads = 1;
    return p;
}

void add_tropical_gates(int, std::vector<gate_group>& groups) {
    // Where a multiplier can add (fma(a, 1, b)), the limit is up to 1.9 times what plain additions beside maxima reach: 0.7 of it is 1.2 times those.
    gate_builder b("tropical, one thread, share of the faster add and max in registers");
    problem const product = of("max_plus_product", 2048, 2048);
    problem loop = product;
    loop.extra["order"] = "ikj";
    problem const plain = of("max_plus", 4096, 64), hilbert = of("tropical", 4096, 64);
    b.peak(product, 0.70, 0.88);
    b.peak(plain, 0.70, 0.88);
    b.peak(hilbert, 0.56, 0.65);
    b.peak(of("hilbert_scores", 4096, 64), 0.60, 0.75);
    b.against("max-plus product over the triple loop", measure_of::speedup, product, loop, 4, 5);
    for (auto const* forward : {&plain, &hilbert}) {
        problem backward = *forward;
        backward.verb = "backward";
        b.against(forward->mechanism + " backward, time over forward", measure_of::slowdown, backward, *forward, 3.0, 2.5);
    }
    groups.push_back(b.finish());
}
gate_registration const tropical_gates(add_tropical_gates);

} // namespace

} // namespace heed::bench
