// SPDX-License-Identifier: BSD-3-Clause
// Running sums need runs of keys.
// expect: heed: visible_mean sums runs of keys; for this pattern use mean_attention(pattern) as the source
#include "call.hpp"

int main() {
    heed::tensor_view<std::uint8_t const> const flags = view<std::uint8_t>(0);
#ifdef HEED_BAD
    heed::forward(heed::shaped_attention(q, k, v, heed::mask{flags}), q, k, v, out);
#else
    heed::forward(weigh(heed::as_is{}, heed::mean_attention(heed::mask{flags})), q, k, v, out);
#endif
}
