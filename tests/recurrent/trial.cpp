// SPDX-License-Identifier: BSD-3-Clause
#include "differences.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/gated_linear.hpp>
#include <heed/mechanism/linear.hpp>

#include <sstream>

namespace heed_test {

char const* name_of(kind k) {
    constexpr char const* names[] = {"raw", "normalized", "relu normalized", "retention", "head decay", "channel decay", "delta", "channel delta", "gated delta", "kimi delta", "weighted", "value decay", "all keys", "first keys"};
    return names[static_cast<int>(k)];
}

template <class T>
heed::shape trial<T>::decay_shape() const {
    if (!has_decay(k)) { return {}; }
    return k == kind::retention ? heed::shape{1, n.heads, 1, 1} : heed::shape{n.batch, n.heads, n.tokens, decays_channels(k) ? n.width : k == kind::value_decay ? n.value_width : 1};
}

template <class T>
trial<T>::trial(kind which, lengths sizes, random_source& random) : k(which), n(sizes) {
    if (is_along(k)) { n.keys = n.tokens; }
    heed::shape const sq{n.batch, n.q_heads, n.tokens, n.width}, sk{n.batch, n.k_heads, n.keys, n.width}, sv{n.batch, n.v_heads, n.keys, n.value_width};
    heed::shape const so{n.batch, n.heads, n.tokens, n.value_width}, ss{n.batch, n.heads, n.width, n.value_width}, sz{n.batch, n.heads, n.width, 1};
    heed::strides const gaps = padded(sq, 3);
    q = tensor<T>(sq, gaps), key = tensor<T>(sk), v = tensor<T>(sv, heed::strides{sv.seq * sv.feature * sv.head, sv.feature, sv.head * sv.feature, 1}); // values sequence first
    log_decay = tensor<T>(decay_shape()), factor = tensor<T>(has_factor(k) ? heed::shape{n.batch, n.heads, n.tokens, 1} : heed::shape{}), beta = tensor<T>(has_beta(k) ? beta_shape() : heed::shape{});
    s0 = tensor<T>(ss), z0 = tensor<T>(sz), out = tensor<T>(so), s1 = tensor<T>(ss), z1 = tensor<T>(sz);
    dout = tensor<T>(so), dq = tensor<T>(sq), dk = tensor<T>(sk), dv = tensor<T>(sv), ds0 = tensor<T>(ss), dz0 = tensor<T>(sz), ds1 = tensor<T>(ss), dz1 = tensor<T>(sz);
    dlog = tensor<T>(log_decay.shape()), dbeta = tensor<T>(beta.shape()), dfactor = tensor<T>(factor.shape());
    q.normal(random), v.normal(random), dout.normal(random), s0.normal(random), ds1.normal(random), dz1.normal(random);
    key.normal(random, 1 / std::sqrt(static_cast<double>(n.width > 0 ? n.width : 1)));
    z0.each([&](T& x) { x = static_cast<T>(random.uniform(1, 2)); });
    log_decay.each([&](T& x) { x = static_cast<T>(random.chance(0.1) ? -random.uniform(5, 40) : random.chance(0.2) ? 0 : -random.uniform(0, 0.3)); });
    beta.each([&](T& x) { x = static_cast<T>(random.uniform(0, 1)); });
    factor.normal(random, 0.7);
    for (extent_t b = 0; b < n.batch; ++b) { key_lengths.push_back(static_cast<std::int32_t>(random.integer(1, n.keys > 0 ? n.keys : 1))); }
}
template struct trial<float>;
template struct trial<double>;

namespace {

template <class T, class F>
void with_mechanism(trial<T> const& t, F const& f) {
    using namespace heed;
    auto const& g = t.log_decay;
    auto const& b = t.beta;
    switch (t.k) {
    case kind::raw: return f(linear_attention_raw(t.scale));
    case kind::normalized: return f(recurrent{elu_plus_one{}, additive_update{}, running_sum{t.eps}, causal_bottom_right{}, t.scale});
    case kind::relu_normalized: return f(recurrent{squared_relu_map{}, additive_update{}, running_sum{0.1}, causal_bottom_right{}, t.scale});
    case kind::retention: return f(retention(g.in(), t.scale));
    case kind::head_decay: return f(simple_gated_linear(g.in(), t.scale));
    case kind::channel_decay: return f(gated_linear(g.in(), t.scale));
    case kind::delta:
    case kind::channel_delta: return f(delta_attention(b.in(), t.scale));
    case kind::gated_delta: return f(gated_delta_attention(g.in(), b.in(), t.scale));
    case kind::kimi_delta: return f(kimi_delta_attention(g.in(), b.in(), t.scale));
    case kind::value_decay: return f(recurrent{identity_map{}, value_decay{g.in()}, unnormalized{}, causal_bottom_right{}, t.scale});
    case kind::weighted: return f(recurrent{identity_map{}, weighted_update{b.in()}, learned_denominator{t.factor.in()}, causal_bottom_right{}, t.scale});
    case kind::all_keys: return f(recurrent{elu_plus_one{}, additive_update{}, running_sum{t.eps}, full{}, t.scale});
    case kind::first_keys: return f(recurrent{elu_plus_one{}, additive_update{}, running_sum{t.eps}, key_lengths{per_batch(t.key_lengths.data(), t.n.batch)}, t.scale});
    }
}
double feature(kind k, double x) {
    if (k == kind::relu_normalized) { return x > 0 ? x * x : 0; }
    return has_z(k) ? (x > 0 ? x + 1 : std::exp(x)) : x;
}
template <class T>
double eps_of(trial<T> const& t) {
    return t.k == kind::relu_normalized ? 0.1 : t.eps;
}

} // namespace

template <class T>
void run_forward(trial<T>& t) {
    with_mechanism(t, [&](auto const& m) {
        heed::initial_state<T> in{};
        heed::final_state<T> last{t.s1.view()};
        if (t.with_states) { in.s = t.s0.in(); }
        if (has_z(t.k)) { last.z = t.z1.view(), in.z = t.with_states ? t.z0.in() : heed::tensor_view<T const>{}; }
        heed::forward(m, t.q.in(), t.key.in(), t.v.in(), t.out.view(), in, last, heed::cpu{thread_team{t.threads}});
    });
}
template <class T>
void run_steps(trial<T>& t) {
    if (t.with_states) {
        t.s1.copy(t.s0.in()), t.z1.copy(t.z0.in());
    } else {
        t.s1.fill(T(0)), t.z1.fill(T(0));
    }
    with_mechanism(t, [&](auto const& m) {
        if constexpr (std::remove_cvref_t<decltype(m)>::causal) {
            heed::step(m, t.q.in(), t.key.in(), t.v.in(), heed::final_state<T>{t.s1.view(), has_z(t.k) ? t.z1.view() : heed::tensor_view<T>{}}, t.out.view(), heed::cpu{thread_team{t.threads}});
        }
    });
}
template <class T>
void run_backward(trial<T>& t) {
    run_forward(t);
    with_mechanism(t, [&](auto const& m) {
        using M = std::remove_cvref_t<decltype(m)>;
        heed::initial_state<T> in{};
        heed::initial_state_gradient<T> din{t.ds0.view()};
        heed::final_state_gradient<T> dlast{t.ds1.in()};
        if (t.with_states) { in.s = t.s0.in(); }
        if (has_z(t.k)) { in.z = t.with_states ? t.z0.in() : heed::tensor_view<T const>{}, din.z = t.dz0.view(), dlast.z = t.dz1.in(); }
        auto const back = [&](auto const&... more) {
            heed::backward(m, t.q.in(), t.key.in(), t.v.in(), t.out.in(), heed::nothing_saved{}, t.dout.in(), t.dq.view(), t.dk.view(), t.dv.view(), in, din, dlast, heed::cpu{thread_team{t.threads}}, more...);
        };
        heed::log_decay_gradient<T> const dlog{t.dlog.view()};
        heed::beta_gradient<T> const dbeta{t.dbeta.view()};
        [[maybe_unused]] heed::factor_gradient<T> const dfactor{t.dfactor.view()};
        if constexpr (M::has_factor) {
            back(dbeta, dfactor);
        } else if constexpr (M::decays != heed::decay_kind::none && M::corrects) {
            back(dlog, dbeta);
        } else if constexpr (M::decays != heed::decay_kind::none) {
            back(dlog);
        } else if constexpr (M::corrects) {
            back(dbeta);
        } else {
            back();
        }
    });
}
template <class T>
std::string plan_of(trial<T> const& t) {
    std::ostringstream s;
    with_mechanism(t, [&](auto const& m) { s << heed::plan<T>(m, t.q.shape(), t.key.shape(), t.v.shape(), heed::cpu{thread_team{t.threads}}); });
    return s.str();
}
template <class T>
void run_chunks(trial<T>& t, int chunk) {
    with_mechanism(t, [&](auto const& m) {
        using F = decltype(std::remove_cvref_t<decltype(m)>::feature);
        if constexpr (std::is_same_v<F, heed::identity_map>) {
            auto const run = [&](auto size) {
                using engine = heed::recurrent_forward<F, T, heed::native_arch, decltype(size)::value>;
                auto const form = heed::form_of<T>(m);
                heed::recurrent_problem<T> const p{t.q.in(), t.key.in(), t.v.in(), t.out.view(), {t.s0.in()}, {t.s1.view()}};
                auto const cut = engine::divide(form, t.out.shape(), 1);
                std::vector<std::byte> memory(engine::slot_bytes(form, t.n.width, cut) + 64);
                heed::serial one;
                engine::run(form, p, one, cut, 1, memory.data());
            };
            chunk == 16 ? run(std::integral_constant<int, 16>{}) : run(std::integral_constant<int, 100>{});
        }
    });
}

template <class T>
recurrent_result token_by_token(trial<T> const& t) {
    lengths const& n = t.n;
    recurrent_result r{oracle::array(t.out.shape()), oracle::array(t.s0.shape()), oracle::array(t.z0.shape())};
    oracle::array const q = oracle::read(t.q.in()), k = oracle::read(t.key.in()), v = oracle::read(t.v.in()), g = oracle::read(t.log_decay.in()), beta = oracle::read(t.beta.in()), denominator = oracle::read(t.factor.in());
    if (t.with_states) { r.s = oracle::read(t.s0.in()), r.z = oracle::read(t.z0.in()); }
    auto const key = [&](extent_t b, extent_t h, extent_t j, extent_t c) { return feature(t.k, k(b, h / (n.heads / n.k_heads), j, c)); };
    auto const value = [&](extent_t b, extent_t h, extent_t j, extent_t e) { return v(b, h / (n.heads / n.v_heads), j, e); };
    auto const absorb = [&](extent_t b, extent_t h, extent_t j) {
        for (extent_t c = 0; c < n.width; ++c) {
            double const a = has_decay(t.k) && t.k != kind::value_decay ? std::exp(g.spread(b, h, j, c)) : 1;
            r.z(b, h, c, 0) = a * r.z(b, h, c, 0) + key(b, h, j, c);
            for (extent_t e = 0; e < n.value_width; ++e) { r.s(b, h, c, e) *= t.k == kind::value_decay ? std::exp(g.spread(b, h, j, e)) : a; }
        }
        for (extent_t e = 0; e < n.value_width; ++e) {
            double u = value(b, h, j, e);
            if (has_beta(t.k)) {
                for (extent_t c = 0; is_delta(t.k) && c < n.width; ++c) { u -= r.s(b, h, c, e) * key(b, h, j, c); }
                u *= beta.spread(b, h, j, e);
            }
            for (extent_t c = 0; c < n.width; ++c) { r.s(b, h, c, e) += key(b, h, j, c) * u; }
        }
    };
    for (extent_t b = 0; b < n.batch; ++b)
        for (extent_t h = 0; h < n.heads; ++h) {
            for (extent_t j = 0; !is_along(t.k) && j < t.keys_of(b); ++j) { absorb(b, h, j); }
            for (extent_t i = 0; i < n.tokens; ++i) {
                if (is_along(t.k)) { absorb(b, h, i); }
                double sum = eps_of(t);
                for (extent_t c = 0; c < n.width; ++c) { sum += t.scale * feature(t.k, q(b, h / (n.heads / n.q_heads), i, c)) * r.z(b, h, c, 0); }
                for (extent_t e = 0; e < n.value_width; ++e) {
                    double o = 0;
                    for (extent_t c = 0; c < n.width; ++c) { o += t.scale * feature(t.k, q(b, h / (n.heads / n.q_heads), i, c)) * r.s(b, h, c, e); }
                    r.out(b, h, i, e) = has_z(t.k) ? o / sum : has_factor(t.k) ? o * std::exp(-denominator(b, h, i, 0)) : o;
                }
            }
        }
    return r;
}

template <class T>
oracle::array quadratic(trial<T> const& t) {
    lengths const& n = t.n;
    oracle::array out(t.out.shape());
    oracle::array const q = oracle::read(t.q.in()), k = oracle::read(t.key.in()), v = oracle::read(t.v.in()), g = oracle::read(t.log_decay.in());
    for (extent_t b = 0; b < n.batch; ++b)
        for (extent_t h = 0; h < n.heads; ++h)
            for (extent_t i = 0; i < n.tokens; ++i) {
                double sum = eps_of(t);
                extent_t const end = is_along(t.k) ? i + 1 : t.keys_of(b);
                std::vector<double> weight(static_cast<std::size_t>(end));
                for (extent_t c = 0; c < n.width; ++c) {
                    double log = 0;
                    for (extent_t j = end - 1; j >= 0; --j) { // decays between key j and query i
                        weight[static_cast<std::size_t>(j)] += t.scale * feature(t.k, q(b, h / (n.heads / n.q_heads), i, c)) * feature(t.k, k(b, h / (n.heads / n.k_heads), j, c)) * std::exp(log);
                        if (has_decay(t.k)) { log += g.spread(b, h, j, c); }
                    }
                }
                for (double const w : weight) { sum += w; }
                for (extent_t e = 0; e < n.value_width; ++e) {
                    for (extent_t j = 0; j < end; ++j) { out(b, h, i, e) += weight[static_cast<std::size_t>(j)] * v(b, h / (n.heads / n.v_heads), j, e); }
                    if (has_z(t.k)) { out(b, h, i, e) /= sum; }
                }
            }
    return out;
}

#define HEED_TRIAL(T)                                                                                                                      \
    template void run_forward(trial<T>&);                                                                                                  \
    template void run_steps(trial<T>&);                                                                                                    \
    template void run_backward(trial<T>&);                                                                                                 \
    template std::string plan_of(trial<T> const&);                                                                                         \
    template recurrent_result token_by_token(trial<T> const&);                                                                             \
    template oracle::array quadratic(trial<T> const&);
HEED_TRIAL(float)
HEED_TRIAL(double)
#undef HEED_TRIAL
template void run_chunks(trial<double>&, int);

double product(oracle::array const& a, tensor<double> const& by) {
    oracle::array const d = oracle::read(by.in());
    double sum = 0;
    for (std::size_t i = 0; i < a.x.size(); ++i) { sum += a.x[i] * d.x[i]; }
    return sum;
}
void differences::operator()(char const* name, tensor<double>& x, tensor<double> const& d, int stride) const {
    int at = 0;
    x.each_at([&](double& y, extent_t b, extent_t h, extent_t row, extent_t e) {
        if (at++ % stride != 0) { return; }
        double const was = y, step = 1e-5;
        y = was + step;
        double const up = loss_();
        y = was - step;
        double const down = loss_();
        y = was;
        CAPTURE(name, of_, b, h, row, e);
        CHECK((up - down) / (2 * step) == approx(d(b, h, row, e)).epsilon(epsilon_).margin(margin_));
    });
}

} // namespace heed_test
