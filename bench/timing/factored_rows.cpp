// SPDX-License-Identifier: BSD-3-Clause
// Rows of attention whose keys and values are never written out. Operations are those of dense attention of the same heads.
//   tensor_product   forward; decode: one step from a cache of factors; ranks rank_q, rank_k, rank_v (6, 2, 2)
//   latent           decode: absorbed queries on rows of D numbers whose first Dv are the value, K latent heads
#include "gate_builder.hpp"
#include "limit.hpp"
#include "operands.hpp"
#include "owned_run.hpp"
#include "registry.hpp"

#include <heed/front/grouped_decode.hpp>
#include <heed/mechanism/latent.hpp>
#include <heed/mechanism/tensor_product.hpp>
#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif

#include <cmath>
#include <sstream>

namespace heed::bench {

namespace {

[[maybe_unused]] auto team_of([[maybe_unused]] problem const& p) {
#if defined(HEED_HAS_OPENMP)
    return cpu{openmp{p.threads}};
#else
    return cpu{};
#endif
}

std::int64_t rank_of(problem const& p, char const* key, std::int64_t usual) {
    auto const found = p.extra.find(key);
    return found == p.extra.end() ? usual : parse_size(found->second);
}
// As many caches as take turns: none is in a cache of the machine when its turn comes.
std::size_t copies_of(double bytes) { return std::clamp<std::size_t>(static_cast<std::size_t>(static_cast<double>(beyond_caches()) / std::max(bytes, 1.0)) + 1, 1, 64); }

// out of one row again, in double: score(j), then value(j, e).
template <class Score, class Value>
std::string check_row(problem const& p, std::int64_t row, std::int64_t keys, float const* out, Score const& score, Value const& value) {
    std::vector<double> s(static_cast<std::size_t>(keys));
    double top = -1e300, total = 0;
    for (std::int64_t j = 0; j < keys; ++j) { top = std::max(top, s[static_cast<std::size_t>(j)] = score(j)); }
    std::vector<double> sum(static_cast<std::size_t>(p.dim_v)), size(sum.size());
    for (std::int64_t j = 0; j < keys; ++j) {
        double const w = std::exp(s[static_cast<std::size_t>(j)] - top);
        total += w;
        for (std::int64_t e = 0; e < p.dim_v; ++e) {
            double const x = w * value(j, e);
            sum[static_cast<std::size_t>(e)] += x, size[static_cast<std::size_t>(e)] += std::abs(x);
        }
    }
    double const steps = 16 + 16 * std::abs(top) + 4 * std::sqrt(static_cast<double>(keys + p.dim));
    for (std::int64_t e = 0; e < p.dim_v; ++e) {
        double const got = static_cast<double>(out[e]), want = sum[static_cast<std::size_t>(e)] / total, allowed = 0x1p-23 * steps * (size[static_cast<std::size_t>(e)] / total + 0.1);
        if (!(std::abs(got - want) <= allowed)) {
            std::ostringstream text;
            text << "row " << row << ", feature " << e << ": got " << got << ", expected " << want << " within " << allowed;
            return text.str();
        }
    }
    return {};
}

// Factors in the order batch, position, head, rank and batch, position, rank, feature.
class tensor_product_run final : public owned_run {
    problem p_;
    std::uint64_t seed_;
    std::int64_t rq_, rk_, rv_;
    std::vector<float> aq_, bq_, ak_, bk_, av_, bv_, out_;
    std::vector<factor_cache<float>> caches_;
    std::vector<std::byte> workspace_;
    std::size_t next_ = 0;

