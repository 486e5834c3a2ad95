// SPDX-License-Identifier: BSD-3-Clause
// heed's GPU engines behind a C interface, for peers.py, which times them beside other libraries in one loop. Pointers are of the device, tensors (B, H, N, d)
// in rows, bf16; a call is prepared once, with its workspace, and run by its number. -1: no such mechanism, or heed refused it (said on standard error).
#include <heed/heed.cuh>

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace {

using element = heed::bf16;

struct call {
    std::string engine;
    std::function<void()> run;
};
std::vector<call> calls;

struct sizes {
    int batch, heads, kv_heads, n, d, dv;
    heed::shape q() const { return {batch, heads, n, d}; }
    heed::shape k() const { return {batch, kv_heads, n, d}; }
    heed::shape v() const { return {batch, kv_heads, n, dv}; }
    heed::shape out() const { return {batch, heads, n, dv}; }
    heed::shape lse() const { return {batch, heads, n, 1}; }
};

heed::tensor_view<element const> in(void const* p, heed::shape s) { return {static_cast<element const*>(p), s}; }
heed::tensor_view<element> to(void* p, heed::shape s) { return {static_cast<element*>(p), s}; }

std::shared_ptr<std::byte> device_memory(std::size_t bytes) {
    void* data = nullptr;
    if (cudaMalloc(&data, bytes + 1) != cudaSuccess) { std::fprintf(stderr, "%zu bytes of device memory are not to be had\n", bytes); }
    return {static_cast<std::byte*>(data), [](std::byte* p) { cudaFree(p); }};
}
int keep(std::string_view engine, std::function<void()> run) {
    calls.push_back({std::string(engine), std::move(run)});
    return static_cast<int>(calls.size()) - 1;
}

// f(mechanism) of that name
template <class F>
int with_mechanism(std::string const& name, int n, int const* ids, F const& f) {
    using capped = heed::then<heed::then<heed::dot, heed::inv_sqrt_width>, heed::softcap<float>>;
    try {
        if (name == "full") { return f(heed::softmax_attention()); }
        if (name == "causal") { return f(heed::softmax_attention(heed::causal_bottom_right{})); }
        if (name == "window") { return f(heed::softmax_attention(heed::window{1024})); }
        if (name == "softcap") { return f(heed::attention<capped, heed::causal_bottom_right>{capped{{}, {30.0f}}, {}}); }
        if (name == "documents") {
            heed::tensor_view<std::int32_t const> const view{ids, heed::shape{1, 1, n, 1}};
            return f(heed::softmax_attention(heed::documents{view, view}));
        }
    } catch (std::exception const& e) { std::fprintf(stderr, "%s\n", e.what()); }
    return -1;
}

} // namespace

extern "C" {

// in: q, k, v; ids: documents of the tokens, where the mechanism asks for them
int heed_forward(char const* mechanism, int batch, int heads, int kv_heads, int n, int d, int dv, void const* const* from, void* out, float* lse, int const* ids, void* stream) {
    sizes const s{batch, heads, kv_heads, n, d, dv};
    return with_mechanism(mechanism, n, ids, [&](auto const& m) {
        auto const q = in(from[0], s.q()), k = in(from[1], s.k()), v = in(from[2], s.v());
        auto const o = to(out, s.out());
        heed::tensor_view<float> const saved{lse, s.lse()};
        auto const plan = std::make_shared<decltype(heed::plan<element>(m, s.q(), s.k(), s.v(), heed::cuda{}))>(m, s.q(), s.k(), s.v(), heed::cuda{static_cast<cudaStream_t>(stream)});
        auto const memory = device_memory(plan->workspace_bytes());
        return keep(plan->engine(q, k, v, o), [=] { plan->run(q, k, v, o, std::span<std::byte>(memory.get(), plan->workspace_bytes()), heed::save{saved}); });
    });
}

// from: q, k, v, out, dO; gradients: dq, dk, dv
int heed_backward(char const* mechanism, int batch, int heads, int kv_heads, int n, int d, int dv, void const* const* from, float* lse, void* const* gradients, int const* ids, void* stream) {
    sizes const s{batch, heads, kv_heads, n, d, dv};
    return with_mechanism(mechanism, n, ids, [&]<class M>(M const& m) {
        heed::tensor_view<float> const saved{lse, s.lse()};
        auto const plan = std::make_shared<heed::backward_plan<M, element, heed::cuda<>>>(m, in(from[0], s.q()), in(from[1], s.k()), in(from[2], s.v()), in(from[3], s.out()), heed::save{saved},
                                                                                          in(from[4], s.out()), to(gradients[0], s.q()), to(gradients[1], s.k()), to(gradients[2], s.v()),
                                                                                          heed::cuda{static_cast<cudaStream_t>(stream)});
        auto const memory = device_memory(plan->workspace_bytes());
        return keep(plan->engine(), [=] { plan->run(std::span<std::byte>(memory.get(), plan->workspace_bytes())); });
    });
}

char const* heed_engine(int id) { return calls[static_cast<std::size_t>(id)].engine.c_str(); }
void heed_run(int id) { calls[static_cast<std::size_t>(id)].run(); }

}
