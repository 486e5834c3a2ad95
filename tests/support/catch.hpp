// SPDX-License-Identifier: BSD-3-Clause
// The one include of Catch2, version 2.13 or 3.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <string>

namespace heed_test {

#if __has_include(<catch2/catch_all.hpp>)
using approx = Catch::Approx;
#else
using approx = Catch::Detail::Approx;
#endif

// Matches a text that holds `part`: REQUIRE_THAT(text, heed_test::contains("sentence")).
inline auto contains(std::string const& part) {
#if __has_include(<catch2/catch_all.hpp>)
    return Catch::Matchers::ContainsSubstring(part);
#else
    return Catch::Matchers::Contains(part);
#endif
}

} // namespace heed_test
