// SPDX-License-Identifier: BSD-3-Clause
// compressed{block, shift}: keys are summaries of blocks of `block` tokens; query i, token i + shift, sees summary c once its whole block is past:
// (c + 1) block - 1 <= i + shift. shift is M - N in tokens. Early queries see none, and their row is 0.
#pragma once

#include <heed/policy/place.hpp>

namespace heed {

struct compressed {
    extent_t block, shift = 0;

    template <class I>
    HEED_HD auto keep(place const&, I i, I j) const {
        return (j + I(1)) * limit<I>(block) <= i + limit<I>(shift + 1);
    }
    HEED_HD constexpr tile classify(place const&, range rows, range cols) const {
        if (rows.end + shift < (cols.begin + 1) * block) { return tile::skip; }
        return cols.end * block <= rows.begin + shift + 1 ? tile::full : tile::partial;
    }
    HEED_HD constexpr range hull(place const&, range rows) const { return {0, rows.end + shift < 0 ? 0 : (rows.end + shift) / block}; }
};

} // namespace heed
