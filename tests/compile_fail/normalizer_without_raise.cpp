// SPDX-License-Identifier: BSD-3-Clause
// A normalizer's row state is complete or refused.
// expect: heed: a normalizer needs row<V>, start, empty, raise, weight, settle, close and unit
#include <heed/family/pairwise.hpp>

// weights are the scores themselves
struct linear {
    static constexpr double unit = 1;
    template <class V>
    struct row {};
    template <class V>
    row<V> empty() const {
        return {};
    }
    template <class V>
    row<V> start(heed::place const&) const {
        return {};
    }
#ifndef HEED_BAD
    template <class V>
    V raise(row<V>&, V) const {
        return V(1);
    }
#endif
    template <class V>
    V weight(row<V> const&, V score) const {
        return score;
    }
    template <class V>
    void settle(row<V>&, V) const {}
    template <class V>
    V close(row<V> const&) const {
        return V(1);
    }
};

int main() { [[maybe_unused]] heed::attention const mechanism{heed::dot{}, heed::full{}, linear{}}; }
