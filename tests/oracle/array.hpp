// SPDX-License-Identifier: BSD-3-Clause
// Dense rank-4 arrays that own their numbers: what the oracle computes with.
#pragma once

#include <heed/view/tensor_view.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace heed_test::oracle {

using heed::extent_t;

template <class T>
struct array4 {
    heed::shape s{};
    std::vector<T> x{};

    array4() = default;
    explicit array4(heed::shape shape, T value = T{}) : s(shape), x(static_cast<std::size_t>(shape.size()), value) {}

    bool given() const { return s.size() > 0; }
    std::size_t at(extent_t b, extent_t h, extent_t n, extent_t d) const {
        return static_cast<std::size_t>(((b * s.head + h) * s.seq + n) * s.feature + d);
    }
    T& operator()(extent_t b, extent_t h, extent_t n, extent_t d) { return x[at(b, h, n, d)]; }
    T operator()(extent_t b, extent_t h, extent_t n, extent_t d) const { return x[at(b, h, n, d)]; }
    // An extent of 1 stands for any position.
    T spread(extent_t b, extent_t h, extent_t n, extent_t d) const {
        return (*this)(s.batch == 1 ? 0 : b, s.head == 1 ? 0 : h, s.seq == 1 ? 0 : n, s.feature == 1 ? 0 : d);
    }
};

using array = array4<double>;           // numbers
using relation = array4<std::uint8_t>;  // batch, head, query, key: 1 where the query may attend the key

// The numbers behind a view, element by element.
template <class T>
array read(heed::tensor_view<T> v) {
    array a(v.shape());
    std::size_t next = 0;
    for (extent_t b = 0; b < v.extent(0); ++b)
        for (extent_t h = 0; h < v.extent(1); ++h)
            for (extent_t n = 0; n < v.extent(2); ++n)
                for (extent_t d = 0; d < v.extent(3); ++d) { a.x[next++] = static_cast<double>(v(b, h, n, d)); }
    return a;
}

} // namespace heed_test::oracle
