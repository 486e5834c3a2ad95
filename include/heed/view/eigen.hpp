// SPDX-License-Identifier: BSD-3-Clause
// Eigen matrices and maps as views, the only public header that includes Eigen. A matrix is one head of one batch entry: rows are positions,
// columns features, either storage order.
#pragma once

#include <heed/view/tensor_view.hpp>

#include <Eigen/Core>

namespace heed {

template <class Derived>
auto as_view(Eigen::DenseBase<Derived> const& m) {
    Derived const& d = m.derived();
    extent_t const row = Derived::IsRowMajor ? d.outerStride() : d.innerStride(), col = Derived::IsRowMajor ? d.innerStride() : d.outerStride();
    shape const s{1, 1, d.rows(), d.cols()};
    strides const st{d.rows() * row, d.rows() * row, row, col};
    return tensor_view<typename Derived::Scalar const>{d.data(), s, st};
}
template <class Derived>
auto as_view(Eigen::DenseBase<Derived>& m) {
    Derived& d = m.derived();
    auto const v = as_view(static_cast<Eigen::DenseBase<Derived> const&>(m));
    return tensor_view<std::remove_pointer_t<decltype(d.data())>>{d.data(), v.shape(), v.strides()};
}

} // namespace heed
