// SPDX-License-Identifier: BSD-3-Clause
// Rows of the recurrent family: linear, normalized, retention, simple_gated_linear, gated_linear, delta_rule, gated_delta_rule and kimi_delta; forward, backward and decode (one token
// onto a state). Operations are those of the chunked form with chunks of 64, triangles counted as triangles. Backend `stream` of decode reads and writes the same
// state and does nothing else. And the gates of the speed table.
#include "gate_builder.hpp"
#include "limit.hpp"
#include "operands.hpp"
#include "registry.hpp"
#include "team.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/gated_linear.hpp>
#include <heed/mechanism/linear.hpp>
#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif

#include <array>
#include <cmath>
#include <limits>
#include <sstream>

namespace heed::bench {

namespace {

constexpr std::array<std::string_view, 8> names{"linear", "normalized", "retention", "simple_gated_linear", "gated_linear", "delta_rule", "gated_delta_rule", "kimi_delta"};
bool corrects(problem const& p) { return p.mechanism.find("delta") != std::string::npos; }
bool decays_heads(problem const& p) { return p.mechanism == "retention" || p.mechanism == "simple_gated_linear" || p.mechanism == "gated_delta_rule"; }
bool decays_channels(problem const& p) { return p.mechanism == "gated_linear" || p.mechanism == "kimi_delta"; }

// Of a call: multiplications and additions of the products alone.
double work(problem const& p) {
    auto const d = static_cast<double>(p.dim), dv = static_cast<double>(p.dim_v), half = 65.0 / 2, tokens = static_cast<double>(p.batch * p.heads * p.queries);
    if (p.verb == "decode") return tokens * d * dv * (corrects(p) ? 6 : 4);
    if (p.verb == "backward") return tokens * 2 * (5 * d * dv + half * (2 * dv + 3 * d) + (corrects(p) ? 3 * d * dv + half * (3 * dv + 3 * d) : 0));
    return tokens * 2 * (2 * d * dv + half * (d + dv) + (corrects(p) ? d * dv + half * (d + dv) : 0));
}
double state_bytes(problem const& p) { return static_cast<double>(p.batch * p.heads * p.dim * p.dim_v) * sizeof(float); }

#if defined(HEED_HAS_OPENMP)
auto backend_of(problem const& p) { return cpu{openmp{p.threads}}; }
#else
auto backend_of(problem const&) { return cpu{}; }
#endif
using backend = decltype(backend_of(problem{}));

class recurrent_run {
    problem p_;
    std::uint64_t seed_;
    std::vector<float> q_, k_, v_, out_, log_, beta_, dout_, dq_, dk_, dv_, dlog_, dbeta_, state_, z_;
    std::vector<std::byte> workspace_;
    std::function<void()> run_;

    shape rows(extent_t features) const { return {p_.batch, p_.heads, p_.queries, features}; }
    static tensor_view<float> view(std::vector<float>& x, shape s) { return {x.data(), s}; }
    tensor_view<float const> in(std::vector<float> const& x, shape s) const { return {x.data(), s}; }

    template <class F>
    void with_mechanism(F const& f) const {
        double const scale = 1 / std::sqrt(static_cast<double>(p_.dim));
        auto const& m = p_.mechanism;
        if (m == "linear") return f(linear_attention_raw(scale));
        if (m == "normalized") return f(linear_attention());
        if (m == "retention") return f(retention(per_head(log_.data(), p_.heads), scale));
        if (m == "simple_gated_linear") return f(simple_gated_linear(in(log_, rows(1)), scale));
        if (m == "gated_linear") return f(gated_linear(in(log_, rows(p_.dim)), scale));
        if (m == "delta_rule") return f(delta_attention(in(beta_, rows(1)), scale));
        if (m == "gated_delta_rule") return f(gated_delta_attention(in(log_, rows(1)), in(beta_, rows(1)), scale));
        return f(kimi_delta_attention(in(log_, rows(p_.dim)), in(beta_, rows(1)), scale));
    }
    shape state_shape() const { return {p_.batch, p_.heads, p_.dim, p_.dim_v}; }
    template <class M>
    final_state<float> state() {
        return {view(state_, state_shape()), M::normalized ? view(z_, {p_.batch, p_.heads, p_.dim, 1}) : tensor_view<float>{}};
    }

public:
    recurrent_run(problem const& p, std::uint64_t seed) : p_(p), seed_(seed) {}

