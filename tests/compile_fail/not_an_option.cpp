// SPDX-License-Identifier: BSD-3-Clause
// An executor alone is not an option: it belongs into cpu{}.
// expect: heed: options of forward are a backend (heed::cpu{...}, heed::reference{}) and heed::save{lse} or heed::save_log2{lse}
#include "call.hpp"

int main() {
#ifdef HEED_BAD
    heed::forward(heed::softmax_attention(), q, k, v, out, heed::serial{});
#else
    heed::forward(heed::softmax_attention(), q, k, v, out, heed::cpu{heed::serial{}});
#endif
}
