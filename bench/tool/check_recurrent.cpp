// SPDX-License-Identifier: BSD-3-Clause
// Recurrences that are no linear attention: a learned query over every prefix. Axis letters: B batch, H heads, T positions, d width of keys, e width of values.
#include "case_file.hpp"

#include <heed/front/aaren.hpp>

#include <array>

namespace heed::tool {

namespace {

struct aaren_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "Hd"), k_in = io.reals("k", "BHTd"), v_in = io.reals("v", "BHTe");
        extent_t const B = io['B'], H = io['H'];
        shape const sk{B, H, io['T'], io['d']}, sv{B, H, io['T'], io['e']}, sq{1, H, 1, io['d']}, one{B, H, 1, 1};
        tensor_view<T const> const q(q_in.data, sq), k(k_in.data, sk), v(v_in.data, sv);
        tensor_view<T> const out(io.make("out", "BHTe"), sv), m(io.make("final_m", "BH"), one), u(io.make("final_u", "BH"), one), w(io.make("final_w", "BHe"), {B, H, 1, io['e']});
        auto const mechanism = aaren_attention(io.source().number("scale"));
        forward(mechanism, q, k, v, out, final_prefix{m, u, w});
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BHTe").data, sv);
        backward(mechanism, q, k, v, out, nothing_saved{}, dout, tensor_view<T>(io.make("dq", "Hd"), sq), tensor_view<T>(io.make("dk", "BHTd"), sk), tensor_view<T>(io.make("dv", "BHTe"), sv));
    }
};

constexpr std::array recurrent_cases{
    wire<aaren_case>("aaren_scaled"),
    wire<aaren_case>("aaren_unscaled"),
};
check_registration const registration("other", recurrent_cases);

} // namespace

} // namespace heed::tool