    std::string prepare() {
        auto const fill = [&](std::vector<float>& x, shape s, std::uint64_t stream) {
            x.resize(static_cast<std::size_t>(s.size()));
            fill_normal(std::span<float>(x), seed_, stream);
        };
        fill(q_, rows(p_.dim), 0), fill(k_, rows(p_.dim), 1), fill(v_, rows(p_.dim_v), 2);
        auto const width = static_cast<std::size_t>(p_.dim);
        for (std::size_t r = 0; r < k_.size(); r += width) { // keys of length 1
            double sum = 0;
            for (std::size_t c = 0; c < width; ++c) sum += static_cast<double>(k_[r + c]) * static_cast<double>(k_[r + c]);
            for (std::size_t c = 0; c < width; ++c) k_[r + c] /= static_cast<float>(std::sqrt(sum));
        }
        if (decays_heads(p_) || decays_channels(p_)) {
            fill(log_, p_.mechanism == "retention" ? shape{1, p_.heads, 1, 1} : rows(decays_channels(p_) ? p_.dim : 1), 4);
            for (float& x : log_) x = -0.05f * std::fabs(x);
        }
        if (corrects(p_)) {
            fill(beta_, rows(1), 5);
            for (float& x : beta_) x = 1 / (1 + std::exp(-x));
        }
        out_.assign(static_cast<std::size_t>(rows(p_.dim_v).size()), std::numeric_limits<float>::quiet_NaN());
        if (p_.verb == "decode") return prepare_decode();
        std::string engine;
        with_mechanism([&](auto const& m) {
            auto plan = std::make_shared<recurrent_plan<std::remove_cvref_t<decltype(m)>, float, backend>>(m, rows(p_.dim), rows(p_.dim), rows(p_.dim_v), backend_of(p_));
            workspace_.resize(plan->workspace_bytes());
            engine = plan->describe();
            run_ = [this, plan] { plan->run(in(q_, rows(p_.dim)), in(k_, rows(p_.dim)), in(v_, rows(p_.dim_v)), view(out_, rows(p_.dim_v)), workspace_); };
        });
        if (p_.verb == "backward") {
            run_();
            fill(dout_, rows(p_.dim_v), 3);
            engine = prepare_backward();
        }
        return engine;
    }
    void run() { run_(); }
    void release() {
        run_ = {};
        for (auto* x : {&q_, &k_, &v_, &out_, &log_, &beta_, &dout_, &dq_, &dk_, &dv_, &dlog_, &dbeta_, &state_, &z_}) *x = {};
        workspace_ = {};
    }
    std::string verify() {
        if (p_.verb == "backward") return verify_gradients();
        if (p_.verb == "decode" && p_.backend == "stream") return {};
        if (p_.verb == "decode") { // the state goes on with every call: once more from a new one
            std::fill(state_.begin(), state_.end(), 0.0f), std::fill(z_.begin(), z_.end(), 0.0f);
            run_();
        }
        for (extent_t head : {extent_t(0), p_.batch * p_.heads - 1})
            for (extent_t column : {extent_t(0), p_.dim_v - 1}) {
                if (auto const wrong = verify_column(head, column); !wrong.empty()) return wrong;
            }
        for (float const x : out_)
            if (std::isnan(x)) return "NaN in the output, or never written";
        return {};
    }

private:
    std::string prepare_backward() {
        std::string engine;
        auto const room = [](std::vector<float>& x, std::vector<float> const& like) { x.assign(like.size(), std::numeric_limits<float>::quiet_NaN()); };
        room(dq_, q_), room(dk_, k_), room(dv_, v_), room(dlog_, log_), room(dbeta_, beta_);
        with_mechanism([&](auto const& m) {
            using M = std::remove_cvref_t<decltype(m)>;
            recurrent_problem<float> const problem{in(q_, rows(p_.dim)), in(k_, rows(p_.dim)), in(v_, rows(p_.dim_v)), view(out_, rows(p_.dim_v))};
            recurrent_gradients<float> gradients{in(dout_, rows(p_.dim_v)), view(dq_, rows(p_.dim)), view(dk_, rows(p_.dim)), view(dv_, rows(p_.dim_v))};
            if constexpr (M::decays != decay_kind::none) gradients.log_decay = view(dlog_, m.update.log_decay.shape());
            if constexpr (M::corrects) gradients.beta = view(dbeta_, m.update.beta.shape());
            auto plan = std::make_shared<recurrent_backward_plan<M, float, backend>>(m, problem, gradients, backend_of(p_));
            workspace_.resize(plan->workspace_bytes());
            engine = plan->describe();
            run_ = [this, plan] { plan->run(workspace_); };
        });
        return engine;
    }
    std::string prepare_decode() {
        state_.assign(static_cast<std::size_t>(state_shape().size()), 0.0f);
        z_.assign(static_cast<std::size_t>(p_.batch * p_.heads * p_.dim), 0.0f);
        if (p_.backend == "stream") {
            run_ = [this] {
                float* const s = state_.data();
                for (std::size_t i = 0; i < state_.size(); ++i) s[i] = s[i] * 0.999f + 0.5f;
            };
            return "the state read, scaled and written";
        }
        std::string engine;
        with_mechanism([&](auto const& m) {
            using M = std::remove_cvref_t<decltype(m)>;
            auto const s = state<M>();
            recurrent_problem<float> const problem{in(q_, rows(p_.dim)), in(k_, rows(p_.dim)), in(v_, rows(p_.dim_v)), view(out_, rows(p_.dim_v)), {s.s, s.z}, {s.s, s.z}};
            auto plan = std::make_shared<step_plan<M, float, backend>>(m, problem, backend_of(p_));
            workspace_.resize(plan->workspace_bytes());
            engine = plan->describe();
            run_ = [this, plan] { plan->run(workspace_); };
        });
        return engine;
    }
    // One column of values of one head, token by token in double.
    std::string verify_column(extent_t head, extent_t column) const {
        auto const d = static_cast<std::size_t>(p_.dim);
        std::vector<double> s(d), z(d);
        double const scale = p_.mechanism == "normalized" ? 1 : 1 / std::sqrt(static_cast<double>(p_.dim));
        auto const map = [&](float x) { return p_.mechanism != "normalized" ? static_cast<double>(x) : x > 0 ? static_cast<double>(x) + 1 : std::exp(static_cast<double>(x)); };
        double largest = 0, worst = 0;
        for (extent_t t = 0; t < p_.queries; ++t) {
            auto const row = static_cast<std::size_t>(head * p_.queries + t);
            double u = static_cast<double>(v_[row * static_cast<std::size_t>(p_.dim_v) + static_cast<std::size_t>(column)]), o = 0, sum = 1e-6;
            for (std::size_t c = 0; c < d; ++c) {
                std::size_t const at = p_.mechanism == "retention" ? static_cast<std::size_t>(head % p_.heads) : decays_channels(p_) ? row * d + c : row;
                if (!log_.empty()) s[c] *= std::exp(static_cast<double>(log_[at]));
                if (corrects(p_)) u -= s[c] * static_cast<double>(k_[row * d + c]);
            }
            if (corrects(p_)) u *= static_cast<double>(beta_[row]);
            for (std::size_t c = 0; c < d; ++c) {
                s[c] += map(k_[row * d + c]) * u, z[c] += map(k_[row * d + c]);
                o += scale * map(q_[row * d + c]) * s[c], sum += scale * map(q_[row * d + c]) * z[c];
            }
            if (p_.mechanism == "normalized") o /= sum;
            largest = std::fmax(largest, std::fabs(o));
            worst = std::fmax(worst, std::fabs(o - static_cast<double>(out_[row * static_cast<std::size_t>(p_.dim_v) + static_cast<std::size_t>(column)])));
        }
        if (worst <= 1e-4 * largest) return {};
        std::ostringstream text;
        text << "head " << head << ", column " << column << ": an error of " << worst << " where the largest output is " << largest;
        return text.str();
    }
    // The loss sum(out dout) is linear in q and in v: sum(q dq) and sum(v dv) are the loss.
    std::string verify_gradients() const {
        double loss = 0, size = 0, by_q = 0, by_v = 0;
        for (std::size_t i = 0; i < out_.size(); ++i) {
            double const x = static_cast<double>(out_[i]) * static_cast<double>(dout_[i]);
            loss += x, size += std::fabs(x);
            by_v += static_cast<double>(v_[i]) * static_cast<double>(dv_[i]);
        }
        for (std::size_t i = 0; i < q_.size(); ++i) by_q += static_cast<double>(q_[i]) * static_cast<double>(dq_[i]);
        bool const q_good = p_.mechanism == "normalized" || std::fabs(by_q - loss) <= 1e-5 * size, v_good = std::fabs(by_v - loss) <= 1e-5 * size;
        if (q_good && v_good) {
            for (auto const* x : {&dq_, &dk_, &dv_, &dlog_, &dbeta_})
                for (float const y : *x)
                    if (std::isnan(y)) return "NaN in a gradient, or never written";
            return {};
        }
        std::ostringstream text;
        text << "sum(q dq) is " << by_q << " and sum(v dv) " << by_v << ", both should be sum(out dout), " << loss;
        return text.str();
    }
};

timed_case recurrent_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.dtype != element::f32) refuse("recurrent rows are compiled for f32 here");
    if (p.backend != "cpu" && !(p.backend == "stream" && p.verb == "decode")) refuse("recurrent rows run on the cpu backend, and decode has a backend stream");
    if (!p.isa.empty() || p.bias != bias_kind::none || p.softcap != 0 || p.alibi || !p.extra.empty()) refuse("recurrent rows have no settings of scores");
    if (p.mask != mask_kind::causal && p.verb != "decode") refuse("recurrent rows are causal: --set mask=causal");
    if (p.heads != p.kv_heads) refuse("recurrent rows are compiled with as many key heads as query heads here");
    if (p.verb != "decode" && p.queries != p.keys) refuse("recurrent rows have as many keys as queries");
    if (p.threads > 1 && !has_teams()) refuse("this build has no OpenMP, so one thread only");
    auto const run = std::make_shared<recurrent_run>(p, store->seed());
    timed_case c;
    c.name = name_of(p);
    c.threads = p.threads;
    c.flops = work(p);
    auto const rows = static_cast<double>(p.batch * p.heads * p.queries);
    c.bytes = p.verb == "decode" ? 2 * state_bytes(p) : rows * static_cast<double>(2 * (p.dim + p.dim_v)) * sizeof(float) * (p.verb == "backward" ? 2 : 1);
    c.limit = limit_name(p.verb == "decode" ? "read" : "fma_f32", p.threads);
    c.prepare = [run] { return run->prepare(); };
    c.run = [run] { run->run(); };
    c.release = [run] { run->release(); };
    c.verify = [run] { return run->verify(); };
    return c;
}

