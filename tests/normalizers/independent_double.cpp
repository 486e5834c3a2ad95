// SPDX-License-Identifier: BSD-3-Clause
#include "independent.hpp"

using namespace heed_test;

TEST_CASE("normalizers: weights of a pair by itself, double", "[oracle]") {
    HEED_SEEDED;
    try_sigmoid<double>(20);
    try_relu<double>(10);
    try_proportional<double>(10);
}
