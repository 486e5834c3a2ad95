// SPDX-License-Identifier: BSD-3-Clause
// A tensor's twin in the memory of the device: the same strides, the same canaries around.
#pragma once

#include <support/catch.hpp>
#include <support/tensor.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace heed_test {

inline void on_device(cudaError_t e) {
    if (e != cudaSuccess) { throw std::runtime_error(cudaGetErrorString(e)); }
}

template <class T>
class device_tensor {
    static constexpr std::size_t margin = 1024;
    std::byte* memory_ = nullptr;
    std::size_t bytes_ = 0;
    extent_t low_ = 0; // of the positions' offsets
    heed::tensor_view<T> view_{};

    static extent_t lowest(heed::shape s, heed::strides st) {
        extent_t low = 0;
        for (int r = 0; r < 4; ++r) { low += std::min<extent_t>(s[r] == 0 ? 0 : (s[r] - 1) * st[r], 0); }
        return low;
    }

public:
    explicit device_tensor(tensor<T> const& t) : low_(lowest(t.shape(), t.view().strides())) {
        std::vector<std::byte> const bytes = t.bytes();
        bytes_ = bytes.size();
        on_device(cudaMalloc(reinterpret_cast<void**>(&memory_), bytes_ + 2 * margin));
        on_device(cudaMemset(memory_, guarded_block::canary, bytes_ + 2 * margin));
        on_device(cudaMemcpy(memory_ + margin, bytes.data(), bytes_, cudaMemcpyHostToDevice));
        view_ = {reinterpret_cast<T*>(memory_ + margin) - low_, t.shape(), t.view().strides()};
    }
    device_tensor(device_tensor const&) = delete;
    device_tensor& operator=(device_tensor const&) = delete;
    ~device_tensor() { cudaFree(memory_); }

    heed::tensor_view<T> view() const { return view_; }
    heed::tensor_view<T const> in() const { return view_; }
    // Into the tensor that this is the twin of; true if nothing around was written.
    bool back(tensor<T>& t) const {
        std::vector<std::byte> all(bytes_ + 2 * margin);
        on_device(cudaMemcpy(all.data(), memory_, all.size(), cudaMemcpyDeviceToHost));
        if (bytes_ > 0) { std::memcpy(t.view().data_handle() + low_, all.data() + margin, bytes_); }
        auto const untouched = [&](std::size_t begin) { return std::all_of(all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(begin + margin), [](std::byte b) { return b == std::byte{guarded_block::canary}; }); };
        return untouched(0) && untouched(margin + bytes_);
    }
};

class device_stream {
    cudaStream_t stream_ = nullptr;

public:
    device_stream() { on_device(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    device_stream(device_stream const&) = delete;
    device_stream& operator=(device_stream const&) = delete;
    ~device_stream() { cudaStreamDestroy(stream_); }
    operator cudaStream_t() const { return stream_; }
    void wait() const { on_device(cudaStreamSynchronize(stream_)); }
};

} // namespace heed_test
