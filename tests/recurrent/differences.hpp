// SPDX-License-Identifier: BSD-3-Clause
// What the tests of each mechanism of the family do alike: gradients against central differences, pieces of a sequence, copies. Defined in trial.cpp.
#pragma once

#include "trial.hpp"

#include <algorithm>
#include <functional>
#include <string>

namespace heed_test {

// sum(a by)
double product(oracle::array const& a, tensor<double> const& by);

// Every stride-th element of d, the gradient of the loss by x, against differences of it.
class differences {
    std::function<double()> loss_;
    std::string of_; // what a failure names
    double epsilon_, margin_;

public:
    differences(std::function<double()> loss, std::string of, double epsilon = 1e-6, double margin = 1e-6) : loss_(std::move(loss)), of_(std::move(of)), epsilon_(epsilon), margin_(margin) {}
    void operator()(char const* name, tensor<double>& x, tensor<double> const& d, int stride) const;
};

template <class T>
tensor<T> copied(tensor<T> const& x) {
    tensor<T> y(x.shape());
    y.copy(x.in());
    return y;
}
// Rows [first, first + count) of a view, or to its end.
template <class View>
auto rows_of(View const& x, extent_t first, extent_t count) {
    return heed::tensor_view(x.row(0, 0, first), {x.extent(0), x.extent(1), std::min<extent_t>(count, x.extent(2) - first), x.extent(3)}, x.strides());
}

} // namespace heed_test
