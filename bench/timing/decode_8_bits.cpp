// SPDX-License-Identifier: BSD-3-Clause
#include "decode_runs.hpp"

namespace heed::bench {

template <>
std::shared_ptr<owned_run> make_decode_run<std::int8_t>(problem const& p, std::uint64_t seed) {
    return std::make_shared<decode_of<std::int8_t>>(p, seed);
}

template <>
std::shared_ptr<owned_run> make_decode_run<fp8_e4m3>(problem const& p, std::uint64_t seed) {
    return std::make_shared<decode_of<fp8_e4m3>>(p, seed);
}

} // namespace heed::bench
