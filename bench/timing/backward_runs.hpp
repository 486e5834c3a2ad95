// SPDX-License-Identifier: BSD-3-Clause
// The backward rows of one type of elements. Everything here is local to the file that includes it.
#pragma once

#include "backward_case.hpp"
#include "operands.hpp"
#include "pair_count.hpp"

#include <heed/heed.hpp>
#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace heed::bench {
namespace {

template <class E>
class backward_of final : public owned_run {
    using T = compute_t<E>;

    problem p_;
    std::uint64_t seed_;
    std::vector<E> q_, k_, v_, out_, dout_, dq_, dk_, dv_;
    std::vector<T> lse_;
    std::vector<std::byte> workspace_;
    std::function<void()> run_;

    heed::shape queries(extent_t features) const { return {p_.batch, p_.heads, p_.queries, features}; }
    heed::shape keys(extent_t features) const { return {p_.batch, p_.kv_heads, p_.keys, features}; }
    template <class X>
    static tensor_view<X> view(std::vector<X>& data, heed::shape s) {
        return {data.data(), s};
    }

    template <class Pattern>
    std::string prepare_with(Pattern const& pattern) {
#if defined(HEED_HAS_OPENMP)
        auto const backend = cpu{openmp{p_.threads}};
#else
        auto const backend = cpu{};
#endif
        auto m = softmax_attention(pattern);
        auto const q = view(q_, queries(p_.dim)), k = view(k_, keys(p_.dim)), v = view(v_, keys(p_.dim_v)), out = view(out_, queries(p_.dim_v)), dout = view(dout_, queries(p_.dim_v));
        auto const saved = forward(m, q, k, v, out, save{view(lse_, queries(1))}, backend);
        using plan_type = backward_plan<decltype(m), E, std::remove_const_t<decltype(backend)>>;
        tensor_view<E const> const qc = q, kc = k, vc = v, outc = out, doutc = dout;
        auto const plan = std::make_shared<plan_type>(m, qc, kc, vc, outc, saved, doutc, view(dq_, q.shape()), view(dk_, k.shape()), view(dv_, v.shape()), backend);
        workspace_.resize(plan->workspace_bytes());
        run_ = [this, plan] { plan->run(workspace_); };
        return std::string(plan_type::engine()) + " on " + arch_name<native_arch>();
    }

    // One pair in double: the weight, and what the gradient of its score is, with the sum of absolute products as the measure of rounding.
    struct pair_gradient {
        double weight, score, size;
    };
    std::size_t row(extent_t b, extent_t h, extent_t i) const { return static_cast<std::size_t>((b * p_.heads + h) * p_.queries + i); }
    std::size_t key_row(extent_t b, extent_t g, extent_t j) const { return static_cast<std::size_t>((b * p_.kv_heads + g) * p_.keys + j); }
    static double number(std::vector<E> const& data, std::size_t at, extent_t width, extent_t e) { return static_cast<double>(data[at * static_cast<std::size_t>(width) + static_cast<std::size_t>(e)]); }
    double scale() const { return 1 / std::sqrt(static_cast<double>(p_.dim)); }

    pair_gradient pair(extent_t b, extent_t h, extent_t i, extent_t j) const {
        auto const at = row(b, h, i), of = key_row(b, h / (p_.heads / p_.kv_heads), j);
        double s = 0, dp = 0, delta = 0, size = 0;
        for (extent_t e = 0; e < p_.dim; ++e) s += number(q_, at, p_.dim, e) * number(k_, of, p_.dim, e);
        for (extent_t e = 0; e < p_.dim_v; ++e) {
            double const d = number(dout_, at, p_.dim_v, e), x = d * number(v_, of, p_.dim_v, e), y = d * number(out_, at, p_.dim_v, e);
            dp += x;
            delta += y;
            size += std::abs(x) + std::abs(y);
        }
        double const weight = std::exp(s * scale() - static_cast<double>(lse_[at]));
        return {weight, weight * (dp - delta), weight * size};
    }
    template <class Got, class Sum>
    static std::string compare_row(char const* name, Got const& got, Sum const& want, Sum const& size, double steps, std::size_t at) {
        for (std::size_t e = 0; e < want.size(); ++e) {
            double const rounding = is_half<E> ? 0x1p-7 : static_cast<double>(std::numeric_limits<T>::epsilon()) * steps, have = got(e), allowed = rounding * size[e] + 1e-30;
            if (std::abs(have - want[e]) <= allowed) continue;
            std::ostringstream text;
            text << name << " row " << at << ", feature " << e << ": got " << have << ", expected " << want[e] << " within " << allowed;
            return text.str();
        }
        return {};
    }

public:
    backward_of(problem const& p, std::uint64_t seed) : p_(p), seed_(seed) {}

