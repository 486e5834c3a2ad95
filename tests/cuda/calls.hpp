// SPDX-License-Identifier: BSD-3-Clause
// Calls on the GPU, compiled by nvcc, for tests that the host's compiler sees. Views point to memory of the device.
#pragma once

#include <heed/core.hpp>
#include <heed/mechanism/sparse.hpp>
#include <heed/mechanism/tropical.hpp>
#include <heed/policy/normalize/pointwise.hpp>
#include <heed/policy/normalize/sink.hpp>
#include <heed/policy/pattern/tree.hpp>
#include <heed/view/cache_view.hpp>

#include <cuda_runtime_api.h>

#include <string>

namespace heed {
struct split_products;
struct rounded_products;
} // namespace heed

namespace heed_test {

// Runs forward on the stream; returns the engine that the plan names for these views. An lse without data is not saved.
// P: how products of fp32 are formed, void for as without a choice.
template <class M, class E, class P = void>
std::string forward_on_gpu(M const& m, heed::tensor_view<E const> q, heed::tensor_view<E const> k, heed::tensor_view<E const> v, heed::tensor_view<E> out, heed::tensor_view<float> lse,
                           cudaStream_t stream);

// Runs backward on the stream; returns the plan's description. Gradients without data are not computed.
template <class M, class E>
std::string backward_on_gpu(M const& m, heed::tensor_view<E const> q, heed::tensor_view<E const> k, heed::tensor_view<E const> v, heed::tensor_view<E const> out, heed::tensor_view<float> lse,
                            heed::tensor_view<E const> dout, heed::tensor_view<float const> dlse, heed::tensor_view<E> dq, heed::tensor_view<E> dk, heed::tensor_view<E> dv, cudaStream_t stream,
                            bool in_order);

// Runs decode on the stream against a cache of the device's memory, twice in a workspace that the plan owns; the same of its plan's engine.
template <class M, class E>
std::string decode_on_gpu(M const& m, heed::tensor_view<E const> q, heed::cache_view<E> const& cache, heed::tensor_view<E> out, heed::tensor_view<float> lse, cudaStream_t stream);

// The mechanisms that are compiled, of every kind of score, pattern, normalizer and ring; tests/cuda/*.cu hold them.
namespace on_gpu {

using dot_scaled = heed::then<heed::dot, heed::inv_sqrt_width>;
using causal = heed::attention<dot_scaled, heed::causal_bottom_right>;
// a softcap, a bias and a slope, under a mask of bytes and a window, with a sink
using bent = heed::attention<heed::then<heed::then<heed::then<dot_scaled, heed::softcap<float>>, heed::bias<float>>, heed::alibi<float>>,
                             heed::both<heed::mask<std::uint8_t>, heed::window>, heed::softmax_sink<float>>;
using max_plus = heed::attention<heed::max_plus_score, heed::full, heed::tropical<heed::max_plus>, heed::max_plus>;
using tropical = heed::attention<heed::hilbert, heed::causal_top_left, heed::tropical_exit<heed::exp_minus_one>, heed::max_plus>;
using sparse = heed::attention<dot_scaled, heed::window, heed::sparsemax>;
using neural = heed::attention<heed::additive<heed::tanh_activation, float>, heed::key_lengths>;
using capped = heed::attention<heed::then<dot_scaled, heed::softcap<float>>, heed::window>;
using sunk = heed::attention<dot_scaled, heed::window, heed::softmax_sink<float>>;
using tropical_step = heed::attention<heed::hilbert, heed::causal_bottom_right, heed::tropical_exit<heed::exp_minus_one>, heed::max_plus>;
// a softcap and slopes over drafted tokens
using drafted = heed::attention<heed::then<heed::then<dot_scaled, heed::softcap<float>>, heed::alibi<float>>, heed::tree>;
using counted = heed::attention<heed::then<heed::squared_distance, heed::scale<float>>, heed::documents, heed::pointwise<heed::exponential_weight<float>, heed::by_visible>>;

} // namespace on_gpu
} // namespace heed_test
