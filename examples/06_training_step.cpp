// SPDX-License-Identifier: BSD-3-Clause
// 05: gradient descent through attention. One causal head learns to copy the token before: q = x Wq, k = x Wk, v = x Wv, and the loss is the mean
// squared difference between the head's output and each token's predecessor. The library gives dq, dk, dv; the projections are two loops.
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using matrix = std::vector<float>; // row major

constexpr heed::extent_t sequences = 16, length = 12, content = 4, width = length + content; // a token: its position one-hot, then its content

// out [rows, b] = x [rows, a] w [a, b]
void multiply(matrix const& x, matrix const& w, matrix& out, heed::extent_t a, heed::extent_t b) {
    for (std::size_t r = 0; r < out.size() / static_cast<std::size_t>(b); ++r) {
        for (std::size_t j = 0; j < static_cast<std::size_t>(b); ++j) {
            float sum = 0;
            for (std::size_t i = 0; i < static_cast<std::size_t>(a); ++i) { sum += x[r * static_cast<std::size_t>(a) + i] * w[i * static_cast<std::size_t>(b) + j]; }
            out[r * static_cast<std::size_t>(b) + j] = sum;
        }
    }
}

// w -= rate x^T dout, the step of a projection
void descend(matrix& w, matrix const& x, matrix const& dout, heed::extent_t a, heed::extent_t b, float rate) {
    for (std::size_t r = 0; r < dout.size() / static_cast<std::size_t>(b); ++r) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(a); ++i) {
            for (std::size_t j = 0; j < static_cast<std::size_t>(b); ++j) {
                w[i * static_cast<std::size_t>(b) + j] -= rate * x[r * static_cast<std::size_t>(a) + i] * dout[r * static_cast<std::size_t>(b) + j];
            }
        }
    }
}

int main() {
    constexpr std::size_t tokens = sequences * length;
    unsigned state = 1;
    auto const random = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 8388608.0f - 1; }; // [-1, 1)

    matrix x(tokens * width), target(tokens * content);
    for (std::size_t t = 0; t < tokens; ++t) {
        x[t * width + t % length] = 1;
        for (std::size_t c = 0; c < content; ++c) {
            x[t * width + length + c] = random();
            target[t * content + c] = t % length == 0 ? x[t * width + length + c] : x[(t - 1) * width + length + c]; // the first copies itself
        }
    }
    matrix wq(width * width), wk(width * width), wv(width * content);
    for (matrix* w : {&wq, &wk, &wv}) {
        for (float& e : *w) { e = 0.5f * random(); }
    }

    matrix q(tokens * width), k(q), v(tokens * content), out(v), lse(tokens), dout(v), dq(q), dk(q), dv(v);
    heed::shape const s{sequences, 1, length, width}, sv{sequences, 1, length, content};
    heed::tensor_view const qv{q.data(), s}, kv{k.data(), s}, vv{v.data(), sv}, ov{out.data(), sv}, dov{dout.data(), sv};
    auto const mechanism = heed::softmax_attention(heed::causal_bottom_right{});

    float first = 0, loss = 0;
    for (int step = 0; step <= 300; ++step) {
        multiply(x, wq, q, width, width);
        multiply(x, wk, k, width, width);
        multiply(x, wv, v, width, content);
        auto const saved = heed::forward(mechanism, qv, kv, vv, ov, heed::save{heed::per_row(lse.data(), sequences, 1, length)});

        loss = 0;
        for (std::size_t i = 0; i < out.size(); ++i) {
            float const error = out[i] - target[i];
            loss += error * error / static_cast<float>(out.size());
            dout[i] = 2 * error / static_cast<float>(out.size());
        }
        if (step == 0) { first = loss; }
        if (step % 60 == 0) { std::printf("step %3d  loss %.5f\n", step, static_cast<double>(loss)); }

        heed::backward(mechanism, qv, kv, vv, ov, saved, dov, heed::tensor_view{dq.data(), s}, heed::tensor_view{dk.data(), s}, heed::tensor_view{dv.data(), sv});
        descend(wq, x, dq, width, width, 20);
        descend(wk, x, dk, width, width, 20);
        descend(wv, x, dv, width, content, 2);
    }
    return loss < 0.05f * first ? 0 : 1;
}