row_registration const linear_rows({names[0], recurrent_case, work}), normalized_rows({names[1], recurrent_case, work}), retention_rows({names[2], recurrent_case, work}),
    simple_rows({names[3], recurrent_case, work}), gated_rows({names[4], recurrent_case, work}), delta_rows({names[5], recurrent_case, work}),
    gated_delta_rows({names[6], recurrent_case, work}), kimi_rows({names[7], recurrent_case, work});

problem along(std::string_view mechanism, std::int64_t n, std::int64_t heads = 8) {
    problem p = square(n, 128, mask_kind::causal);
    p.mechanism = mechanism;
    p.heads = p.kv_heads = heads;
    return p;
}

void add_gates(int, std::vector<gate_group>& groups) {
    gate_builder speed("recurrent, d=128, N = 16k, share of FMA peak on the chunks' own operations, and times as fast as");
    auto const linear = along("linear", 16384);
    speed.peak(linear, 0.60, 0.75);
    for (auto const& [name, gate, goal] : {std::tuple{"retention", 0.9, 0.97}, std::tuple{"simple_gated_linear", 0.9, 0.97}, std::tuple{"gated_linear", 0.55, 0.70}, std::tuple{"gated_delta_rule", 0.45, 0.55}}) {
        speed.against(std::string(name) + " over linear", measure_of::speedup, along(name, 16384), linear, gate, goal);
    }
    speed.against("linear over causal softmax, one head", measure_of::speedup, along("linear", 16384, 1), [] {
        auto p = square(16384, 128, mask_kind::causal);
        p.heads = p.kv_heads = 1;
        return p;
    }(), 20, 35);
    groups.push_back(speed.finish());

    gate_builder growth("recurrent, d=128, one head, time of N = 128k over that of 8k");
    for (auto const* name : {"linear", "retention", "gated_linear", "gated_delta_rule"}) { growth.against(name, measure_of::slowdown, along(name, 131072, 1), along(name, 8192, 1), 18, 16.2); }
    groups.push_back(growth.finish());

    gate_builder back("recurrent backward, d=128, N = 4k, time over that of forward");
    for (auto const* name : {"linear", "simple_gated_linear", "gated_linear", "gated_delta_rule"}) {
        auto p = along(name, 4096);
        p.verb = "backward";
        back.against(name, measure_of::slowdown, p, along(name, 4096), 3, 2.6);
    }
    groups.push_back(back.finish());

    gate_builder decode("recurrent decode, d=128, 32 heads, batch 32, speed over that of reading and writing the states");
    auto const step = [](std::string_view name, std::string const& how) {
        auto p = square(1, 128);
        p.mechanism = name, p.verb = "decode", p.backend = how, p.batch = 32;
        p.heads = p.kv_heads = 32;
        return p;
    };
    for (auto const* name : {"linear", "simple_gated_linear", "gated_linear", "gated_delta_rule"}) { decode.against(name, measure_of::speedup, step(name, "cpu"), step("linear", "stream"), 0.80, 0.95); }
    groups.push_back(decode.finish());
}
gate_registration const gates(add_gates);

} // namespace

} // namespace heed::bench
