// SPDX-License-Identifier: BSD-3-Clause
// The witness: a loop that reads three quarters of the near cache again and again, a multiply-add a vector. It takes no part in any ratio; it tells when
// something else was at the core's caches and load ports. A loop in registers does not: on a shared Xeon, a busy sibling of the core took a quarter of
// the speed of attention and of this loop, and a twentieth of that of the registers' limit.
#pragma once

#include <functional>

namespace heed::bench {

// A call takes some tens of microseconds, on every thread of the team.
std::function<void()> witness(int threads);

} // namespace heed::bench
