// SPDX-License-Identifier: BSD-3-Clause
// as_view: what the doors accept. A tensor_view is itself; anything with mdspan's vocabulary and rank 4 (batch, head, sequence, feature) becomes
// one; other types by a specialisation of view_traits, which is found whatever the order of includes.
#pragma once

#include <heed/view/tensor_view.hpp>

#include <concepts>
#include <type_traits>

namespace heed {

// Specialise with `static tensor_view<T> view(X&)` (and X const&, for a view of const).
template <class X>
struct view_traits {
    static_assert(sizeof(X) == 0, "heed: this type is not a tensor; pass a heed::tensor_view, an mdspan of rank 4, an Eigen matrix (include <heed/view/eigen.hpp>), or "
                                  "specialise heed::view_traits for it");
};

template <class T>
struct view_traits<tensor_view<T>> {
    HEED_HD static constexpr tensor_view<T> view(tensor_view<T> const& v) { return v; }
};

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
struct view_traits<S> {
    static_assert(S::rank() == 4, "heed: a tensor has rank 4: batch, head, sequence, feature");
    HEED_HD static constexpr auto view(S const& s) {
        auto const n = [&](int r) { return static_cast<extent_t>(s.extent(static_cast<decltype(S::rank())>(r))); };
        auto const st = [&](int r) { return static_cast<extent_t>(s.stride(static_cast<decltype(S::rank())>(r))); };
        return tensor_view<typename S::element_type>{&*s.data_handle(), shape{n(0), n(1), n(2), n(3)}, strides{st(0), st(1), st(2), st(3)}};
    }
};

template <class X>
HEED_HD constexpr auto as_view(X&& x) {
    return view_traits<std::remove_cvref_t<X>>::view(x);
}

} // namespace heed
