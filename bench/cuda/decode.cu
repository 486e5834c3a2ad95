// SPDX-License-Identifier: BSD-3-Clause
// Times of decode on the GPU: one new token of every sequence against caches of bf16, as a markdown table. Calls are replayed as a graph over caches in turn, more of them
// than the second cache of the device holds; rows are interleaved, medians. Usage: heed_bench_cuda_decode [repetitions]
#include <heed/heed.cuh>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace {

using heed::extent_t;
using element = heed::bf16;

void must(cudaError_t e) {
    if (e != cudaSuccess) {
        std::fprintf(stderr, "%s\n", cudaGetErrorString(e));
        std::exit(1);
    }
}

__global__ void fill(element* x, extent_t count, unsigned seed) {
    for (extent_t i = blockIdx.x * extent_t(blockDim.x) + threadIdx.x; i < count; i += extent_t(gridDim.x) * blockDim.x) {
        unsigned n = (static_cast<unsigned>(i) ^ seed) * 2654435761u;
        n = (n ^ n >> 15) * 2246822519u;
        x[i] = element(static_cast<float>(n >> 8) * 0x1p-23f - 1.0f);
    }
}

struct buffer {
    element* data = nullptr;
    heed::shape s;
    buffer(heed::shape shape, unsigned seed) : s(shape) {
        must(cudaMalloc(reinterpret_cast<void**>(&data), static_cast<std::size_t>(s.size()) * sizeof(element)));
        fill<<<1024, 256>>>(data, s.size(), seed);
        must(cudaGetLastError());
    }
    heed::tensor_view<element const> in() const { return {data, s}; }
    heed::tensor_view<element> view() const { return {data, s}; }
};

struct row {
    std::string name, engine;
    cudaGraphExec_t graph;
    int calls;
    double bytes; // of keys and values of a call
    std::vector<float> times{};
};

row row_of(extent_t batch, extent_t heads, extent_t kv_heads, extent_t queries, extent_t keys, extent_t d, extent_t page, cudaStream_t stream) {
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    double const bytes = 2.0 * static_cast<double>(batch * kv_heads * keys * d) * sizeof(element);
    int const caches = std::clamp(static_cast<int>(300e6 / bytes) + 1, 2, 16), calls = caches * (bytes < 1e9 ? 2 : 1);
    buffer const q({batch, heads, queries, d}, 1), out({batch, heads, queries, d}, 4);
    extent_t const pages = page > 0 ? keys / page : 1;
    std::vector<extent_t> lengths(static_cast<std::size_t>(batch), keys);
    std::int32_t* table = nullptr; // both read it
    must(cudaMallocManaged(reinterpret_cast<void**>(&table), static_cast<std::size_t>(batch * pages) * sizeof(std::int32_t)));
    for (extent_t x = 0; x < batch * pages; ++x) { table[x] = static_cast<std::int32_t>((x * 1009 + 5) % (batch * pages)); } // of a power of two: each page once
    std::vector<heed::cache_view<element>> views;
    for (int c = 0; c < caches; ++c) {
        heed::shape const s = page > 0 ? heed::shape{batch * pages, kv_heads, page, d} : heed::shape{batch, kv_heads, keys, d};
        buffer const k(s, 2 + 10u * static_cast<unsigned>(c)), v(s, 3 + 10u * static_cast<unsigned>(c));
        heed::cache_view<element> view{page > 0 ? heed::cache_kind::paged : heed::cache_kind::contiguous, k.view(), v.view(), std::span<extent_t>(lengths), {}, {}, {}};
        if (page > 0) { view.table = {heed::block_table::trusted{}, table, batch, pages, batch * pages}; }
        views.push_back(view);
    }
    auto plan = heed::plan_decode<element>(m, q.s, views.front(), heed::cuda{stream});
    std::byte* memory = nullptr;
    must(cudaMalloc(reinterpret_cast<void**>(&memory), plan.workspace_bytes()));
    std::span<std::byte> const workspace(memory, plan.workspace_bytes());
    plan.own(workspace);
    must(cudaDeviceSynchronize());
    cudaGraph_t graph = nullptr;
    row r{"decode B=" + std::to_string(batch) + " H=" + std::to_string(heads) + "/" + std::to_string(kv_heads) + " N=" + std::to_string(queries) + " M=" + std::to_string(keys) + " d=" + std::to_string(d) +
              (page > 0 ? " pages of " + std::to_string(page) : ""),
          std::string(plan.engine()), nullptr, calls, bytes};
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int n = 0; n < calls; ++n) { plan.run(q.in(), views[static_cast<std::size_t>(n % caches)], out.view(), workspace); }
    must(cudaStreamEndCapture(stream, &graph));
    must(cudaGraphInstantiate(&r.graph, graph, 0));
    return r;
}

} // namespace

int main(int argc, char** argv) {
    int const repetitions = argc > 1 ? std::atoi(argv[1]) : 11;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        std::puts("no GPU here");
        return 77;
    }
    cudaDeviceProp device{};
    must(cudaGetDeviceProperties(&device, 0));
    cudaStream_t stream = nullptr;
    must(cudaStreamCreate(&stream));
    std::vector<row> rows;
    for (extent_t const keys : {8192, 65536}) {
        for (extent_t const batch : {1, 16, 64}) { rows.push_back(row_of(batch, 32, 8, 1, keys, 128, 0, stream)); }
    }
    rows.push_back(row_of(16, 32, 8, 1, 8192, 128, 16, stream));
    rows.push_back(row_of(16, 32, 8, 1, 8192, 128, 128, stream));
    rows.push_back(row_of(16, 32, 8, 8, 8192, 128, 0, stream));
    rows.push_back(row_of(16, 64, 8, 8, 8192, 128, 0, stream));
    rows.push_back(row_of(16, 32, 8, 1, 8192, 64, 0, stream));
    rows.push_back(row_of(16, 32, 8, 1, 8192, 256, 0, stream));
    cudaEvent_t begin = nullptr, end = nullptr;
    must(cudaEventCreate(&begin));
    must(cudaEventCreate(&end));
    for (int i = -2; i < repetitions; ++i) {
        for (row& r : rows) {
            must(cudaEventRecord(begin, stream));
            must(cudaGraphLaunch(r.graph, stream));
            must(cudaEventRecord(end, stream));
            must(cudaEventSynchronize(end));
            float ms = 0;
            must(cudaEventElapsedTime(&ms, begin, end));
            if (i >= 0) { r.times.push_back(ms / static_cast<float>(r.calls)); }
        }
    }
    std::printf("%s, bf16, %d repetitions, interleaved, medians\n\n| row | engine | us | GB/s of keys and values | spread |\n|---|---|---|---|---|\n", device.name, repetitions);
    for (row& r : rows) {
        std::sort(r.times.begin(), r.times.end());
        double const ms = static_cast<double>(r.times[r.times.size() / 2]);
        std::printf("| %s | %s | %.1f | %.0f | %.1f %% |\n", r.name.c_str(), r.engine.c_str(), ms * 1e3, r.bytes / ms * 1e-6,
                    100 * static_cast<double>(r.times[r.times.size() * 3 / 4] - r.times[r.times.size() / 4]) / ms);
    }
    return 0;
}
