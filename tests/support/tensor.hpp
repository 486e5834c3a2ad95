// SPDX-License-Identifier: BSD-3-Clause
// A tensor that owns its memory, with chosen strides, at a chosen place. Elements that no position reaches, and everything
// around, hold canaries (NaN); `intact` says whether they still do.
#pragma once

#include <support/memory.hpp>
#include <support/random.hpp>

#include <heed/view/tensor_view.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

namespace heed_test {

using heed::extent_t;

template <class T>
class tensor {
    heed::shape shape_{};
    heed::strides strides_{};
    guarded_block block_{};
    T* origin_ = nullptr;

public:
    tensor() = default;
    explicit tensor(heed::shape s, place where = place::margin) : tensor(s, heed::row_major(s), where) {}
    // shift: bytes by which the data is moved off its natural alignment
    tensor(heed::shape s, heed::strides st, place where = place::margin, std::size_t shift = 0) : shape_(s), strides_(st) {
        extent_t low = 0, high = 0;
        for (int r = 0; r < 4; ++r) {
            extent_t const reach = s[r] == 0 ? 0 : (s[r] - 1) * st[r];
            low += std::min<extent_t>(reach, 0);
            high += std::max<extent_t>(reach, 0);
        }
        std::size_t const count = s.size() == 0 ? 0 : static_cast<std::size_t>(high - low + 1);
        block_ = guarded_block(count * sizeof(T), where, shift);
        origin_ = reinterpret_cast<T*>(block_.data()) - low;
    }

    heed::shape shape() const { return shape_; }
    heed::tensor_view<T> view() { return {origin_, shape_, strides_}; }
    heed::tensor_view<T const> view() const { return {origin_, shape_, strides_}; }
    heed::tensor_view<T const> in() const { return view(); }
    T& operator()(extent_t b, extent_t h, extent_t n, extent_t d) { return view()(b, h, n, d); }
    T operator()(extent_t b, extent_t h, extent_t n, extent_t d) const { return view()(b, h, n, d); }

    tensor& fill(T value) {
        each([&](T& x) { x = value; });
        return *this;
    }
    tensor& normal(random_source& random, double deviation = 1, double mean = 0) {
        fill_normal(view(), random, deviation, mean);
        return *this;
    }
    tensor& copy(heed::tensor_view<T const> from) {
        each_at([&](T& x, extent_t b, extent_t h, extent_t n, extent_t d) { x = from(b, h, n, d); });
        return *this;
    }
    template <class F>
    void each(F f) {
        each_at([&](T& x, extent_t, extent_t, extent_t, extent_t) { f(x); });
    }
    template <class F>
    void each_at(F f) {
        auto v = view();
        for (extent_t b = 0; b < shape_.batch; ++b)
            for (extent_t h = 0; h < shape_.head; ++h)
                for (extent_t n = 0; n < shape_.seq; ++n)
                    for (extent_t d = 0; d < shape_.feature; ++d) { f(v(b, h, n, d), b, h, n, d); }
    }

    // Nothing was written but the elements of the view.
    bool intact() const {
        if (!block_.surroundings_intact()) { return false; }
        std::size_t const count = block_.bytes() / sizeof(T);
        std::vector<bool> mine(count);
        auto v = view();
        for (extent_t b = 0; b < shape_.batch; ++b)
            for (extent_t h = 0; h < shape_.head; ++h)
                for (extent_t n = 0; n < shape_.seq; ++n)
                    for (extent_t d = 0; d < shape_.feature; ++d) {
                        mine[static_cast<std::size_t>(reinterpret_cast<std::byte const*>(&v(b, h, n, d)) - block_.data()) / sizeof(T)] = true;
                    }
        for (std::size_t i = 0; i < count; ++i) {
            if (mine[i]) { continue; }
            for (std::size_t byte = 0; byte < sizeof(T); ++byte) {
                if (block_.data()[i * sizeof(T) + byte] != std::byte{guarded_block::canary}) { return false; }
            }
        }
        return true;
    }
    // Every byte, written or not, in one string: for "nothing was written".
    std::vector<std::byte> bytes() const { return {block_.data(), block_.data() + block_.bytes()}; }
};

// Row-major strides with gaps: every axis but the last has `pad` unused positions behind it.
inline heed::strides padded(heed::shape s, extent_t pad) {
    extent_t const row = s.feature + pad, head = row * s.seq + pad, batch = head * s.head + pad;
    return {batch, head, row, 1};
}

// Equal bits in every element, NaN and signs of zero included.
template <class T>
bool same_bits(heed::tensor_view<T const> a, heed::tensor_view<T const> b) {
    if (!(a.shape() == b.shape())) { return false; }
    for (extent_t i = 0; i < a.extent(0); ++i)
        for (extent_t h = 0; h < a.extent(1); ++h)
            for (extent_t n = 0; n < a.extent(2); ++n)
                for (extent_t d = 0; d < a.extent(3); ++d) {
                    if (std::memcmp(&a(i, h, n, d), &b(i, h, n, d), sizeof(T)) != 0) { return false; }
                }
    return true;
}
template <class T>
bool same_bits(tensor<T> const& a, tensor<T> const& b) {
    return same_bits<T>(a.in(), b.in());
}

} // namespace heed_test
