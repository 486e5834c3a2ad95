// SPDX-License-Identifier: BSD-3-Clause
#include "sparse.hpp"

using namespace heed_test;

TEST_CASE("normalizers: thresholds, double", "[oracle]") {
    HEED_SEEDED;
    try_sparsemax<double>(20);
    try_entmax<double>(20);
    try_top_k<double>(5);
}
