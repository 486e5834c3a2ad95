// SPDX-License-Identifier: BSD-3-Clause
// What the engines of attention along edges are given: checked views and nothing else. Null views: not wanted.
#pragma once

#include <heed/family/edge.hpp>

namespace heed {

template <class T>
struct edge_problem {
    tensor_view<T const> q, k, v; // (B, H, targets, d), (B, Hkv, sources, d), (B, Hkv, sources, dv)
    tensor_view<T> out;           // (B, H, targets, dv)
    tensor_view<T> saved;         // (B, H, targets, kept)
    double saved_unit = 0;        // numbers of a row, times this, are what is saved
    tensor_view<T> weights;       // (B, H, edges, 1), by the edges' numbers
};

template <class T>
struct edge_gradient_problem {
    tensor_view<T const> q, k, v, out, dout;
    tensor_view<T const> saved;
    double saved_unit = 1; // saved times this is in units of the normalizer
    tensor_view<T> dq, dk, dv;
    tensor_view<T> dedges, dvalues; // (B, H, edges, d) by the term's edge data, (B, H, edges, dv) by what edges add to values
    tensor_view<T> dvector;         // (1, H, 1, d)
};

// One edge of one (batch, head) as a chain's stages see it.
struct edge_place {
    place at;
    extent_t i = 0, j = 0;
    template <int>
    HEED_HD edge_place const& after() const {
        return *this;
    }
};

} // namespace heed
