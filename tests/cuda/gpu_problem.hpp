// SPDX-License-Identifier: BSD-3-Clause
// One call on the GPU and the same in double on the host, by the engine that walks pair by pair.
#pragma once

#include "calls.hpp"
#include "device_tensor.hpp"

#include <support/problem.hpp>

#include <heed/front/attention.hpp>

#include <functional>
#include <limits>

namespace heed_test {

inline bool on_sm90() {
    cudaDeviceProp p{};
    on_device(cudaGetDeviceProperties(&p, 0));
    return p.major == 9 && p.minor == 0;
}

template <class E>
tensor<double> in_double(tensor<E> const& x) {
    tensor<double> wide(x.shape());
    wide.each_at([&](double& to, extent_t b, extent_t h, extent_t n, extent_t d) { to = static_cast<double>(x(b, h, n, d)); });
    return wide;
}

inline double spacing(double x, int digits) { return x == 0 ? 0 : std::ldexp(1.0, std::ilogb(x) - digits + 1); }

template <class E>
struct gpu_problem {
    sizes n;
    tensor<E> q, k, v, out;
    tensor<float> lse;
    std::string engine{};

    gpu_problem(sizes s, random_source& random) : n(s), q(s.q()), k(s.k()), v(s.v()), out(s.out()), lse(s.lse()) {
        for (auto* t : {&q, &k, &v}) { t->normal(random); }
    }
    gpu_problem(sizes s, tensor<E> a, tensor<E> b, tensor<E> c, tensor<E> o, random_source& random) : n(s), q(std::move(a)), k(std::move(b)), v(std::move(c)), out(std::move(o)), lse(s.lse()) {
        for (auto* t : {&q, &k, &v}) { t->normal(random); }
    }
    // m holds views of the device. Every launch is waited for here. P: how products of fp32 are formed.
    template <class P = void, class M>
    bool run(M const& m) {
        device_tensor<E> const dq(q), dk(k), dv(v), dout(out);
        device_tensor<float> const dlse(lse);
        device_stream const stream;
        engine = forward_on_gpu<M, E, P>(m, dq.in(), dk.in(), dv.in(), dout.view(), dlse.view(), stream);
        stream.wait();
        return dout.back(out) && dlse.back(lse) && out.intact() && lse.intact();
    }
    // The same mechanism over views of the host. of_largest: error as a part of the largest exact result.
    template <class M>
    std::string against(M const& m, double of_largest) const {
        tensor<double> const qd = in_double(q), kd = in_double(k), vd = in_double(v);
        tensor<double> exact(n.out());
        heed::forward(m, qd.in(), kd.in(), vd.in(), exact.view(), heed::reference{});
        double largest = 0;
        exact.each([&](double x) { largest = std::isfinite(x) ? std::fmax(largest, std::fabs(x)) : largest; });
        verdict found;
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i)
                    for (extent_t d = 0; d < n.value_width; ++d) {
                        double const x = exact(b, h, i, d);
                        double step = 0;
                        if constexpr (heed::is_half<E>) { step = 0.5 * spacing(x, E::digits) * 1.001 + (std::is_same_v<E, heed::fp16> ? 0x1p-25 : 0); }
                        found.look("out", b, h, i, d, static_cast<double>(out(b, h, i, d)), x, of_largest * largest + step);
                    }
        return found.text;
    }
};

// Softcap, a bias with entries of -inf, slopes, a mask with an empty row, a window and sinks in one call, against double on the host.
inline void try_bent(sizes const& n, random_source& random, char const* engine, double tolerance) {
    gpu_problem<heed::fp16> p(n, random);
    tensor<float> bias({1, n.heads, n.queries, n.keys}), slopes({1, n.heads, 1, 1}), sinks({1, n.heads, 1, 1});
    bias.normal(random);
    bias.each([&](float& x) { x = random.chance(0.1) ? -std::numeric_limits<float>::infinity() : x; });
    slopes.fill(0.03f);
    sinks.normal(random);
    tensor<std::uint8_t> mask({n.batch, 1, n.queries, n.keys});
    mask.each([&](std::uint8_t& x) { x = random.chance(0.8) ? 1 : 0; });
    mask.each_at([&](std::uint8_t& x, extent_t, extent_t, extent_t i, extent_t) { x = i == 3 ? 0 : x; }); // a row without keys
    device_tensor<float> const dbias(bias), dslopes(slopes), dsinks(sinks);
    device_tensor<std::uint8_t> const dmask(mask);
    auto const mech = [](auto const& b, auto const& a, auto const& m, auto const& s) {
        return on_gpu::bent{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap<float>{2.0f} | heed::bias<float>{b} | heed::alibi<float>{a}, heed::mask<std::uint8_t>{m} & heed::window{70},
                            heed::softmax_sink<float>{s}};
    };
    INFO(n);
    REQUIRE(p.run(mech(dbias.in(), dslopes.in(), dmask.in(), dsinks.in())));
    CHECK(p.engine == engine);
    CHECK(p.against(mech(bias.in(), slopes.in(), mask.in(), sinks.in()), tolerance) == "");
}

} // namespace heed_test
