// SPDX-License-Identifier: BSD-3-Clause
// Score policies against the oracle on random awkward shapes: scales, soft caps, biases.
#include <oracle/try_score.hpp>

using namespace heed_test;

TEST_CASE("scores: scale", "[oracle][scores]") {
    HEED_SEEDED;
    try_score<float>(20, 21, [](auto const&, auto& c, auto& random) {
        float const s = static_cast<float>(random.uniform(-1, 1));
        c.scale = static_cast<double>(s);
        return heed::dot{} | heed::scale{s};
    });
    try_score<float>(10, 22, [](auto const&, auto& c, auto&) {
        c.scale = 1;
        return heed::dot{};
    });
}

TEST_CASE("scores: two scales multiply", "[oracle][scores]") {
    HEED_SEEDED;
    try_score<float>(10, 23, [](auto const&, auto& c, auto&) {
        c.scale *= 0.75;
        return heed::dot{} | heed::scale{0.75f} | heed::inv_sqrt_width{};
    });
}

TEST_CASE("scores: soft cap", "[oracle][scores]") {
    HEED_SEEDED;
    try_score<float>(20, 24, [](auto const&, auto& c, auto& random) {
        float const cap = static_cast<float>(random.uniform(0.5, 30));
        c.cap_before = static_cast<double>(cap);
        return heed::dot{} | heed::inv_sqrt_width{} | heed::softcap{cap};
    });
}

TEST_CASE("scores: bias of any broadcast shape", "[oracle][scores]") {
    HEED_SEEDED;
    tensor<float> b;
    try_score<float>(40, 25, [&](auto const& p, auto& c, auto& random) {
        b = tensor<float>(broadcast(p.n.pairs(), random));
        b.normal(random, 2);
        c.bias = oracle::read(b.in());
        return heed::dot{} | heed::inv_sqrt_width{} | heed::bias{b.view()};
    });
}

TEST_CASE("scores: soft cap before and after a bias differ and are both right", "[oracle][scores]") {
    HEED_SEEDED;
    tensor<float> b;
    for (bool before : {true, false}) {
        auto const prepare = [&](auto const& p, auto& c, auto& random) {
            b = tensor<float>(broadcast(p.n.pairs(), random));
            b.normal(random, 3);
            c.bias = oracle::read(b.in());
            (before ? c.cap_before : c.cap_after) = 2;
        };
        if (before) {
            try_score<float>(15, 26, [&](auto const& p, auto& c, auto& random) {
                prepare(p, c, random);
                return heed::dot{} | heed::inv_sqrt_width{} | heed::softcap{2.0f} | heed::bias{b.view()};
            });
        } else {
            try_score<float>(15, 27, [&](auto const& p, auto& c, auto& random) {
                prepare(p, c, random);
                return heed::dot{} | heed::inv_sqrt_width{} | heed::bias{b.view()} | heed::softcap{2.0f};
            });
        }
    }
}
