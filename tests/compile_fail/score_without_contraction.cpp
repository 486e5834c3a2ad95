// SPDX-License-Identifier: BSD-3-Clause
// A chain of scores begins with a contraction.
// expect: heed: a score begins with a contraction, for example heed::dot{} | my_score{}
#include <heed/family/pairwise.hpp>

int main() {
#ifdef HEED_BAD
    [[maybe_unused]] heed::attention const mechanism{heed::scale{0.5f}};
#else
    [[maybe_unused]] heed::attention const mechanism{heed::dot{} | heed::scale{0.5f}};
#endif
}