    std::string prepare() override {
        auto const fill = [&](std::vector<E>& data, heed::shape s, std::uint64_t stream) {
            data.resize(static_cast<std::size_t>(s.size()));
            fill_normal(data, seed_, stream);
        };
        fill(q_, queries(p_.dim), 0);
        fill(k_, keys(p_.dim), 1);
        fill(v_, keys(p_.dim_v), 2);
        fill(dout_, queries(p_.dim_v), 3);
        out_.resize(dout_.size());
        lse_.resize(static_cast<std::size_t>(queries(1).size()));
        auto const poisoned = [](std::vector<E>& data, std::size_t size) { data.assign(size, static_cast<E>(std::numeric_limits<T>::quiet_NaN())); };
        poisoned(dq_, q_.size());
        poisoned(dk_, k_.size());
        poisoned(dv_, v_.size());
        if (p_.mask == mask_kind::causal) return prepare_with(causal_bottom_right{});
        if constexpr (std::is_same_v<E, float>) {
            if (p_.mask == mask_kind::window) return prepare_with(window{p_.window});
        }
        return prepare_with(full{});
    }
    void run() override { run_(); }
    void release() override {
        run_ = {};
        for (auto* data : {&q_, &k_, &v_, &out_, &dout_, &dq_, &dk_, &dv_}) *data = {};
        lse_ = {};
        workspace_ = {};
    }

    // Some rows of each gradient again in double, from the log-sum-exp and the output that forward wrote.
    std::string verify() const override {
        auto const pick = [&](std::uint64_t sample, extent_t rows) { return sample == 0 ? 0 : sample == 1 ? rows - 1 : static_cast<extent_t>(random_word(seed_, sample) % static_cast<std::uint64_t>(rows)); };
        double const steps = 16 + 4 * std::sqrt(static_cast<double>(p_.queries + p_.keys + p_.dim + p_.dim_v));
        for (std::uint64_t sample = 0; sample < 4; ++sample) {
            extent_t const i = pick(sample, p_.queries), h = pick(sample, p_.heads), j = pick(sample, p_.keys), g = pick(sample, p_.kv_heads), b = pick(sample, p_.batch);
            std::vector<double> dq(static_cast<std::size_t>(p_.dim)), dk(dq.size()), dv(static_cast<std::size_t>(p_.dim_v)), dq_size(dq.size()), dk_size(dk.size()), dv_size(dv.size());
            auto const span = keys_of(p_, i);
            for (auto x = span.begin; x < span.end; ++x) {
                auto const of = key_row(b, h / (p_.heads / p_.kv_heads), x);
                auto const d = pair(b, h, i, x);
                for (std::size_t e = 0; e < dq.size(); ++e) {
                    double const key = scale() * number(k_, of, p_.dim, static_cast<extent_t>(e));
                    dq[e] += d.score * key;
                    dq_size[e] += d.size * std::abs(key);
                }
            }
            extent_t const group = p_.heads / p_.kv_heads;
            for (extent_t head = g * group; head < (g + 1) * group; ++head) {
                for (extent_t x = 0; x < p_.queries; ++x) {
                    if (!attends(p_, x, j)) continue;
                    auto const at = row(b, head, x);
                    auto const d = pair(b, head, x, j);
                    for (std::size_t e = 0; e < dk.size(); ++e) {
                        double const query = scale() * number(q_, at, p_.dim, static_cast<extent_t>(e));
                        dk[e] += d.score * query;
                        dk_size[e] += d.size * std::abs(query);
                    }
                    for (std::size_t e = 0; e < dv.size(); ++e) {
                        double const value = d.weight * number(dout_, at, p_.dim_v, static_cast<extent_t>(e));
                        dv[e] += value;
                        dv_size[e] += std::abs(value);
                    }
                }
            }
            auto const of = [](std::vector<E> const& data, std::size_t at, extent_t width) { return [&data, at, width](std::size_t e) { return number(data, at, width, static_cast<extent_t>(e)); }; };
            auto const at = row(b, h, i), key = key_row(b, g, j);
            for (auto const& wrong : {compare_row("dq", of(dq_, at, p_.dim), dq, dq_size, steps, at), compare_row("dk", of(dk_, key, p_.dim), dk, dk_size, steps, key),
                                      compare_row("dv", of(dv_, key, p_.dim_v), dv, dv_size, steps, key)}) {
                if (!wrong.empty()) return wrong;
            }
        }
        for (auto const* data : {&dq_, &dk_, &dv_})
            for (E const x : *data)
                if (std::isnan(static_cast<double>(x))) return "NaN in a gradient, or never written";
        return {};
    }
};

} // namespace
} // namespace heed::bench
