// SPDX-License-Identifier: BSD-3-Clause
// Plain Catch2 2.13 keeps its implementation and main behind this macro; elsewhere they come from a library.
#define CATCH_CONFIG_MAIN
#include <support/catch.hpp>
