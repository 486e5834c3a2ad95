// SPDX-License-Identifier: BSD-3-Clause
// cuda{stream}: calls are put on the stream and return at once. Views point to memory that the device reads; offsets of ragged batches, read by both, to memory
// of the host. Nothing here waits for the device, so calls may be captured into a graph.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/view/error.hpp>

#include <cuda_runtime.h>

#include <stdexcept>

namespace heed {

// Sums that many blocks add to: as their parts come, which is fastest and may change last bits between runs; or in a fixed order, the same bits in every run on a
// device of that size. Forward and decode always give the same bits.
enum class summed { as_they_come, in_order };

template <class A = native_arch>
struct cuda {
    using arch_type = A;
    cudaStream_t stream = nullptr;
    summed sums = summed::as_they_come;
};
cuda() -> cuda<native_arch>;
cuda(cudaStream_t) -> cuda<native_arch>;
cuda(cudaStream_t, summed) -> cuda<native_arch>;

// What the CUDA runtime refused, and in which call.
struct cuda_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

namespace detail {

template <class A>
inline constexpr bool is_backend<cuda<A>> = true;
template <class B>
inline constexpr bool is_cuda = false;
template <class A>
inline constexpr bool is_cuda<cuda<A>> = true;

template <class A>
HEED_COLD void throw_cuda(cudaError_t e, std::string_view call) {
    HEED_THROW(cuda_error(sentence<A>("heed: ", call, " failed: ", cudaGetErrorName(e), ", ", cudaGetErrorString(e))));
}
template <class A>
void check_cuda(cudaError_t e, std::string_view call) {
    if (e != cudaSuccess) { throw_cuda<A>(e, call); }
}

} // namespace detail

// The numbers of a device that engines are chosen and cut by.
struct cuda_device {
    int major = 0, minor = 0; // compute capability
    int multiprocessors = 1;
    std::size_t shared_bytes = 48 * 1024; // that a block may ask for

    // Of the calling thread's current device; throws cuda_error where there is none.
    template <class A = native_arch>
    static cuda_device current() {
        int id = 0, shared = 0;
        cuda_device d;
        detail::check_cuda<A>(cudaGetDevice(&id), "cudaGetDevice");
        auto const ask = [&](int& to, cudaDeviceAttr what) { detail::check_cuda<A>(cudaDeviceGetAttribute(&to, what, id), "cudaDeviceGetAttribute"); };
        ask(d.major, cudaDevAttrComputeCapabilityMajor);
        ask(d.minor, cudaDevAttrComputeCapabilityMinor);
        ask(d.multiprocessors, cudaDevAttrMultiProcessorCount);
        ask(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
        d.shared_bytes = static_cast<std::size_t>(shared);
        return d;
    }
    constexpr bool is(int a, int b) const { return major == a && minor == b; }
};

} // namespace heed
