// SPDX-License-Identifier: BSD-3-Clause
// What the tensor-core engine asks of a mechanism, and how its blocks are cut.
#pragma once

#include <heed/family/pairwise.hpp>

namespace heed {

namespace detail {

// Weights of a tile are settled in one step, parts of a row merge, and nothing but the weights is asked of a row.
template <class N>
concept StreamedNormalizer = MergeableNormalizer<N, float> && !RowWiseNormalizer<N, float> && !CountingNormalizer<N, float> && !requires(N const n, float x) { n.tally(x, x); } &&
                             !requires(N const n, typename N::template row<float> const r, float x) { n.finish(r, x); };

// How a block is cut for heads of up to D (q, k) and V (v) features: warpgroups that consume, keys of a tile, tiles and queries on their way.
template <int D, int V, bool Linear, class Operand>
struct tensor_sizes {
    static constexpr int groups = D <= 64 && V <= 64 ? 3 : 2;
    // a chain that bends scores is written out for every element of a thread: fewer of them
    static constexpr int keys = !Linear ? 64 : D > 192 || V > 192 ? 80 : D > 128 || V > 128 ? 112 : D > 64 || V > 64 ? 176 : 128;
    static constexpr int stages = 2, q_stages = 1;
    static constexpr bool takes_turns = true; // warpgroups issue their products one after the other
    // the sum over all threads is what the block is launched with: 168 (128 for four warpgroups) a thread
    static constexpr int producer_registers = groups == 3 ? 32 : 24, consumer_registers = groups == 3 ? 160 : 240;
};
// Rows in terms: a tile's part of o has registers of its own, weights one set a term.
template <int D, int V, bool Linear, class Operand>
    requires(Operand::scaled)
struct tensor_sizes<D, V, Linear, Operand> {
    static constexpr int groups = 2;
    static constexpr int keys = !Linear ? 64 : D > 64 || V > 64 ? (Operand::terms == 1 ? 96 : 64) : 128;
    static constexpr int stages = 2, q_stages = 1;
    static constexpr bool takes_turns = true;
    static constexpr int producer_registers = 24, consumer_registers = 240;
};

} // namespace detail

// Mechanisms that the engine runs, whatever their policies are called.
template <class M>
concept TensorCoreForward = Pairwise<M> && detail::sum_of_products<typename decltype(M::score)::contraction> && detail::sum_of_products<decltype(M::mix)> &&
                            !requires { requires decltype(M::score)::contraction::has_operand; } && detail::StreamedNormalizer<decltype(M::normalizer)> && std::is_same_v<decltype(M::load), load<>>;

// Those whose gradients it gives: a row is closed by one number and centred by its output.
template <class M>
concept TensorCoreBackward = TensorCoreForward<M> && DifferentiableNormalizer<decltype(M::normalizer), float> && detail::kept_of<decltype(M::normalizer)>() == 1 &&
                             decltype(M::normalizer)::centred == centre::output;

} // namespace heed
