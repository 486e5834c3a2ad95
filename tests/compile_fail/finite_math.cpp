// SPDX-License-Identifier: BSD-3-Clause
// expect: heed: -ffast-math and -ffinite-math-only are refused
#ifdef HEED_BAD
#undef __FINITE_MATH_ONLY__
#define __FINITE_MATH_ONLY__ 1
#endif
#include <heed/config.hpp>

int main() {}
