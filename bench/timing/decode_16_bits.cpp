// SPDX-License-Identifier: BSD-3-Clause
#include "decode_runs.hpp"

namespace heed::bench {

template <>
std::shared_ptr<owned_run> make_decode_run<bf16>(problem const& p, std::uint64_t seed) {
    return std::make_shared<decode_of<bf16>>(p, seed);
}

template <>
std::shared_ptr<owned_run> make_decode_run<fp16>(problem const& p, std::uint64_t seed) {
    return std::make_shared<decode_of<fp16>>(p, seed);
}

} // namespace heed::bench
