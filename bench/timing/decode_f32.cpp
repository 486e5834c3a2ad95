// SPDX-License-Identifier: BSD-3-Clause
#include "decode_runs.hpp"

namespace heed::bench {

template <>
std::shared_ptr<owned_run> make_decode_run<float>(problem const& p, std::uint64_t seed) {
    return std::make_shared<decode_of<float>>(p, seed);
}

} // namespace heed::bench