    using mechanism = decltype(tensor_product_attention(window{1}));
    mechanism mech() const {
        extent_t const all = p_.keys + p_.queries;
        return tensor_product_attention(window{all, p_.mask == mask_kind::causal ? 0 : all});
    }
    static factored<float> of(std::vector<float> const& a, std::vector<float> const& b, shape s, std::int64_t rank, extent_t first = 0, extent_t count = -1) {
        extent_t const n = count < 0 ? s.seq : count;
        tensor_view<float const> const va(a.data() + first * s.head * rank, {s.batch, s.head, n, rank}, {s.seq * s.head * rank, rank, s.head * rank, 1});
        tensor_view<float const> const vb(b.data() + first * rank * s.feature, {s.batch, rank, n, s.feature}, {s.seq * rank * s.feature, s.feature, rank * s.feature, 1});
        return factored{va, vb};
    }
    shape rows(std::int64_t heads, std::int64_t n, std::int64_t width) const { return {p_.batch, heads, n, width}; }
    factored<float> q() const { return of(aq_, bq_, rows(p_.heads, p_.queries, p_.dim), rq_); }
    factored<float> k(extent_t first = 0, extent_t count = -1) const { return of(ak_, bk_, rows(p_.kv_heads, p_.keys, p_.dim), rk_, first, count); }
    factored<float> v(extent_t first = 0, extent_t count = -1) const { return of(av_, bv_, rows(p_.kv_heads, p_.keys, p_.dim_v), rv_, first, count); }
    tensor_view<float> out() { return {out_.data(), rows(p_.heads, p_.queries, p_.dim_v)}; }
    static double element(factored<float> const& f, extent_t b, extent_t h, extent_t n, extent_t e) {
        double sum = 0;
        for (extent_t r = 0; r < f.rank(); ++r) { sum += static_cast<double>(f.a(b, h, n, r)) * static_cast<double>(f.b(b, r, n, e)); }
        return sum / static_cast<double>(f.rank());
    }

public:
    tensor_product_run(problem const& p, std::uint64_t seed) : p_(p), seed_(seed), rq_(rank_of(p, "rank_q", 6)), rk_(rank_of(p, "rank_k", 2)), rv_(rank_of(p, "rank_v", 2)) {}
    double cache_bytes() const {
        return static_cast<double>(p_.batch * p_.keys * (row_factors::row(p_.kv_heads, rk_, p_.dim) + row_factors::row(p_.kv_heads, rv_, p_.dim_v))) * sizeof(float);
    }
    std::string prepare() override {
        std::uint64_t stream = 200;
        auto const fill = [&](std::vector<float>& x, std::int64_t n) {
            x.resize(static_cast<std::size_t>(n));
            fill_normal(std::span<float>(x), seed_, ++stream);
        };
        std::int64_t const n = p_.batch * p_.queries, m = p_.batch * p_.keys;
        fill(aq_, n * p_.heads * rq_), fill(bq_, n * rq_ * p_.dim), fill(ak_, m * p_.kv_heads * rk_), fill(bk_, m * rk_ * p_.dim), fill(av_, m * p_.kv_heads * rv_), fill(bv_, m * rv_ * p_.dim_v);
        out_.assign(static_cast<std::size_t>(n * p_.heads * p_.dim_v), 0.0f / 0.0f);
        if (p_.verb == "decode") {
            for (std::size_t i = 0; i < copies_of(cache_bytes()); ++i) {
                caches_.push_back(make_factor_cache<float>({p_.batch, p_.kv_heads, p_.keys, p_.dim, p_.dim_v, rk_, rv_}));
                heed::append(caches_.back(), k(), v());
            }
            auto const plan = plan_grouped_decode(mech(), q(), caches_.front(), team_of(p_));
            workspace_.resize(plan.workspace_bytes());
            return plan.describe() + "; " + std::to_string(caches_.size()) + " caches in turn";
        }
        return std::string("factored rows, ") + arch_name<native_arch>();
    }
    void run() override {
        if (p_.verb == "decode") {
            next_ = (next_ + 1) % caches_.size();
            auto plan = plan_grouped_decode(mech(), q(), caches_[next_], team_of(p_));
            plan.run(q().rows_view(), caches_[next_], out(), workspace_);
        } else {
            forward(mech(), q(), k(), v(), out(), team_of(p_));
        }
    }
    void release() override {
        caches_.clear();
        for (auto* x : {&aq_, &bq_, &ak_, &bk_, &av_, &bv_, &out_}) { *x = {}; }
    }
    std::string verify() const override {
        for (std::uint64_t sample = 0; sample < 4; ++sample) {
            std::int64_t const row = static_cast<std::int64_t>(random_word(seed_, sample) % static_cast<std::uint64_t>(p_.batch * p_.heads * p_.queries)), b = row / p_.queries / p_.heads,
                               h = row / p_.queries % p_.heads, i = row % p_.queries, g = h / (p_.heads / p_.kv_heads);
            std::vector<double> query(static_cast<std::size_t>(p_.dim));
            for (std::int64_t e = 0; e < p_.dim; ++e) { query[static_cast<std::size_t>(e)] = element(q(), b, h, i, e) / std::sqrt(static_cast<double>(p_.dim)); }
            auto const found = check_row(
                p_, row, keys_of(p_, i).end, out_.data() + row * p_.dim_v,
                [&](std::int64_t j) {
                    double s = 0;
                    for (std::int64_t e = 0; e < p_.dim; ++e) { s += query[static_cast<std::size_t>(e)] * element(k(), b, g, j, e); }
                    return s;
                },
                [&](std::int64_t j, std::int64_t e) { return element(v(), b, g, j, e); });
            if (!found.empty()) { return found; }
        }
        return {};
    }
};

class latent_run final : public owned_run {
    problem p_;
    std::uint64_t seed_;
    std::vector<float> q_, out_;
    std::vector<latent_cache<float>> caches_;
    std::vector<std::byte> workspace_;
    std::size_t next_ = 0;

