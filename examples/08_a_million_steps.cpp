// SPDX-License-Identifier: BSD-3-Clause
// A million tokens, one at a time, from a state of fixed size: the gated delta rule generates without a cache that grows. What went in long ago is recalled
// exactly as long as no decay and no other key has touched it.
#include <heed/front/step.hpp>
#include <heed/mechanism/delta_rule.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
    constexpr heed::extent_t H = 2, d = 16, dv = 16;
    constexpr long steps = 1'000'000;
    std::vector<float> q(H * d), k(H * d), v(H * dv), out(H * dv), log_decay(H), beta(H, 1.0f), state(H * d * dv, 0.0f);
    heed::tensor_view const decay_view(log_decay.data(), heed::shape{1, H, 1, 1}), beta_view(beta.data(), heed::shape{1, H, 1, 1});
    heed::tensor_view const q_view(q.data(), heed::shape{1, H, 1, d}), k_view(k.data(), heed::shape{1, H, 1, d}), v_view(v.data(), heed::shape{1, H, 1, dv});
    heed::tensor_view const out_view(out.data(), heed::shape{1, H, 1, dv}), state_view(state.data(), heed::shape{1, H, d, dv});

    // One plan, one workspace: nothing below this line allocates.
    auto const mechanism = heed::gated_delta_attention(decay_view, beta_view);
    heed::step_plan<std::remove_const_t<decltype(mechanism)>, float, heed::cpu<>> plan(mechanism, {q_view, k_view, v_view, out_view, {state_view}, {state_view}}, heed::cpu{});
    std::vector<std::byte> workspace(plan.workspace_bytes());

    double worst = 0;
    for (long t = 0; t < steps; ++t) {
        // keys and queries are the unit vectors in turn: query t asks for what was written 5 steps ago
        for (heed::extent_t h = 0; h < H; ++h) {
            log_decay[static_cast<std::size_t>(h)] = h == 0 ? 0.0f : -0.01f; // the second head forgets
            for (heed::extent_t c = 0; c < d; ++c) {
                auto const at = static_cast<std::size_t>(h * d + c);
                k[at] = t % d == c ? 1.0f : 0.0f;
                q[at] = (t + d - 5) % d == c ? 1.0f : 0.0f;
                v[at] = static_cast<float>(std::sin(0.001 * static_cast<double>(t)) + 0.1 * static_cast<double>(c));
            }
        }
        plan.run(workspace);
        if (t < d) { continue; }
        for (heed::extent_t h = 0; h < H; ++h) {
            double const kept = h == 0 ? 1.0 : std::exp(-0.05), written = std::sin(0.001 * static_cast<double>(t - 5)) + 0.1 * 3;
            worst = std::fmax(worst, std::fabs(static_cast<double>(out[static_cast<std::size_t>(h * dv + 3)]) - kept * written));
        }
    }
    std::printf("%ld steps with a state of %zu bytes and a workspace of %zu bytes; recalled within %.1e\n", steps, state.size() * sizeof(float), workspace.size(), worst);
    return worst < 1e-5 ? 0 : 1;
}
