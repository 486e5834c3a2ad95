// SPDX-License-Identifier: BSD-3-Clause
// Grids of one, two or three axes with a neighbourhood on each (generalised neighbourhood attention, Hassani et al., arXiv:2504.16922), and the order in
// which their points are taken. Points are numbered row-major. In an order of patches, those of a patch follow each other, patches run along the last
// axis, to and fro: a tile of queries then covers a compact piece of the image, and its key tiles are fuller.
#pragma once

#include <heed/view/error.hpp>
#include <heed/view/tensor_view.hpp>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace heed {

// One axis: `window` keys around each point, in steps of `dilation`; `stride` points share the window of their leader.
struct neighbourhood_axis {
    extent_t length = 1, window = 1, stride = 1, dilation = 1;
    bool causal = false;

    // Keys of a point: begin, begin + dilation, ..., `count` of them.
    struct keys {
        extent_t begin, count;
    };
    HEED_HD constexpr keys of(extent_t point) const {
        extent_t const phase = dilation == 1 ? 0 : point % dilation, at = dilation == 1 ? point : point / dilation;
        extent_t const n = dilation == 1 ? length : (length - phase + dilation - 1) / dilation; // points of this phase
        extent_t const block = stride == 1 ? at : at / stride * stride, lead = block + (causal ? stride - 1 : stride / 2), leader = lead < n ? lead : n - 1;
        extent_t const reach = causal ? leader - window + 1 : leader - window / 2;
        extent_t begin = reach > 0 ? reach : 0, end = causal ? (at + 1 < n ? at + 1 : n) : begin + window;
        if (!causal && leader - window / 2 + window > n) { begin = n - window, end = n; } // at the border the window moves inward
        return {phase + begin * dilation, end - begin};
    }
};

// What a pattern reads of a neighbourhood_map. Slot t of the order is point order[t]; its coordinates are at[0][t] ... at[2][t].
struct neighbourhood_bands {
    neighbourhood_axis axis[3];
    std::int32_t const* order = nullptr;
    std::int32_t const* at[3] = {nullptr, nullptr, nullptr};
    HEED_HD constexpr extent_t points() const { return axis[0].length * axis[1].length * axis[2].length; }
};

class neighbourhood_map {
    neighbourhood_bands bands_;
    std::vector<std::int32_t> order_, at_;

public:
    // axes: one to three, the last one runs fastest. patch: points of a patch along each axis, 1 or more; empty: the grid's own order. Throws shape_error,
    // naming the axis, unless 1 <= stride <= window, dilation >= 1 and window * dilation <= length.
    HEED_INLINE explicit neighbourhood_map(std::initializer_list<neighbourhood_axis> axes, std::initializer_list<extent_t> patch = {})
        : neighbourhood_map(std::span(axes.begin(), axes.size()), std::span(patch.begin(), patch.size())) {}
    HEED_INLINE explicit neighbourhood_map(std::span<neighbourhood_axis const> axes, std::span<extent_t const> patch = {}) {
        if (axes.empty() || axes.size() > 3 || (!patch.empty() && patch.size() != axes.size())) {
            HEED_THROW(shape_error(sentence("heed: a neighbourhood of ", axes.size(), " axes and a patch of ", patch.size(), "; it has 1 to 3 axes, and a patch one length for each")));
        }
        extent_t of_patch[3] = {1, 1, 1};
        for (std::size_t n = 0; n < axes.size(); ++n) {
            neighbourhood_axis const& x = axes[n];
            if (x.stride < 1 || x.stride > x.window || x.dilation < 1 || x.window > x.length || x.window * x.dilation > x.length || x.length > (extent_t(1) << 30)) {
                HEED_THROW(shape_error(sentence("heed: axis ", n, " has ", x.length, " points, window ", x.window, ", stride ", x.stride, ", dilation ", x.dilation,
                                                "; 1 <= stride <= window, dilation >= 1 and window * dilation <= points <= 2^30")));
            }
            bands_.axis[3 - axes.size() + n] = x;
            of_patch[3 - axes.size() + n] = x.length;
            if (!patch.empty()) {
                if (patch[n] < 1) { HEED_THROW(shape_error(sentence("heed: a patch of ", patch[n], " points along axis ", n, "; at least 1"))); }
                of_patch[3 - axes.size() + n] = patch[n];
            }
        }
        if (bands_.axis[0].length * bands_.axis[1].length > (extent_t(1) << 30) || bands_.points() > (extent_t(1) << 30)) {
            HEED_THROW(shape_error("heed: a neighbourhood of more than 2^30 points"));
        }
        order_.reserve(static_cast<std::size_t>(bands_.points()));
        fill(of_patch);
    }

    // Valid as long as this object is.
    HEED_INLINE neighbourhood_bands bands() const {
        neighbourhood_bands b = bands_;
        b.order = order_.data();
        for (int n = 0; n < 3; ++n) { b.at[n] = at_.data() + n * bands_.points(); }
        return b;
    }
    // {1, 1, points, 1}, for reordered{mechanism, order}.
    HEED_INLINE tensor_view<std::int32_t const> order() const { return {order_.data(), {1, 1, bands_.points(), 1}}; }
    // Pairs that exist.
    HEED_INLINE extent_t pairs() const {
        extent_t all = 1;
        for (auto const& x : bands_.axis) {
            extent_t along = 0;
            for (extent_t p = 0; p < x.length; ++p) { along += x.of(p).count; }
            all *= along;
        }
        return all;
    }

private:
    HEED_INLINE void fill(extent_t const* patch) {
        auto const& axis = bands_.axis;
        extent_t const n = bands_.points(), row = (axis[2].length + patch[2] - 1) / patch[2];
        bool back = false;
        for (extent_t z0 = 0; z0 < axis[0].length; z0 += patch[0]) {
            for (extent_t y0 = 0; y0 < axis[1].length; y0 += patch[1], back = !back && row > 1) {
                for (extent_t p = 0; p < row; ++p) {
                    extent_t const x0 = (back ? row - 1 - p : p) * patch[2];
                    auto const end = [&](extent_t from, int a) { return from + patch[a] < axis[a].length ? from + patch[a] : axis[a].length; };
                    for (extent_t z = z0; z < end(z0, 0); ++z)
                        for (extent_t y = y0; y < end(y0, 1); ++y)
                            for (extent_t x = x0; x < end(x0, 2); ++x) { order_.push_back(static_cast<std::int32_t>((z * axis[1].length + y) * axis[2].length + x)); }
                }
            }
        }
        at_.resize(static_cast<std::size_t>(3 * n));
        for (extent_t t = 0; t < n; ++t) {
            extent_t const point = order_[static_cast<std::size_t>(t)], of[3] = {point / (axis[1].length * axis[2].length), point / axis[2].length % axis[1].length, point % axis[2].length};
            for (int a = 0; a < 3; ++a) { at_[static_cast<std::size_t>(a * n + t)] = static_cast<std::int32_t>(of[a]); }
        }
    }
};

} // namespace heed
