// SPDX-License-Identifier: BSD-3-Clause
// fp32 rows as the tensor cores read them: every row divided by a power of two, so that its largest element is in [2^7, 2^8), and written as fp16 terms,
// x = 2^e (term 0 + term 1 + ...): each is what the terms before it left, rounded to nearest.
//
//   two terms   22 bits of an element; at least 2^-32 of the row's largest are kept of any, however small
//   one term    11 bits, as tf32 has
//
// Rows lie as term 0 (W numbers, zeros behind the last feature), term 1, ...; powers beside them, a number for each row. Any strides, 6 (4) bytes written and 4 read
// for each element and its power. Rows below 2^-100 keep what 2^-132 leaves of them; infinities become NaN in the second term.
#pragma once

#include <heed/engine/cuda/device_views.cuh>
#include <heed/kernel/cuda/copy_async.cuh>
#include <heed/kernel/cuda/warp.cuh>

namespace heed::detail {

// What the tensor cores multiply for elements E under products P: the type, terms of an element, whether rows carry powers of two.
template <class E, class P>
struct tensor_operand {
    using type = E;
    static constexpr int terms = 1;
    static constexpr bool scaled = false;
    static constexpr std::string_view forward_name = "cuda.tensor.pairwise.forward";
};
template <>
struct tensor_operand<float, split_products> {
    using type = fp16;
    static constexpr int terms = 2;
    static constexpr bool scaled = true;
    static constexpr std::string_view forward_name = "cuda.tensor.split.pairwise.forward";
};
template <>
struct tensor_operand<float, rounded_products> {
    using type = fp16;
    static constexpr int terms = 1;
    static constexpr bool scaled = true;
    static constexpr std::string_view forward_name = "cuda.tensor.rounded.pairwise.forward";
};

// The rows of a tensor in a workspace, W numbers a term.
struct plane_image {
    fp16* rows = nullptr;
    float* powers = nullptr;
    shape of{};          // of the rows: features are terms x W
    extent_t pitch = 0;  // of the powers of a head

    plane_image() = default;
    plane_image(arena& memory, shape const& x, int width, int terms) : of{x.batch, x.head, x.seq, extent_t(width) * terms}, pitch((x.seq + 3) / 4 * 4) {
        rows = memory.take<fp16>(of.size());
        powers = memory.take<float>(x.batch * x.head * pitch);
    }
    tensor_view<fp16 const> view() const { return {rows, of}; }
};

// The map of `columns` powers of a head at a time; false if the driver refuses it.
inline bool map_powers(CUtensorMap& to, plane_image const& image, int columns) {
    extent_t const head = 4 * image.pitch;
    return device::make_tile_map(to, image.powers, {image.of.seq, 1, image.of.head, image.of.batch}, {4, head, head, head * image.of.head}, columns, 1);
}

// One tensor on its way into planes. A row is read by W / 4 lanes of a warp, four features each.
struct plane_task {
    device_rows<float const> from;
    plane_image to;
    int features = 0, lanes = 0, chunks = 0; // chunks of rows of a head
    bool fours = false;

    static constexpr int chunk = 64;
    plane_task() = default;
    plane_task(tensor_view<float const> const& x, plane_image const& image, int width)
        : from{x.data_handle(), x.strides(), x.extent(2)}, to(image), features(static_cast<int>(x.extent(3))), lanes(width / 4), chunks(static_cast<int>((x.extent(2) + chunk - 1) / chunk)),
          fours(by_fours(x) && features % 4 == 0) {}
    HEED_HD extent_t blocks() const { return to.of.batch * to.of.head * chunks; }
};
struct plane_tasks {
    plane_task of[3];
};

template <class A, int Terms>
__global__ void __launch_bounds__(256) write_planes(__grid_constant__ plane_tasks const tasks) {
    plane_task const& task = tasks.of[blockIdx.y];
    if (blockIdx.x >= task.blocks()) { return; }
    constexpr int at_once = 4; // rows of a thread whose loads are in flight together
    int const head = static_cast<int>(blockIdx.x) / task.chunks, first = static_cast<int>(blockIdx.x) % task.chunks * plane_task::chunk, heads = static_cast<int>(task.to.of.head);
    int const step = 256 / task.lanes, column = static_cast<int>(threadIdx.x) % task.lanes * 4, end = min(first + plane_task::chunk, static_cast<int>(task.to.of.seq));
    float const* const from = task.from.row(head / heads, head % heads, 0);
    for (int row = first + static_cast<int>(threadIdx.x) / task.lanes; row - static_cast<int>(threadIdx.x) / task.lanes < end; row += at_once * step) {
        float x[at_once][4];
#pragma unroll
        for (int u = 0; u < at_once; ++u) {
            int const n = row + u * step;
            float const* const p = from + n * task.from.step.seq + column * task.from.step.feature;
            if (task.fours && n < end && column < task.features) {
                *reinterpret_cast<float4*>(x[u]) = *reinterpret_cast<float4 const*>(p);
            } else {
#pragma unroll
                for (int e = 0; e < 4; ++e) { x[u][e] = n < end && column + e < task.features ? p[e * task.from.step.feature] : 0.0f; }
            }
        }
#pragma unroll
        for (int u = 0; u < at_once; ++u) {
            int const n = row + u * step;
            float largest = fmaxf(fmaxf(fabsf(x[u][0]), fabsf(x[u][1])), fmaxf(fabsf(x[u][2]), fabsf(x[u][3])));
            for (int by = task.lanes / 2; by > 0; by /= 2) { largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, by)); }
            device::row_power const power = device::row_power::of<7>(largest);
            std::uint32_t a[Terms], b[Terms];
            device::split_two<fp16>(x[u][0] * power.there, x[u][1] * power.there, a);
            device::split_two<fp16>(x[u][2] * power.there, x[u][3] * power.there, b);
            if (n < end) {
                fp16* const to = task.to.rows + (extent_t(head) * task.to.of.seq + n) * task.to.of.feature + column;
#pragma unroll
                for (int t = 0; t < Terms; ++t) { *reinterpret_cast<uint2*>(to + t * 4 * task.lanes) = make_uint2(a[t], b[t]); }
                if (column == 0) { task.to.powers[head * task.to.pitch + n] = power.back; }
            }
        }
    }
}

} // namespace heed::detail
