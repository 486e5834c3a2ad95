// SPDX-License-Identifier: BSD-3-Clause
// What a user's first program does, built by every install route: attention over two keys, checked by hand.
#include <heed/heed.hpp>
#include <heed/mechanism/softmax.hpp>

#include <cmath>
#include <cstdio>

int main() {
    // one head, one query, two keys of width 1: scores 0.5 and -0.5, values (1, 0) and (0, 1)
    float q[] = {1}, k[] = {0.5f, -0.5f}, v[] = {1, 0, 0, 1}, out[] = {0, 0};
    heed::forward(heed::softmax_attention(), heed::tensor_view{q, heed::shape{1, 1, 1, 1}}, heed::tensor_view{k, heed::shape{1, 1, 2, 1}},
                  heed::tensor_view{v, heed::shape{1, 1, 2, 2}}, heed::tensor_view{out, heed::shape{1, 1, 1, 2}});
    double const weight = 1 / (1 + std::exp(-1.0));
    std::printf("heed %d.%d.%d: %.7f %.7f, by hand %.7f %.7f\n", HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH,
                static_cast<double>(out[0]), static_cast<double>(out[1]), weight, 1 - weight);
    bool const right = std::abs(static_cast<double>(out[0]) - weight) < 1e-6 && std::abs(static_cast<double>(out[1]) - (1 - weight)) < 1e-6;
    return right ? 0 : 1;
}
