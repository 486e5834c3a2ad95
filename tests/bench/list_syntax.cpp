// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/list_syntax.hpp>

using namespace heed::bench;
using sizes = std::vector<std::int64_t>;

TEST_CASE("sizes: 1k is 1024, lists go by commas, a..b doubles") {
    CHECK(parse_sizes("1") == sizes{1});
    CHECK(parse_sizes("1000,4k,2m") == sizes{1000, 4096, 2097152});
    CHECK(parse_sizes("1k..64k") == sizes{1024, 2048, 4096, 8192, 16384, 32768, 65536});
    CHECK(parse_sizes("3..13") == sizes{3, 6, 12});
    CHECK(parse_sizes("5..5") == sizes{5});
    CHECK(parse_sizes("1..4,7,1K..2K") == sizes{1, 2, 4, 7, 1024, 2048});
    CHECK(parse_sizes("4611686018427387904..9223372036854775807") == sizes{4611686018427387904});
}

TEST_CASE("sizes: what is not one is refused with the text in the sentence") {
    for (auto const* text :
         {"", "k", "0", "-4", "1.5", "4kk", "1,,2", "1..", "..4", "1...4", "99999999999999999999", "9223372036854775807k", " 1"}) {
        INFO(text);
        CHECK_THROWS_AS(parse_sizes(text), usage_error);
    }
    CHECK_THROWS_WITH(parse_sizes("8..4"), heed_test::contains("'8..4' runs backwards"));
    CHECK_THROWS_WITH(parse_sizes("1,two"), heed_test::contains("'two' is not a size"));
}

TEST_CASE("settings: every combination, each key once") {
    auto const all = parse_settings({"mask=full,causal", "softcap=30", "bias=none,row"});
    REQUIRE(all.size() == 4);
    CHECK(all[0] == settings{{"mask", "full"}, {"softcap", "30"}, {"bias", "none"}});
    CHECK(all[3] == settings{{"mask", "causal"}, {"softcap", "30"}, {"bias", "row"}});
    CHECK(parse_settings({}) == std::vector<settings>{settings{}});
    for (auto const* text : {"mask", "=1", "mask=", "mask=full,"}) {
        INFO(text);
        CHECK_THROWS_AS(parse_settings({text}), usage_error);
    }
    CHECK_THROWS_WITH(parse_settings({"a=1", "a=2"}), heed_test::contains("given twice"));
}

TEST_CASE("numbers: the shortest text reads back") {
    for (double const x : {0.1, 30.0, 1e-4, 1.0 / 3.0}) { CHECK(parse_number(number_text(x)) == x); }
    CHECK_THROWS_AS(parse_number("1e"), usage_error);
    CHECK_THROWS_AS(parse_number(""), usage_error);
}
