// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/gates.hpp>

#include <algorithm>
#include <sstream>

using namespace heed::bench;

namespace {

row timed(std::string name, double of_peak, double vs_other) {
    row r;
    r.name = std::move(name);
    r.seconds = {1.0, 3.0}; // what the ratios do not look at
    r.counters["of_peak"] = {of_peak, of_peak};
    r.counters["vs_other"] = {vs_other, vs_other};
    return r;
}

gate_result judge_one(gate const& g, run_record const& record) { return judge({"group", {}, {g}}, record).front(); }

} // namespace

TEST_CASE("gates: every line reads rows that its group measures") {
    auto const groups = gate_groups(2);
    for (auto const& group : groups) {
        INFO(group.title);
        CHECK_FALSE(group.gates.empty());
        auto const measured = [&](std::string const& name) {
            return std::any_of(group.problems.begin(), group.problems.end(), [&](problem const& p) { return name_of(p) == name; });
        };
        for (auto const& g : group.gates) {
            CHECK(measured(g.row));
            CHECK((g.other.empty() || measured(g.other)));
            bool const smaller_is_better = g.measure == measure_of::slowdown;
            CHECK((smaller_is_better ? g.goal_at <= g.gate_at : g.goal_at >= g.gate_at));
        }
    }
    CHECK(gate_groups(1).size() < groups.size()); // no second CPU, no line for two threads
}

TEST_CASE("gates: a pair's ratio is measured slice by slice") {
    auto const store = std::make_shared<operand_store>(1);
    for (auto const& group : gate_groups(1)) {
        std::vector<std::string> skipped;
        auto const cases = cases_of(group, store, skipped).cases;
        for (auto const& g : group.gates) {
            auto const own = std::find_if(cases.begin(), cases.end(), [&](timed_case const& c) { return c.name == g.row; });
            if (own == cases.end()) { continue; } // not compiled in, and said in `skipped`
            INFO(g.row);
            CHECK_FALSE(own->limit.empty());
            bool const paired = g.measure != measure_of::peak;
            REQUIRE(own->rivals.size() <= 1); // one rival a row: the counter has one name; its share of the peak may be a line too
            if (paired) {
                REQUIRE(own->rivals.size() == 1);
                CHECK((own->rivals[0].counter == "vs_other" && own->rivals[0].name == g.other));
            }
        }
    }
}

TEST_CASE("gates: the five measures") {
    problem one, two;
    two.threads = 2;
    auto wide = one;
    wide.dim = wide.dim_v = 2 * one.dim;
    auto const a = name_of(one), b = name_of(two), c = name_of(wide);
    run_record record{{}, {timed(a, 0.90, 0.8), timed(b, 0.88, 1.75), timed(c, 0.9, 0.48)}};

    auto const peak = judge_one({"", measure_of::peak, a, "", 0.85, 0.95}, record);
    CHECK(peak.reached == "90.0 %");
    CHECK(peak.verdict == "gate");
    CHECK(judge_one({"", measure_of::peak, a, "", 0.91, 0.95}, record).verdict == "below");
    CHECK(judge_one({"", measure_of::peak, a, "", 0.85, 0.89}, record).verdict == "goal");

    auto const scaling = judge_one({"", measure_of::scaling, b, a, 0.97, 0.99}, record);
    CHECK(scaling.reached == "0.98x");
    CHECK(scaling.verdict == "gate");

    CHECK(judge_one({"", measure_of::rate, c, a, 0.94, 0.99}, record).reached == "0.96x"); // twice the work in 1 / 0.48 of the time
    CHECK(judge_one({"", measure_of::slowdown, a, b, 1.05, 1.0}, record).verdict == "below");
    CHECK(judge_one({"", measure_of::slowdown, b, a, 1.05, 1.0}, record).verdict == "goal");
    CHECK(judge_one({"", measure_of::speedup, b, a, 1.7, 2.5}, record).verdict == "gate");

    record.rows[1].counters["vs_other"] = {1.70, 1.75, 1.90};
    CHECK(judge_one({"", measure_of::speedup, b, a, 1.7, 2.5}, record).verdict == "gate, unstable");
    CHECK(judge_one({"", measure_of::peak, b, "", 0.8, 0.88}, record).verdict == "goal");
}

TEST_CASE("gates: rows that did not run or failed are not measured") {
    auto failed = timed("x", 1, 1);
    failed.error = "wrong";
    run_record const record{{}, {failed}};
    CHECK(judge_one({"", measure_of::peak, "x", "", 0.1, 0.2}, record).verdict == "not measured");
    CHECK(judge_one({"", measure_of::peak, "y", "", 0.1, 0.2}, record).verdict == "not measured");
    std::ostringstream text;
    print(text, {{"group", "a line", "90.0 %", "85.0 %", "95.0 %", "gate"}, {"group", "another", "-", "85.0 %", "95.0 %", "not measured"}});
    CHECK_THAT(text.str(), heed_test::contains("0 lines at their goal, 1 at their gate, 0 below, 1 not measured"));
}