    auto mech() const { return latent_attention(192); }
    tensor_view<float const> q() const { return {q_.data(), {p_.batch, p_.heads, p_.queries, p_.dim}}; }

public:
    latent_run(problem const& p, std::uint64_t seed) : p_(p), seed_(seed) {}
    std::string prepare() override {
        q_.resize(static_cast<std::size_t>(p_.batch * p_.heads * p_.queries * p_.dim));
        out_.assign(static_cast<std::size_t>(p_.batch * p_.heads * p_.queries * p_.dim_v), 0.0f / 0.0f);
        fill_normal(std::span<float>(q_), seed_, 300);
        std::vector<float> rows(static_cast<std::size_t>(p_.batch * p_.kv_heads * p_.keys * p_.dim));
        fill_normal(std::span<float>(rows), seed_, 301);
        for (std::size_t i = 0; i < copies_of(static_cast<double>(rows.size() * sizeof(float))); ++i) {
            caches_.push_back(make_latent_cache<float>({p_.batch, p_.kv_heads, p_.keys, p_.dim, p_.dim_v}));
            heed::append(caches_.back(), tensor_view<float const>(rows.data(), {p_.batch, p_.kv_heads, p_.keys, p_.dim}));
        }
        auto const plan = plan_grouped_decode(mech(), q(), caches_.front(), team_of(p_));
        workspace_.resize(plan.workspace_bytes());
        return plan.describe() + "; " + std::to_string(caches_.size()) + " caches in turn";
    }
    void run() override {
        next_ = (next_ + 1) % caches_.size();
        auto plan = plan_grouped_decode(mech(), q(), caches_[next_], team_of(p_));
        plan.run(q(), caches_[next_], tensor_view<float>(out_.data(), {p_.batch, p_.heads, p_.queries, p_.dim_v}), workspace_);
    }
    void release() override { caches_.clear(), q_ = {}, out_ = {}; }
    std::string verify() const override {
        auto const c = const_cast<latent_cache<float>&>(caches_[next_]).grouped().rows;
        for (std::uint64_t sample = 0; sample < 4; ++sample) {
            std::int64_t const row = static_cast<std::int64_t>(random_word(seed_, sample) % static_cast<std::uint64_t>(p_.batch * p_.heads * p_.queries)), b = row / p_.queries / p_.heads,
                               h = row / p_.queries % p_.heads, i = row % p_.queries, g = h / (p_.heads / p_.kv_heads);
            auto const found = check_row(
                p_, row, p_.keys - p_.queries + i + 1, out_.data() + row * p_.dim_v,
                [&](std::int64_t j) {
                    double s = 0;
                    for (std::int64_t e = 0; e < p_.dim; ++e) { s += static_cast<double>(q_[static_cast<std::size_t>(row * p_.dim + e)]) * static_cast<double>(c.k(b, g, j, e)); }
                    return s / std::sqrt(192.0);
                },
                [&](std::int64_t j, std::int64_t e) { return static_cast<double>(c.v(b, g, j, e)); });
            if (!found.empty()) { return found; }
        }
        return {};
    }
};

void refuse_other_problems(problem const& p, std::string_view verbs) {
    auto const refuse = [&](char const* why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.dtype != element::f32) { refuse("compiled for f32 here"); }
    if (p.backend != "cpu" || !p.isa.empty()) { refuse("runs on the cpu backend, with the build's own instruction set"); }
    if (p.bias != bias_kind::none || p.softcap != 0 || p.alibi) { refuse("compiled without bias, softcap and alibi here"); }
    if (p.mask != mask_kind::full && p.mask != mask_kind::causal) { refuse("compiled with mask=full and mask=causal here"); }
    if (verbs.find(p.verb) == std::string_view::npos) { refuse("this verb has no row here"); }
}

timed_case tensor_product_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_other_problems(p, "forward decode");
    auto const run = std::make_shared<tensor_product_run>(p, store->seed());
    bool const step = p.verb == "decode";
    return case_of(p, run, step ? run->cache_bytes() : bytes(p), limit_name(step ? "read" : "fma_f32", p.threads));
}
timed_case latent_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    refuse_other_problems(p, "decode");
    if (p.dim_v > p.dim) { throw unsupported_error(name_of(p) + ": the value is the first part of a row, so Dv is at most D"); }
    return case_of(p, std::make_shared<latent_run>(p, store->seed()), static_cast<double>(p.batch * p.kv_heads * p.keys * p.dim) * sizeof(float), limit_name("fma_f32", p.threads));
}

row_registration const tensor_product_rows({"tensor_product", tensor_product_case});
row_registration const latent_rows({"latent", latent_case});

void add_factored_gates(int, std::vector<gate_group>& groups) {
    gate_builder b("keys and values that are never written out, one thread");
    problem prefill = square(4096, 64), dense = prefill;
    prefill.heads = prefill.kv_heads = dense.heads = dense.kv_heads = 16;
    prefill.mechanism = "tensor_product";
    b.against("TPA prefill over dense softmax", measure_of::rate, prefill, dense, 0.85, 0.92);
    problem step = prefill, dense_step = dense;
    step.verb = dense_step.verb = "decode";
    step.queries = dense_step.queries = 1;
    step.keys = dense_step.keys = 16384;
    b.against("TPA step, time over a dense cache's", measure_of::slowdown, step, dense_step, 0.40, 0.20);
    problem latent = step;
    latent.mechanism = "latent";
    latent.heads = 128, latent.kv_heads = 1, latent.dim = 576, latent.dim_v = 512, latent.keys = 8192;
    b.peak(latent, 0.60, 0.75);
    groups.push_back(b.finish());
}
gate_registration const gates(add_factored_gates);

} // namespace

} // namespace heed::bench
