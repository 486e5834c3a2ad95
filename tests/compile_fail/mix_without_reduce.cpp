// SPDX-License-Identifier: BSD-3-Clause
// A mix gathers values by a ring.
// expect: heed: a mix ring needs zero<V>(), step(acc, a, b) and reduce(a, b)
#include <heed/family/pairwise.hpp>

struct sum_of_products {
    template <class V>
    static V zero() {
        return V(0);
    }
    template <class V>
    static V step(V sum, V a, V b) {
        return sum + a * b;
    }
#ifndef HEED_BAD
    template <class V>
    static V reduce(V a, V b) {
        return a + b;
    }
#endif
};

int main() { [[maybe_unused]] heed::attention const mechanism{heed::dot{}, heed::full{}, heed::softmax{}, sum_of_products{}}; }
