// SPDX-License-Identifier: BSD-3-Clause
// A rank-4 strided view over (batch, head, sequence, feature), with the vocabulary of std::mdspan. It owns nothing, is
// trivially copyable, and its layout does not depend on compiler flags. Strides are in elements, of any sign; a zero
// stride broadcasts. A ragged view packs sequences of different lengths in one row of memory: offsets[b] is the first row of sequence b.
#pragma once

#include <heed/config.hpp>
#include <heed/view/error.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

namespace heed {

inline constexpr std::size_t dynamic_extent = static_cast<std::size_t>(-1);

struct shape {
    extent_t batch = 0, head = 0, seq = 0, feature = 0;
    HEED_HD constexpr extent_t operator[](int r) const { return r == 0 ? batch : r == 1 ? head : r == 2 ? seq : feature; }
    HEED_HD constexpr extent_t size() const { return batch * head * seq * feature; }
    HEED_HD friend constexpr bool operator==(shape const& a, shape const& b) {
        return a.batch == b.batch && a.head == b.head && a.seq == b.seq && a.feature == b.feature;
    }
};

struct strides {
    extent_t batch = 0, head = 0, seq = 0, feature = 0;
    HEED_HD constexpr extent_t operator[](int r) const { return r == 0 ? batch : r == 1 ? head : r == 2 ? seq : feature; }
    HEED_HD friend constexpr bool operator==(strides const& a, strides const& b) {
        return a.batch == b.batch && a.head == b.head && a.seq == b.seq && a.feature == b.feature;
    }
};

HEED_HD constexpr strides row_major(shape const& s) { return {s.head * s.seq * s.feature, s.seq * s.feature, s.feature, 1}; }

// Starts of packed sequences: count + 1 rows, first 0, non-decreasing. Checked once, here; engines trust it afterwards.
class ragged_offsets {
    void const* data_ = nullptr;
    extent_t count_ = 0, longest_ = 0;
    bool wide_ = false;

    template <class I>
    HEED_INLINE void validate(std::span<I const> starts) {
        if (starts.empty()) { HEED_THROW(shape_error("heed: ragged offsets are empty; sequence starts need at least one entry, 0")); }
        if (starts[0] != 0) {
            HEED_THROW(shape_error(sentence("heed: ragged offsets begin with ", static_cast<extent_t>(starts[0]), " at position 0; the first must be 0")));
        }
        for (std::size_t i = 1; i < starts.size(); ++i) {
            if (starts[i] < starts[i - 1]) {
                HEED_THROW(shape_error(sentence("heed: ragged offsets fall from ", static_cast<extent_t>(starts[i - 1]), " to ",
                                                static_cast<extent_t>(starts[i]), " at position ", static_cast<extent_t>(i), "; they must not decrease")));
            }
            extent_t const n = static_cast<extent_t>(starts[i]) - static_cast<extent_t>(starts[i - 1]);
            longest_ = n > longest_ ? n : longest_;
        }
        data_ = starts.data();
        count_ = static_cast<extent_t>(starts.size()) - 1;
    }

public:
    constexpr ragged_offsets() = default;
    HEED_INLINE explicit ragged_offsets(std::span<std::int32_t const> starts) { validate(starts); }
    HEED_INLINE explicit ragged_offsets(std::span<std::int64_t const> starts) : wide_(true) { validate(starts); }

    HEED_HD constexpr explicit operator bool() const { return data_ != nullptr; }
    HEED_HD constexpr extent_t count() const { return count_; }     // sequences
    HEED_HD constexpr extent_t longest() const { return longest_; } // rows of the longest
    HEED_HD extent_t operator[](extent_t i) const {
        return wide_ ? static_cast<std::int64_t const*>(data_)[i] : static_cast<std::int32_t const*>(data_)[i];
    }
    HEED_HD constexpr void const* identity() const { return data_; }
};

template <class T>
class tensor_view {
    T* data_ = nullptr;
    heed::shape shape_{};
    heed::strides strides_{};
    ragged_offsets offsets_{};

public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;
    using size_type = extent_t;
    using rank_type = int;

    constexpr tensor_view() = default;
    HEED_HD constexpr tensor_view(T* data, heed::shape s) : data_(data), shape_(s), strides_(row_major(s)) {}
    HEED_HD constexpr tensor_view(T* data, heed::shape s, heed::strides st) : data_(data), shape_(s), strides_(st) {}
    HEED_HD constexpr tensor_view(T* data, heed::shape s, heed::strides st, ragged_offsets o) : data_(data), shape_(s), strides_(st), offsets_(o) {}
    template <class U>
        requires(std::is_same_v<T, U const> && !std::is_const_v<U>)
    HEED_HD constexpr tensor_view(tensor_view<U> const& v) : data_(v.data_handle()), shape_(v.shape()), strides_(v.strides()), offsets_(v.offsets()) {}

