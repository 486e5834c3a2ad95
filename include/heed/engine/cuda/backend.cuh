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

// How products of fp32 tensors are formed where a caller asks for tensor cores, which have none of fp32; without it, in fp32 throughout. Forward of at most 128 features
// on compute capability 9.0 is served so, if not ragged; all else runs as without. plan.engine() says which.
//
//   split_products     operands as sums of two fp16 numbers, 22 bits, three products: output within 2e-6 (relative norm) of exact
//   rounded_products   operands rounded to fp16's 11 bits, which are tf32's: within 1e-3
//
// for scores within a hundred or so; the error grows with larger ones, as that of fp32 does. Rows may be of any magnitude: each carries a power of two
// (tensor_planes.cuh), so that q . k errs by parts of |q| |k|, not of q_d k_d. Infinite elements count as NaN.
struct split_products {};
struct rounded_products {};

// cuda{stream}, cuda{stream, summed::in_order}, cuda{stream, split_products{}}, cuda{stream, split_products{}, summed::in_order}.
template <class A = native_arch, class P = void>
struct cuda;
template <class A>
struct cuda<A, void> {
    using arch_type = A;
    cudaStream_t stream = nullptr;
    summed sums = summed::as_they_come;
};
template <class A, class P>
struct cuda : cuda<A> {
    constexpr cuda(cudaStream_t stream, P, summed sums = summed::as_they_come) : cuda<A>{stream, sums} {}
};
cuda() -> cuda<native_arch>;
cuda(cudaStream_t) -> cuda<native_arch>;
cuda(cudaStream_t, summed) -> cuda<native_arch>;
template <class P>
cuda(cudaStream_t, P) -> cuda<native_arch, P>;
template <class P>
cuda(cudaStream_t, P, summed) -> cuda<native_arch, P>;

// What the CUDA runtime refused, and in which call.
struct cuda_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

namespace detail {

template <class A, class P>
inline constexpr bool is_backend<cuda<A, P>> = true;
template <class B>
inline constexpr bool is_cuda = false;
template <class A, class P>
inline constexpr bool is_cuda<cuda<A, P>> = true;

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
