// SPDX-License-Identifier: BSD-3-Clause
// 02: a score and a mask of your own. Each is a small struct, written once; the fused kernel comes from the engine.
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

// A score is a call operator over a value type V: float, double, or a whole register of rows. Here a penalty that saturates with distance.
struct fading {
    float strength, reach;
    template <class V, class Pair>
    V operator()(V raw, Pair const& p) const {
        using heed::math::tanh;
        return raw - V(strength) * tanh(heed::to_value<V>(p.distance()) * V(1 / reach));
    }
};

// A pattern says which pairs exist and, for speed, what it knows of a rectangle of pairs.
// This one is a checkerboard of blocks of 16 under a causal rule.
struct checkerboard {
    bool keep(heed::place const&, heed::extent_t i, heed::extent_t j) const { return j <= i && (i / 16 + j / 16) % 2 == 0; }
    heed::tile classify(heed::place const&, heed::range rows, heed::range cols) const { return cols.begin >= rows.end ? heed::tile::skip : heed::tile::partial; }
};

int main() {
    heed::extent_t const N = 100, D = 16;
    std::vector<float> q(N * D), k(N * D), v(N * D), out(N * D), plain(N * D);
    for (std::size_t i = 0; i < q.size(); ++i) {
        q[i] = std::sin(0.1f * static_cast<float>(i));
        k[i] = std::cos(0.2f * static_cast<float>(i));
        v[i] = static_cast<float>(i % 7);
    }
    heed::shape const s{1, 1, N, D};
    heed::tensor_view queries{q.data(), s}, keys{k.data(), s}, values{v.data(), s};

    auto const mechanism = heed::attention{heed::dot{} | heed::scale{0.25f} | fading{2.f, 30.f} | heed::softcap{20.f}, checkerboard{}};
    heed::forward(mechanism, queries, keys, values, heed::tensor_view{out.data(), s});
    heed::forward(mechanism, queries, keys, values, heed::tensor_view{plain.data(), s}, heed::reference{});

    float worst = 0;
    for (std::size_t i = 0; i < out.size(); ++i) { worst = std::max(worst, std::abs(out[i] - plain[i])); }
    std::printf("out[99, 0..2] = %.5f %.5f %.5f, largest difference from the scalar engine %.2e\n", double(out[99 * D]), double(out[99 * D + 1]), double(out[99 * D + 2]),
                double(worst));
    return worst < 1e-5f ? 0 : 1;
}
