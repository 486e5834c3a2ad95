// SPDX-License-Identifier: BSD-3-Clause
// Times of the GPU's generic engine: rows interleaved in one loop, medians, as a markdown table. A step is one combination of the two contractions: N M (d + dv)
// a head, of pairs that exist; backward counts five products of N M d. Usage: heed_bench_cuda_simt [repetitions]
#include <heed/heed.cuh>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace {

using heed::extent_t;

void must(cudaError_t e) {
    if (e != cudaSuccess) {
        std::fprintf(stderr, "%s\n", cudaGetErrorString(e));
        std::exit(1);
    }
}

template <class E>
struct buffer {
    E* data = nullptr;
    heed::shape s;
    explicit buffer(heed::shape shape, unsigned seed) : s(shape) {
        std::vector<E> host(static_cast<std::size_t>(s.size()));
        for (E& x : host) {
            seed = seed * 1664525u + 1013904223u;
            x = static_cast<E>(static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f);
        }
        must(cudaMalloc(reinterpret_cast<void**>(&data), host.size() * sizeof(E)));
        must(cudaMemcpy(data, host.data(), host.size() * sizeof(E), cudaMemcpyHostToDevice));
    }
    heed::tensor_view<E const> in() const { return {data, s}; }
    heed::tensor_view<E> view() const { return {data, s}; }
};

struct row {
    std::string name, engine;
    double steps;
    std::function<void()> run;
    std::vector<float> times{};
};

template <class E, class M>
row forward_row(std::string const& what, M const& m, extent_t batch, extent_t heads, extent_t n, extent_t d, double share, cudaStream_t stream) {
    heed::shape const s{batch, heads, n, d};
    buffer<E> const q(s, 1), k(s, 2), v(s, 3), out(s, 4);
    auto plan = heed::plan<E>(m, s, s, s, heed::cuda{stream});
    std::byte* memory = nullptr;
    must(cudaMalloc(reinterpret_cast<void**>(&memory), plan.workspace_bytes()));
    std::span<std::byte> const workspace(memory, plan.workspace_bytes());
    std::string const name = what + " B=" + std::to_string(batch) + " H=" + std::to_string(heads) + " N=" + std::to_string(n) + " d=" + std::to_string(d);
    return {name, std::string(plan.engine()), share * 2.0 * static_cast<double>(batch * heads) * static_cast<double>(n * n) * static_cast<double>(d),
            [=]() mutable { plan.run(q.in(), k.in(), v.in(), out.view(), workspace); }};
}

template <class E, class M>
row backward_row(std::string const& what, M const& m, extent_t batch, extent_t heads, extent_t n, extent_t d, double share, cudaStream_t stream) {
    heed::shape const s{batch, heads, n, d};
    buffer<E> const q(s, 1), k(s, 2), v(s, 3), out(s, 4), dout(s, 5), dq(s, 6), dk(s, 7), dv(s, 8);
    buffer<float> const lse({batch, heads, n, 1}, 9);
    heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::cuda{stream}, heed::save{lse.view()});
    using plan_type = heed::backward_plan<M, E, heed::cuda<>>;
    auto const plan = std::make_shared<plan_type>(m, q.in(), k.in(), v.in(), out.in(), heed::save{lse.view()}, dout.in(), dq.view(), dk.view(), dv.view(), heed::cuda{stream});
    std::byte* memory = nullptr;
    must(cudaMalloc(reinterpret_cast<void**>(&memory), plan->workspace_bytes()));
    std::span<std::byte> const workspace(memory, plan->workspace_bytes());
    std::string const name = what + " B=" + std::to_string(batch) + " H=" + std::to_string(heads) + " N=" + std::to_string(n) + " d=" + std::to_string(d);
    return {name, std::string(plan->engine()), share * 5.0 * static_cast<double>(batch * heads) * static_cast<double>(n * n) * static_cast<double>(d), [=] { plan->run(workspace); }};
}

} // namespace

int main(int argc, char** argv) {
    int const repetitions = argc > 1 ? std::atoi(argv[1]) : 20;
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
    rows.push_back(forward_row<float>("max-plus f32", heed::max_plus_attention(), 8, 8, 1024, 64, 1, stream));
    rows.push_back(forward_row<float>("tropical f32", heed::tropical_attention(), 8, 8, 1024, 64, 1, stream));
    rows.push_back(forward_row<float>("softmax f32", heed::softmax_attention(), 4, 8, 2048, 64, 1, stream));
    rows.push_back(forward_row<float>("softmax f32", heed::softmax_attention(), 4, 8, 2048, 128, 1, stream));
    rows.push_back(forward_row<float>("causal softmax f32", heed::softmax_attention(heed::causal_bottom_right{}), 4, 8, 2048, 128, 0.5, stream));
    rows.push_back(backward_row<float>("backward softmax f32", heed::softmax_attention(), 4, 8, 2048, 64, 1, stream));
    rows.push_back(backward_row<float>("backward causal f32", heed::softmax_attention(heed::causal_bottom_right{}), 4, 8, 2048, 128, 0.5, stream));
    cudaEvent_t begin = nullptr, end = nullptr;
    must(cudaEventCreate(&begin));
    must(cudaEventCreate(&end));
    for (int i = -2; i < repetitions; ++i) {
        for (row& r : rows) {
            must(cudaEventRecord(begin, stream));
            r.run();
            must(cudaEventRecord(end, stream));
            must(cudaEventSynchronize(end));
            float ms = 0;
            must(cudaEventElapsedTime(&ms, begin, end));
            if (i >= 0) { r.times.push_back(ms); }
        }
    }
    std::printf("%s, %d repetitions, interleaved, medians\n\n| row | engine | ms | T steps/s | spread |\n|---|---|---|---|---|\n", device.name, repetitions);
    for (row& r : rows) {
        std::sort(r.times.begin(), r.times.end());
        double const ms = static_cast<double>(r.times[r.times.size() / 2]);
        std::printf("| %s | %s | %.4f | %.2f | %.1f %% |\n", r.name.c_str(), r.engine.c_str(), ms, r.steps / ms * 1e-9, 100 * static_cast<double>(r.times[r.times.size() * 3 / 4] - r.times[r.times.size() / 4]) / ms);
    }
    return 0;
}
