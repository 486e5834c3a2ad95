// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/compare.hpp>

#include <sstream>

using namespace heed::bench;

namespace {

row timed(std::string name, double center, int repetitions, double spread = 1e-6) {
    row r;
    r.name = std::move(name);
    for (int i = 0; i < repetitions; ++i) { r.seconds.push_back(center + spread * i); }
    return r;
}

} // namespace

TEST_CASE("compare: faster, slower, the same, and too few to tell") {
    run_record const before{{},
                            {timed("quick", 2e-3, 7), timed("slow", 1e-3, 7), timed("equal", 1e-3, 7), timed("tiny change", 1e-3, 7),
                             timed("few", 1e-3, 3), timed("noise", 1e-3, 7, 1e-4), timed("gone", 1, 7)}};
    run_record const after{{},
                           {timed("quick", 1e-3, 7), timed("slow", 2e-3, 7), timed("equal", 1e-3, 7, 1.1e-6),
                            timed("tiny change", 1.01e-3, 7), timed("few", 2e-3, 3), timed("noise", 1.05e-3, 7, 1e-4), timed("new", 1, 7)}};
    auto const result = compare(before, after);
    REQUIRE(result.rows.size() == 6);
    std::vector<std::string> verdicts;
    for (auto const& r : result.rows) { verdicts.push_back(r.verdict); }
    CHECK(verdicts == std::vector<std::string>{"faster", "slower", "same", "same", "too few", "same"});
    CHECK(result.rows[0].ratio == heed_test::approx(0.5).epsilon(0.01));
    CHECK(result.rows[0].p == heed_test::approx(2.0 / 3432));
    CHECK(result.only_old == std::vector<std::string>{"gone"});
    CHECK(result.only_new == std::vector<std::string>{"new"});

    std::ostringstream text;
    print(text, result, "old.json");
    for (auto const* part : {"old.json", "faster", "slower", "too few", "only then: gone", "only now:  new"}) {
        CHECK_THAT(text.str(), heed_test::contains(part));
    }
}

TEST_CASE("compare: a failed row is missing, a changed machine is said") {
    auto failed = timed("a", 1, 5);
    failed.seconds.clear();
    failed.error = "wrong";
    auto const result = compare({{}, {timed("a", 1, 5), timed("limit/read/1", 1, 5)}}, {{}, {failed, timed("limit/read/1", 1.2, 5)}});
    CHECK(result.only_old == std::vector<std::string>{"a"});
    std::ostringstream text;
    print(text, result, "old.json");
    CHECK_THAT(text.str(), heed_test::contains("machine itself changed: limit/read/1"));
}
