// SPDX-License-Identifier: BSD-3-Clause
// What a caller may add to a call, in any order after the tensors: a backend, and where to save the log-sum-exp of the rows.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/view/tensor_view.hpp>

#include <type_traits>

namespace heed {

// Natural logarithm of the sum of exponentials of each row, {B, H, N, 1}; -inf for a row without keys.
template <class T>
struct save {
    tensor_view<T> lse;
    static constexpr bool natural = true;
};
template <class T>
save(tensor_view<T>) -> save<T>;

// The same in base 2: the convention is a type, so that two partial results of different bases do not merge by accident.
template <class T>
struct save_log2 {
    tensor_view<T> lse;
    static constexpr bool natural = false;
};
template <class T>
save_log2(tensor_view<T>) -> save_log2<T>;

// Backward only: the loss's derivative by what was saved, where that has one of its own (merged attention, auxiliary losses on the log-sum-exp).
template <class T>
struct saved_gradient {
    tensor_view<T const> d; // as the saved view
};
template <class T>
saved_gradient(tensor_view<T>) -> saved_gradient<std::remove_const_t<T>>;

// Backward only: nothing was saved, for normalizers whose weights do not depend on the row.
struct nothing_saved {};

namespace detail {

struct no_save {};
template <class O>
inline constexpr bool is_save = false;
template <class T>
inline constexpr bool is_save<save<T>> = true;
template <class T>
inline constexpr bool is_save<save_log2<T>> = true;

template <class O>
inline constexpr bool is_option = is_backend<O> || is_save<O>;

template <class Default>
HEED_HD constexpr Default pick_backend(Default d) {
    return d;
}
template <class Default, class First, class... Rest>
HEED_HD constexpr auto pick_backend(Default d, First const& first, Rest const&... rest) {
    if constexpr (is_backend<First>) {
        return first;
    } else {
        return pick_backend(d, rest...);
    }
}
HEED_HD constexpr no_save pick_save() { return {}; }
template <class First, class... Rest>
HEED_HD constexpr auto pick_save(First const& first, Rest const&... rest) {
    if constexpr (is_save<First>) {
        return first;
    } else {
        return pick_save(rest...);
    }
}

} // namespace detail
} // namespace heed
