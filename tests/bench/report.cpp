// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/report.hpp>
#include <timing/svg_plot.hpp>

using namespace heed::bench;

namespace {

row timed(problem const& p, double seconds) {
    row r;
    r.name = name_of(p);
    r.engine = "engine <one>";
    r.seconds = {seconds, seconds * 1.01};
    r.counters["of_peak"] = {0.5, 0.5};
    r.counters["FLOP/s"] = {1e11, 1e11};
    return r;
}

run_record sample_run() {
    run_record record;
    record.context = {{"cpu_model", "A & B <CPU>"}, {"repeat", "heed bench --seq 1k,2k"}, {"date", "today"}};
    for (std::int64_t n : {1024, 2048, 4096}) {
        for (auto const* backend : {"cpu", "eigen"}) {
            problem p;
            p.queries = p.keys = n;
            p.backend = backend;
            record.rows.push_back(timed(p, 1e-3 * static_cast<double>(n)));
        }
    }
    row limit;
    limit.name = limit_name("fma_f32", 1);
    limit.seconds = {1, 1};
    record.rows.push_back(limit);
    row failed;
    problem p;
    p.dim = 63;
    failed.name = name_of(p);
    failed.error = "row 3: got 1 < 2";
    record.rows.push_back(failed);
    return record;
}

} // namespace

TEST_CASE("report: one page that fetches and runs nothing") {
    auto const html = report_html(sample_run());
    for (auto const* foreign :
         {"http:", "https:", "//", "<script", "src=", "href=", "<link", "@import", "url(", "<iframe", "<img", "javascript", "onload"}) {
        INFO(foreign);
        CHECK(html.find(foreign) == std::string::npos);
    }
    CHECK(html.rfind("<!DOCTYPE html>", 0) == 0);
    CHECK_THAT(html, heed_test::contains("</html>"));
}

TEST_CASE("report: table, both plots, environment, repeat line; text is escaped") {
    auto const record = sample_run();
    auto const html = report_html(record);
    for (auto const& r : record.rows) { CHECK_THAT(html, heed_test::contains(r.name)); }
    for (auto const* part : {"A &amp; B &lt;CPU&gt;", "engine &lt;one&gt;", "row 3: got 1 &lt; 2", "heed bench --seq 1k,2k", "<rect",
                             "<polyline", "50.0 %", "Eigen"}) {
        CHECK_THAT(html, heed_test::contains(part));
    }
    CHECK(html.find("A & B <CPU>") == std::string::npos);
}

TEST_CASE("report: gates and comparison appear when there are any") {
    report_extras extras;
    extras.gates = {{"one thread", "d=128, N=4096", "91.0 %", "88.0 %", "94.0 %", "gate"}};
    extras.comparison = compare(sample_run(), sample_run());
    extras.compared_with = "old.json";
    auto const html = report_html(sample_run(), extras);
    for (auto const* part : {"The speed table", "d=128, N=4096", "94.0 %", "Compared with old.json"}) {
        CHECK_THAT(html, heed_test::contains(part));
    }
    auto const plain = report_html(sample_run());
    CHECK(plain.find("Compared with") == std::string::npos);
    CHECK(plain.find("The speed table") == std::string::npos);
    CHECK_NOTHROW(report_html({}));
}

TEST_CASE("plots: bars as long as their values, points where they belong") {
    auto const bars = bar_plot({{"half", "50 %", 0.5, 0, false}, {"full", "100 %", 1.0, 1, false}});
    auto const width_after = [&](std::size_t from) {
        auto const rect = bars.find("<rect", from), width = bars.find("width=\"", rect);
        return std::stod(bars.substr(width + 7));
    };
    auto const first = width_after(0), second = width_after(bars.find("<rect") + 1);
    CHECK(second == heed_test::approx(2 * first));
    CHECK_THAT(time_plot({{"a", {{1024, 1e-3}, {2048, 4e-3}}, 0}}), heed_test::contains("1k"));
}
