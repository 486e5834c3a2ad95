// SPDX-License-Identifier: BSD-3-Clause
// Tiles from device memory to shared memory by the copy engine of sm_90, and the barriers in shared memory that count its bytes.
//
// A tile is cut into panels of 64 columns of 16 bits: rows of 128 bytes, whose eight 16-byte parts are permuted by the row's number within eight
// (part c of row r lies at part c ^ (r % 8)). That is the order in which the tensor cores read without conflicts. Panels start at multiples of 1024 bytes.
#pragma once

#include <heed/kernel/cuda/warp.cuh>

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace heed::device {

inline constexpr int panel_columns = 64;

// A barrier in shared memory. Its phase ends when the expected arrivals and bytes have come; waiting names the parity of the phase.
struct block_barrier {
    std::uint64_t word;

    HEED_DEVICE void init(int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory"); }
    HEED_DEVICE void arrive() { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory"); }
    // One arrival that also announces bytes to come.
    HEED_DEVICE void expect(int bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes) : "memory");
    }
    HEED_DEVICE void wait(std::uint32_t parity) const {
        asm volatile("{\n"
                     ".reg .pred done;\n"
                     "again:\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                     "@!done bra again;\n"
                     "}" ::"r"(shared_address(this)),
                     "r"(parity)
                     : "memory");
    }
};
// Barriers that were just initialised become visible to the copy engine.
HEED_DEVICE void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
HEED_DEVICE void prefetch_map(CUtensorMap const* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// One tile of a map, a panel or what its columns and rows are: columns from `column` on, rows from `row` on; what lies outside the tensor is zero.
HEED_DEVICE void copy_panel(void* to, CUtensorMap const* map, block_barrier& done, int column, int row, int head, int batch) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)), "l"(map),
                 "r"(shared_address(&done)), "r"(column), "r"(row), "r"(head), "r"(batch)
                 : "memory");
}

// Bytes of device memory as they lie; address and count are multiples of 16.
HEED_DEVICE void copy_bytes(void* to, void const* from, int bytes, block_barrier& done) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(&done)) : "memory");
}
// What this thread stored to shared memory becomes visible to the tensor cores.
HEED_DEVICE void fence_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A tensor as the copy engine sees it: extents and strides of (column, row, head, batch), strides in bytes, the first dense; it is copied `columns` x `rows` at a time:
// a panel of 16-bit numbers, or floats in the order of the tensor. False if it may not: addresses and strides are multiples of 16 bytes, strides positive.
template <class T>
bool make_tile_map(CUtensorMap& map, T const* data, extent_t const (&extent)[4], extent_t const (&stride_bytes)[4], int columns, int rows) {
    constexpr bool panels = sizeof(T) == 2;
    constexpr CUtensorMapDataType type = !panels ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : std::is_same_v<T, bf16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0 || stride_bytes[0] != sizeof(T)) { return false; }
    cuuint64_t dims[4], strides[3];
    for (int r = 0; r < 4; ++r) {
        dims[r] = static_cast<cuuint64_t>(extent[r]);
        if (extent[r] < 1 || extent[r] > (extent_t(1) << 31)) { return false; }
        if (r > 0) {
            extent_t const s = extent[r] == 1 ? 16 : stride_bytes[r];
            if (s <= 0 || s % 16 != 0 || s >= (extent_t(1) << 40)) { return false; }
            strides[r - 1] = static_cast<cuuint64_t>(s);
        }
    }
    using encode_type = decltype(&cuTensorMapEncodeTiled);
    static encode_type const encode = [] {
        void* f = nullptr;
        cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        bool const ok = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found) == cudaSuccess && found == cudaDriverEntryPointSuccess;
        return ok ? reinterpret_cast<encode_type>(f) : nullptr;
    }();
    if (encode == nullptr) { return false; }
    cuuint32_t const box[4] = {static_cast<cuuint32_t>(columns), static_cast<cuuint32_t>(rows), 1, 1}, step[4] = {1, 1, 1, 1};
    return encode(&map, type, 4, const_cast<T*>(data), dims, strides, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, panels ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

} // namespace heed::device
