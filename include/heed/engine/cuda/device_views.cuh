// SPDX-License-Identifier: BSD-3-Clause
// What kernels get of a call: pointers, steps and, of a ragged batch, starts in the workspace, where they are put from the arguments of launches: nothing is
// read from the host's memory after a call has returned.
#pragma once

#include <heed/engine/cuda/backend.cuh>
#include <heed/engine/problem.hpp>
#include <heed/engine/workspace.hpp>

namespace heed {

// A tensor_view whose starts lie on the device.
template <class T>
struct device_rows {
    T* data = nullptr;
    strides step{};
    extent_t seq = 0;
    std::int64_t const* starts = nullptr;

    HEED_HD extent_t length(extent_t b) const { return starts != nullptr ? starts[b + 1] - starts[b] : seq; }
    HEED_HD T* row(extent_t b, extent_t h, extent_t n) const {
        return data + (starts != nullptr ? starts[b] * step.seq : b * step.batch) + h * step.head + n * step.seq;
    }
};

namespace detail {

struct starts_part {
    static constexpr int most = 400;
    std::int64_t x[most];
};
template <class A>
__global__ void put_starts(std::int64_t* to, __grid_constant__ starts_part const part, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) { to[i] = part.x[i]; }
}

template <class T>
bool by_fours(tensor_view<T> const& v) {
    constexpr extent_t n = 4;
    return v.stride(3) == 1 && v.stride(0) % n == 0 && v.stride(1) % n == 0 && v.stride(2) % n == 0 &&
           reinterpret_cast<std::uintptr_t>(v.data_handle()) % (n * sizeof(T)) == 0;
}
// Row-major views of the shapes of a call, where no memory is known yet.
template <class T>
pairwise_problem<T> problem_of(shape q, shape k, shape v) {
    return {tensor_view<T const>(nullptr, q), tensor_view<T const>(nullptr, k), tensor_view<T const>(nullptr, v), tensor_view<T>(nullptr, {q.batch, q.head, q.seq, v.feature}), {}, 0};
}

// number(0) ... number(count - 1) to the device, from the arguments of launches.
template <class A, class F>
void put_numbers(extent_t count, F const& number, std::int64_t* to, cudaStream_t stream) {
    for (extent_t i = 0; i < count; i += starts_part::most) {
        starts_part part{};
        int const n = static_cast<int>(count - i < starts_part::most ? count - i : starts_part::most);
        for (int j = 0; j < n; ++j) { part.x[j] = number(i + j); }
        put_starts<A><<<1, 128, 0, stream>>>(to + i, part, n);
        check_cuda<A>(cudaGetLastError(), "the launch that puts lengths or ragged offsets");
    }
}

// Starts of the queries and of the keys of a ragged call, in a workspace.
template <class A>
class device_starts {
    std::int64_t *q_, *k_;

public:
    device_starts(arena& memory, extent_t batch) : q_(memory.take<std::int64_t>(batch + 1)), k_(memory.take<std::int64_t>(batch + 1)) {}

    template <class Problem>
    void put(Problem const& x, cudaStream_t stream) const {
        put_queries(x.q.offsets(), stream);
        put(x.k.offsets(), k_, stream);
    }
    void put_queries(ragged_offsets const& starts, cudaStream_t stream) const { put(starts, q_, stream); }
    template <class T>
    device_rows<T> of_queries(tensor_view<T> const& v) const {
        return {v.data_handle(), v.strides(), v.extent(2), v.is_ragged() ? q_ : nullptr};
    }
    template <class T>
    device_rows<T> of_keys(tensor_view<T> const& v) const {
        return {v.data_handle(), v.strides(), v.extent(2), v.is_ragged() ? k_ : nullptr};
    }

private:
    static void put(ragged_offsets const& starts, std::int64_t* to, cudaStream_t stream) {
        if (starts) { put_numbers<A>(starts.count() + 1, [&](extent_t i) { return starts[i]; }, to, stream); }
    }
};

} // namespace detail
} // namespace heed
