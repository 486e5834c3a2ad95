// SPDX-License-Identifier: BSD-3-Clause
// A stage of a score is called with the raw score and the pair.
// expect: heed: a score needs `template <class V, class Pair> V operator()(V raw, Pair const& p) const`
#include <heed/family/pairwise.hpp>

struct squared {
    using contraction = heed::plus_times;
#ifdef HEED_BAD
    template <class V>
    V operator()(V raw) const {
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
