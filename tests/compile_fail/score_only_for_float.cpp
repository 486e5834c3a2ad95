// SPDX-License-Identifier: BSD-3-Clause
// A score is written over a value type, not for float alone.
// expect: and must accept double as V
#include <heed/family/pairwise.hpp>

struct squared {
    using contraction = heed::plus_times;
#ifdef HEED_BAD
    template <class Pair>
    float operator()(float& raw, Pair const&) const {
        return raw * raw;
    }
#else
    template <class V, class Pair>
    V operator()(V raw, Pair const&) const {
        return raw * raw;
    }
#endif
};

int main() { [[maybe_unused]] heed::attention const mechanism{squared{}}; }