    static constexpr rank_type rank() { return 4; }
    static constexpr rank_type rank_dynamic() { return 4; }
    static constexpr std::size_t static_extent(rank_type) { return dynamic_extent; }
    HEED_HD constexpr extent_t extent(rank_type r) const { return shape_[r]; }
    HEED_HD constexpr extent_t stride(rank_type r) const { return strides_[r]; }
    HEED_HD constexpr T* data_handle() const { return data_; }
    HEED_HD constexpr heed::shape shape() const { return shape_; }
    HEED_HD constexpr heed::strides strides() const { return strides_; }
    HEED_HD constexpr ragged_offsets const& offsets() const { return offsets_; }

    HEED_HD constexpr bool is_ragged() const { return static_cast<bool>(offsets_); }
    HEED_HD extent_t length(extent_t b) const { return is_ragged() ? offsets_[b + 1] - offsets_[b] : shape_.seq; }
    // First element of row (b, h, n); all products in 64 bits.
    HEED_HD T* row(extent_t b, extent_t h, extent_t n) const {
        return data_ + (is_ragged() ? offsets_[b] * strides_.seq : b * strides_.batch) + h * strides_.head + n * strides_.seq;
    }
    HEED_HD T& operator()(extent_t b, extent_t h, extent_t n, extent_t d) const { return row(b, h, n)[d * strides_.feature]; }
};
template <class T>
tensor_view(T*, shape) -> tensor_view<T>;
template <class T>
tensor_view(T*, shape, strides) -> tensor_view<T>;

// Memory in the order batch, sequence, head, feature (the layout of most linear layers), seen through the same logical axes.
template <class T>
HEED_HD constexpr tensor_view<T> sequence_major(T* data, shape s) {
    return {data, s, {s.seq * s.head * s.feature, s.feature, s.head * s.feature, 1}};
}
// One number per head, per batch entry, per row: the forms in which policies and log-sum-exp take them.
template <class T>
HEED_HD constexpr tensor_view<T> per_head(T* data, extent_t heads) {
    return {data, {1, heads, 1, 1}};
}
template <class T>
HEED_HD constexpr tensor_view<T> per_batch(T* data, extent_t batch) {
    return {data, {batch, 1, 1, 1}};
}
template <class T>
HEED_HD constexpr tensor_view<T> per_row(T* data, extent_t batch, extent_t heads, extent_t rows) {
    return {data, {batch, heads, rows, 1}};
}

// Sequences packed along the sequence axis of `packed` (batch 1): batch becomes the number of sequences, seq the longest.
template <class T>
HEED_INLINE tensor_view<T> ragged(tensor_view<T> packed, ragged_offsets starts) {
    if (packed.extent(0) != 1) {
        HEED_THROW(shape_error(sentence("heed: a ragged view packs its sequences in batch 1; this one has batch ", packed.extent(0))));
    }
    if (starts[starts.count()] > packed.extent(2)) {
        HEED_THROW(shape_error(sentence("heed: ragged offsets end at row ", starts[starts.count()], " at position ", starts.count(),
                                        "; the packed view has ", packed.extent(2), " rows")));
    }
    shape const s{starts.count(), packed.extent(1), starts.longest(), packed.extent(3)};
    strides st = packed.strides();
    st.batch = 0;
    return {packed.data_handle(), s, st, starts};
}

namespace detail {
// Contiguous memory in the shape (and with the sequences) of a view.
template <class T, class U>
HEED_HD tensor_view<T> like(T* data, tensor_view<U> const& v) {
    shape const s = v.shape();
    if (!v.is_ragged()) { return {data, s}; }
    extent_t const rows = v.offsets()[v.offsets().count()];
    return {data, s, {0, rows * s.feature, s.feature, 1}, v.offsets()};
}
// Sequences one behind another as one long one, for what takes rows one by one.
template <class T>
HEED_HD tensor_view<T> whole(tensor_view<T> const& v) {
    if (!v.is_ragged()) { return v; }
    return {v.data_handle(), {1, v.extent(1), v.offsets()[v.offsets().count()], v.extent(3)}, v.strides()};
}
} // namespace detail

} // namespace heed
