// SPDX-License-Identifier: BSD-3-Clause
// One call of the recurrent family with the mechanism chosen at run time, and its oracles: token by token, and the masked quadratic form, in double, from the
// equations alone.
#pragma once

#include <oracle/array.hpp>
#include <support/catch.hpp>
#include <support/team.hpp>
#include <support/tensor.hpp>

#include <cmath>
#include <iosfwd>
#include <vector>

namespace heed_test {

enum class kind { raw, normalized, relu_normalized, retention, head_decay, channel_decay, delta, channel_delta, gated_delta, kimi_delta, weighted, value_decay, all_keys, first_keys };
inline constexpr kind along[] = {kind::raw,   kind::normalized,    kind::relu_normalized, kind::retention, kind::head_decay, kind::channel_decay,
                                 kind::delta, kind::channel_delta, kind::gated_delta,     kind::kimi_delta, kind::weighted, kind::value_decay};
char const* name_of(kind k);
inline bool is_delta(kind k) { return k >= kind::delta && k <= kind::kimi_delta; }
inline bool has_beta(kind k) { return k >= kind::delta && k <= kind::weighted; }
inline bool has_factor(kind k) { return k == kind::weighted; } // a learned denominator
inline bool has_z(kind k) { return k == kind::normalized || k == kind::relu_normalized || k >= kind::all_keys; }
inline bool has_decay(kind k) { return (k >= kind::retention && k <= kind::channel_decay) || k == kind::gated_delta || k == kind::kimi_delta || k == kind::value_decay; }
inline bool decays_channels(kind k) { return k == kind::channel_decay || k == kind::kimi_delta; }
inline bool is_along(kind k) { return k < kind::all_keys; }

struct lengths {
    extent_t batch = 1, heads = 2, q_heads = 2, k_heads = 2, v_heads = 2, tokens = 1, keys = 1, width = 1, value_width = 1;
};

// Everything that a call may read or write. Keys have length about 1, decays are random with some near 1 and some strong.
template <class T>
struct trial {
    kind k;
    lengths n;
    double scale = 0.7, eps = 1e-6;
    int threads = 1;
    bool with_states = true;
    tensor<T> q, key, v, log_decay, beta, factor, s0, z0, out, s1, z1;
    tensor<T> dout, dq, dk, dv, ds0, dz0, ds1, dz1, dlog, dbeta, dfactor;
    std::vector<std::int32_t> key_lengths;

    trial(kind which, lengths sizes, random_source& random);
    heed::shape decay_shape() const;
    heed::shape beta_shape() const { return {n.batch, n.heads, n.tokens, k == kind::channel_delta ? n.value_width : 1}; }
    extent_t keys_of(extent_t b) const { return k == kind::first_keys ? key_lengths[static_cast<std::size_t>(b)] : n.keys; }
};
extern template struct trial<float>;
extern template struct trial<double>;

// Through the doors.
template <class T>
void run_forward(trial<T>& t);
template <class T>
void run_steps(trial<T>& t); // state in s1, z1 (started from s0, z0)
template <class T>
void run_backward(trial<T>& t);
template <class T>
std::string plan_of(trial<T> const& t);
// The engine with chunks of other sizes: 64 is what the door takes.
template <class T>
void run_chunks(trial<T>& t, int chunk);

// The oracle's answer: out (B, H, N, dv), the last state and z.
struct recurrent_result {
    oracle::array out, s, z;
};
template <class T>
recurrent_result token_by_token(trial<T> const& t);
// out alone, additive updates without initial states: sum over pairs
template <class T>
oracle::array quadratic(trial<T> const& t);

// Largest |a - b| over the largest |b|.
template <class T>
double far(heed::tensor_view<T const> a, oracle::array const& b) {
    double most = 0, size = 1e-300;
    for (extent_t i = 0; i < a.extent(0); ++i)
        for (extent_t h = 0; h < a.extent(1); ++h)
            for (extent_t r = 0; r < a.extent(2); ++r)
                for (extent_t e = 0; e < a.extent(3); ++e) {
                    double const d = std::fabs(static_cast<double>(a(i, h, r, e)) - b(i, h, r, e));
                    most = d > most || std::isnan(d) ? (std::isnan(d) ? INFINITY : d) : most;
                    size = std::fmax(size, std::fabs(b(i, h, r, e)));
                }
    return most / size;
}
template <class T>
double far(tensor<T> const& a, tensor<T> const& b) {
    return far<T>(a.in(), oracle::read(b.in()));
}

} // namespace heed_test
