// SPDX-License-Identifier: BSD-3-Clause
// A score alone is not a mechanism.
// expect: heed: no forward engine for this mechanism on this backend
#include "call.hpp"

int main() {
#ifdef HEED_BAD
    heed::forward(heed::dot{} | heed::scale{0.5f}, q, k, v, out);
#else
    heed::forward(heed::attention{heed::dot{} | heed::scale{0.5f}}, q, k, v, out);
#endif
}
