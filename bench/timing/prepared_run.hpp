// SPDX-License-Identifier: BSD-3-Clause
// What a backend gives for one problem with its memory in place. Each part of heed's own combinations of policies, and each
// instruction set, is a translation unit of its own.
#pragma once

#include "operands.hpp"
#include "problem.hpp"

#include <functional>
#include <string>

namespace heed::bench {

struct prepared_run {
    std::string engine;
    std::function<void()> run;
};

// The patterns full, causal, window and document with nothing else in the score.
prepared_run softmax_plain(problem const& p, operands<float> const& o, operand_store& store);
prepared_run softmax_plain(problem const& p, operands<double> const& o, operand_store& store);

// The patterns full and causal alone.
prepared_run softmax_plain(problem const& p, operands<bf16> const& o, operand_store& store);
prepared_run softmax_plain(problem const& p, operands<fp16> const& o, operand_store& store);

// One of bias, softcap and alibi, with the patterns full and causal.
prepared_run softmax_scored(problem const& p, operands<float> const& o, operand_store& store);

// splits=n: no pattern, the keys in n parts and their results merged.
prepared_run softmax_splits(problem const& p, operands<float> const& o, operand_store& store);

// The patterns full and causal on AVX2, whatever the rest of the build uses.
prepared_run softmax_avx2(problem const& p, operands<float> const& o, operand_store& store);
bool has_softmax_avx2();

// As softmax_plain, on the scalar engine.
prepared_run softmax_reference(problem const& p, operands<float> const& o, operand_store& store);
prepared_run softmax_reference(problem const& p, operands<double> const& o, operand_store& store);

} // namespace heed::bench
