// SPDX-License-Identifier: BSD-3-Clause
// A pattern has a definition, keep, and a speed, classify.
// expect: heed: a pattern needs `keep(place, i, j)` that says which pairs exist and `classify(place, rows, cols)`
#include <heed/family/pairwise.hpp>

struct diagonal {
    template <class I>
    auto keep(heed::place const&, I i, I j) const {
        return i == j;
    }
#ifndef HEED_BAD
    heed::tile classify(heed::place const&, heed::range, heed::range) const { return heed::tile::partial; }
#endif
};

int main() { [[maybe_unused]] heed::attention const mechanism{heed::dot{}, diagonal{}}; }
