// SPDX-License-Identifier: BSD-3-Clause
// The same for a stage in the middle of a chain.
// expect: heed: a score needs `template <class V, class Pair> V operator()(V raw, Pair const& p) const`
#include <heed/family/pairwise.hpp>

struct squared {
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

int main() { [[maybe_unused]] heed::attention const mechanism{heed::dot{} | squared{} | heed::scale{0.5f}}; }
