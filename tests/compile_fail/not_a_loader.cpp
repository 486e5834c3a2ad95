// SPDX-License-Identifier: BSD-3-Clause
// A loader produces rows.
// expect: heed: the last slot is heed::load{q, k, v}; a loader is heed::plain or has rows<A>(operand, rows, view, dst, stride)
#include <heed/mechanism/softmax.hpp>

struct my_loader {
#ifndef HEED_BAD
    template <class A, class T>
    void rows(heed::operand const&, heed::range, heed::tensor_view<T const> const&, heed::compute_t<T>*, heed::extent_t) const {}
#endif
};

int main() { [[maybe_unused]] auto const mechanism = heed::with_load(heed::softmax_attention(), heed::load{my_loader{}}); }
