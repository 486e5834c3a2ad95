// SPDX-License-Identifier: BSD-3-Clause
// as_view: what the doors accept. A tensor_view is itself; anything with mdspan's vocabulary and rank 4 (batch, head, sequence, feature) becomes one.
#pragma once

#include <heed/view/tensor_view.hpp>

#include <concepts>

namespace heed {

template <class T>
HEED_HD constexpr tensor_view<T> as_view(tensor_view<T> const& v) {
    return v;
}

namespace detail {
template <class S>
concept MdspanLike = requires(S const& s) {
    s.data_handle();
    { s.extent(0) } -> std::convertible_to<extent_t>;
    { s.stride(0) } -> std::convertible_to<extent_t>;
    { S::rank() } -> std::convertible_to<int>;
};
} // namespace detail

template <detail::MdspanLike S>
HEED_HD constexpr auto as_view(S const& s) {
    static_assert(S::rank() == 4, "heed: a tensor has rank 4: batch, head, sequence, feature");
    using T = typename S::element_type;
    auto const n = [&](int r) { return static_cast<extent_t>(s.extent(static_cast<decltype(S::rank())>(r))); };
    auto const st = [&](int r) { return static_cast<extent_t>(s.stride(static_cast<decltype(S::rank())>(r))); };
    return tensor_view<T>{&*s.data_handle(), shape{n(0), n(1), n(2), n(3)}, strides{st(0), st(1), st(2), st(3)}};
}

} // namespace heed
