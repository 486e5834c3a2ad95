// SPDX-License-Identifier: BSD-3-Clause
// A policy must be a trivially copyable class: it holds views, not containers.
// expect: heed: every policy must be a trivially copyable class
#include <heed/family/pairwise.hpp>

#include <vector>

struct every_other {
#ifdef HEED_BAD
    std::vector<int> chosen;
#else
    int const* chosen;
#endif
    template <class I>
    auto keep(heed::place const&, I i, I j) const {
        return ((i - j) & I(1)) == I(0);
    }
    heed::tile classify(heed::place const&, heed::range, heed::range) const { return heed::tile::partial; }
};

int main() { [[maybe_unused]] heed::attention const mechanism{heed::dot{}, every_other{}}; }
