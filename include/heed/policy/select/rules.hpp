// SPDX-License-Identifier: BSD-3-Clause
// Which blocks of keys a query may choose, and what a block's score becomes. A rule is written over lanes of queries:
//   V scored(V score, V block, V own)   the score that is compared; own: the number of the block that holds the query's own position, i' div block;
//                                       +inf or the like forces a block, -inf leaves it out
//   shared                              query heads of a group choose together, from the mean over them of the softmax over the blocks wholly in the past
//   causal                              no block after `own` is ever chosen
// Rules: moba_rule (own block forced, earlier ones by q . mean), nsa_rule (own, first and previous forced, the rest by compressed probability),
//   past_rule (blocks wholly before the own, by q . landmark), any_block (all, regions of images).
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

// MoBA, Lu et al., arXiv:2502.13189: own block always; k counts it.
struct moba_rule {
    static constexpr bool shared = false, causal = true;
    template <class V>
    HEED_HD V scored(V score, V block, V own) const {
        using math::select;
        return select(block < own, score, select(block == own, math::inf<V>(), -math::inf<V>()));
    }
};

// Native sparse attention, Yuan et al., arXiv:2502.11089. Forced blocks come before any probability: own, first, previous.
struct nsa_rule {
    static constexpr bool shared = true, causal = true;
    template <class V>
    HEED_HD V scored(V probability, V block, V own) const {
        using math::select;
        V x = select(block + V(1) == own, V(2), probability);
        x = select(block == V(0), V(3), x);
        x = select(block == own, V(4), x);
        return select(block <= own, x, -math::inf<V>());
    }
};

// Hierarchical sparse attention: complete earlier chunks only.
struct past_rule {
    static constexpr bool shared = false, causal = true;
    template <class V>
    HEED_HD V scored(V score, V block, V own) const {
        using math::select;
        return select(block < own, score, -math::inf<V>());
    }
};

struct any_block {
    static constexpr bool shared = false, causal = false;
    template <class V>
    HEED_HD V scored(V score, V, V) const {
        return score;
    }
};

} // namespace heed
