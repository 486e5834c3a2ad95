// SPDX-License-Identifier: BSD-3-Clause
// Eigen matrices, maps and blocks as tensors, the only public header that includes Eigen. A matrix is one head of one batch entry: rows are
// positions, columns features, in either storage order.
#pragma once

#include <heed/view/adapt.hpp>

#include <Eigen/Core>

namespace heed {

template <class D>
    requires std::is_base_of_v<Eigen::DenseBase<D>, D>
struct view_traits<D> {
    template <class M>
    static auto view(M& m) {
        static_assert(requires { m.data(); }, "heed: an Eigen expression has no memory; evaluate it into a matrix first");
        extent_t const row = D::IsRowMajor ? m.outerStride() : m.innerStride(), col = D::IsRowMajor ? m.innerStride() : m.outerStride();
        shape const s{1, 1, m.rows(), m.cols()};
        return tensor_view<std::remove_pointer_t<decltype(m.data())>>{m.data(), s, {m.rows() * row, m.rows() * row, row, col}};
    }
};

} // namespace heed
