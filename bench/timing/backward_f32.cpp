// SPDX-License-Identifier: BSD-3-Clause
#include "backward_runs.hpp"

namespace heed::bench {

template <>
std::shared_ptr<owned_run> make_backward_run<float>(problem const& p, std::uint64_t seed) {
    return std::make_shared<backward_of<float>>(p, seed);
}

} // namespace heed::bench
