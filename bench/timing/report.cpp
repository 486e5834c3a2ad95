// SPDX-License-Identifier: BSD-3-Clause
#include "report.hpp"

#include "problem.hpp"
#include "results.hpp"
#include "svg_plot.hpp"
#include "text_table.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

namespace heed::bench {

namespace {

constexpr char const* style = R"(
:root { --ink: #1b2430; --soft: #667085; --line: #e4e7ec; --paper: #ffffff; --panel: #f8f9fb; --good: #067647; --bad: #b42318;
        --c0: #2563eb; --c1: #e08a00; --c2: #0f9d6b; --c3: #8b5cf6; --c4: #d6336c; --c5: #64748b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2c3442; --paper: #12161d; --panel: #191f29; --good: #47cd89; --bad: #f97066;
          --c0: #6ea8fe; --c1: #f5b041; --c2: #3fd39b; --c3: #b197fc; --c4: #f783ac; --c5: #94a3b8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 40px 32px 64px; background: var(--paper); color: var(--ink);
       font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
h1 { font-size: 27px; letter-spacing: -0.01em; margin: 0 0 2px; }
h2 { font-size: 18px; margin: 44px 0 12px; }
p, .soft { color: var(--soft); margin: 0 0 12px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--line); padding: 6px 10px; white-space: nowrap; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: 4px 9px; white-space: nowrap; }
th.left, td.left { text-align: left; }
td.name { text-align: left; font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; }
tr.limit td { background: var(--panel); color: var(--soft); }
td.group { text-align: left; font-weight: 600; padding-top: 18px; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; height: auto; background: var(--panel); border-radius: 10px; padding: 14px 10px; }
svg text { font-size: 12px; fill: var(--ink); } svg .tick { fill: var(--soft); font-size: 11.5px; } svg .value { fill: var(--soft); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--line); } svg .full { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .curve { fill: none; stroke-width: 2.2; }
.series0 { fill: var(--c0); stroke: var(--c0); } .series1 { fill: var(--c1); stroke: var(--c1); } .series2 { fill: var(--c2); stroke: var(--c2); }
.series3 { fill: var(--c3); stroke: var(--c3); } .series4 { fill: var(--c4); stroke: var(--c4); } .series5 { fill: var(--c5); stroke: var(--c5); }
rect { stroke: none !important; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 0 0 10px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px; vertical-align: -1px; }
.legend .series0 { background: var(--c0); } .legend .series1 { background: var(--c1); } .legend .series2 { background: var(--c2); }
.legend .series3 { background: var(--c3); } .legend .series4 { background: var(--c4); } .legend .series5 { background: var(--c5); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 20px; }
figure { margin: 0; } figcaption { font-size: 13px; font-weight: 600; margin: 0 0 6px 4px; }
pre { background: var(--panel); border-radius: 10px; padding: 14px 18px; overflow-x: auto; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; font-size: 14px; } dt { color: var(--soft); } dd { margin: 0; }
)";

std::string cell(std::string const& text, std::string const& classes = {}) {
    return "<td" + (classes.empty() ? "" : " class=\"" + classes + '"') + '>' + escape(text) + "</td>";
}

// Colours go by the order of first appearance.
class palette {
public:
    std::size_t of(std::string const& name) {
        auto const found = std::find(names_.begin(), names_.end(), name);
        if (found != names_.end()) return static_cast<std::size_t>(found - names_.begin());
        names_.push_back(name);
        return names_.size() - 1;
    }
    std::string legend() const {
        std::string html = "<div class=\"legend\">";
        for (std::size_t i = 0; i < names_.size(); ++i)
            html += "<span><i class=\"series" + std::to_string(i % series_colours) + "\"></i>" + escape(names_[i]) + "</span>";
        return html + "</div>\n";
    }

private:
    std::vector<std::string> names_;
};

std::string shown(std::string const& backend) { return backend == "cpu" ? "heed" : backend == "eigen" ? "Eigen" : backend; }

// A row without what all rows share: what a label must say.
std::string short_label(problem const& p, std::vector<problem> const& all) {
    auto const differs = [&](auto member) {
        return std::any_of(all.begin(), all.end(), [&](problem const& other) { return other.*member != p.*member; });
    };
    std::vector<std::string> parts;
    auto const extent = [&](char const* symbol, auto member) {
        if (differs(member)) parts.push_back(std::string(symbol) + ' ' + std::to_string(p.*member));
    };
    if (differs(&problem::mechanism)) parts.push_back(p.mechanism);
    if (differs(&problem::dtype)) parts.push_back(std::string(text_of(p.dtype)));
    extent("B", &problem::batch);
    extent("H", &problem::heads);
    extent("N", &problem::queries);
    if (p.keys != p.queries) parts.push_back("M " + std::to_string(p.keys));
    extent("d", &problem::dim);
    if (p.dim_v != p.dim) parts.push_back("dv " + std::to_string(p.dim_v));
    extent("T", &problem::threads);
    auto plain = p;
    plain.backend = "cpu";
    auto const name = split(name_of(plain), '/');
    for (std::size_t i = 11; i < name.size(); ++i) parts.push_back(name[i].rfind("mask=", 0) == 0 ? name[i].substr(5) : name[i]);
    if (parts.empty()) { parts.push_back("d " + std::to_string(p.dim)); }
    return join(parts, ", ");
}

struct measured {
    problem what;
    row const* numbers;
};

std::vector<measured> timed_rows(run_record const& record) {
    std::vector<measured> rows;
    for (auto const& r : record.rows)
        if (!is_limit(r.name) && r.error.empty() && !r.seconds.empty()) rows.push_back({parse_name(r.name), &r});
    return rows;
}

std::string peak_section(std::vector<measured> const& rows) {
    std::vector<problem> all;
    for (auto const& m : rows) all.push_back(m.what);
    palette colours;
    std::vector<bar> bars;
    std::string previous;
    for (auto const& m : rows) {
        auto const fraction = m.numbers->median_of("of_peak");
        if (!(fraction >= 0)) continue;
        auto label = short_label(m.what, all);
        bool const fresh = label != previous;
        previous = label;
        bars.push_back(
            {fresh ? label : "", percent_text(fraction, 1), fraction, colours.of(shown(m.what.backend)), fresh && !bars.empty()});
    }
    if (bars.empty()) return {};
    return "<h2>Share of the machine's limit</h2>\n<p>Floating-point rate, counted from the attended pairs, over the rate of a loop of "
           "multiply-adds in registers, measured between the slices of each row.</p>\n" +
           colours.legend() + bar_plot(bars);
}

// One small plot per kind of problem, one curve per backend.
std::string length_section(std::vector<measured> const& rows) {
    std::vector<problem> kinds;
    std::map<std::string, std::vector<curve>> curves;
    palette colours;
    for (auto const& m : rows) {
        if (m.what.queries != m.what.keys) { continue; }
        auto kind = m.what;
        kind.queries = kind.keys = 1;
        kind.backend = "cpu";
        if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) { kinds.push_back(kind); }
        auto& of_kind = curves[name_of(kind)];
        auto const backend = shown(m.what.backend);
        auto place = std::find_if(of_kind.begin(), of_kind.end(), [&](curve const& c) { return c.name == backend; });
        if (place == of_kind.end()) { place = of_kind.insert(place, {backend, {}, colours.of(backend)}); }
        place->points.emplace_back(static_cast<double>(m.what.queries), m.numbers->median_seconds());
    }
    std::string plots;
    for (auto const& kind : kinds) {
        auto& of_kind = curves[name_of(kind)];
        std::erase_if(of_kind, [](curve const& c) { return c.points.size() < 2; });
        if (of_kind.empty()) { continue; }
        for (auto& c : of_kind) { std::sort(c.points.begin(), c.points.end()); }
        plots += "<figure><figcaption>" + escape(short_label(kind, kinds)) + "</figcaption>\n" + time_plot(of_kind) + "</figure>\n";
    }
    if (plots.empty()) { return {}; }
    return "<h2>Time over sequence length</h2>\n" + colours.legend() + "<div class=\"plots\">\n" + plots + "</div>\n";
}

std::string results_section(run_record const& record) {
    auto others = backends_in(record);
    std::erase(others, "cpu");
    std::ostringstream html;
    html << "<h2>Every row</h2>\n<div class=\"wide\"><table>\n<tr><th "
            "class=\"left\">name</th><th>time</th><th>cv</th><th>GFLOP/s</th><th>GB/s</th><th>of peak</th><th>spread</th>";
    for (auto const& backend : others) html << "<th>vs " << escape(shown(backend)) << "</th>";
    html << "</tr>\n";
    for (auto const& r : record.rows) {
        html << (is_limit(r.name) ? "<tr class=\"limit\">" : "<tr>") << cell(r.name, "name");
        if (!r.error.empty()) {
            html << "<td class=\"left bad\" colspan=\"" << 6 + others.size() << "\">" << escape(r.error) << "</td></tr>\n";
            continue;
        }
        html << cell(time_text(r.median_seconds())) << cell(percent_text(r.variation(), 1))
             << cell(giga_text(r.median_of("FLOP/s"))) << cell(giga_text(r.median_of("bytes/s")))
             << cell(percent_text(r.median_of("of_peak"), 1)) << cell(percent_text(r.spread_of("of_peak"), 1), r.unstable() ? "bad" : "");
        for (auto const& backend : others) {
            auto const ratio = speedup_over(record, r, backend);
            html << cell(std::isnan(ratio) ? "" : ratio_text(ratio));
        }
        html << "</tr>\n";
    }
    html << "</table></div>\n<p>Times are medians; cv is their coefficient of variation. Shares of the limit and &ldquo;vs&rdquo; are ratios "
            "taken slice by slice within each repetition; their spread over the repetitions is red above 3 %. "
            "GB/s counts every operand once. &ldquo;vs&rdquo; is the other's time over the row's: above 1 the row is faster.</p>\n";
    return html.str();
}

std::string gates_section(std::vector<gate_result> const& gates) {
    if (gates.empty()) return {};
    std::ostringstream html;
    html << "<h2>The speed table</h2>\n<div class=\"wide\"><table>\n<tr><th "
            "class=\"left\">what</th><th>reached</th><th>gate</th><th>goal</th><th class=\"left\">verdict</th></tr>\n";
    std::string group;
    for (auto const& g : gates) {
        if (g.group != group) html << "<tr><td class=\"group\" colspan=\"5\">" << escape(g.group) << "</td></tr>\n";
        group = g.group;
        bool const below = g.verdict.rfind("below", 0) == 0, missing = g.verdict == "not measured";
        html << "<tr>" << cell(g.what, "left") << cell(g.reached) << cell(g.gate) << cell(g.goal)
             << cell(g.verdict, below     ? "left bad"
                                : missing ? "left soft"
                                          : "left good")
             << "</tr>\n";
    }
    html << "</table></div>\n";
    return html.str();
}

std::string comparison_section(report_extras const& extras) {
    if (!extras.comparison) return {};
    std::ostringstream html;
    html << "<h2>Compared with " << escape(extras.compared_with)
         << "</h2>\n<div class=\"wide\"><table>\n<tr><th class=\"left\">name</th><th>then</th><th>now</th>"
         << "<th>ratio</th><th>cv then</th><th>cv now</th><th>p</th><th class=\"left\">verdict</th></tr>\n";
    for (auto const& c : extras.comparison->rows)
        html << "<tr>" << cell(c.name, "name") << cell(time_text(c.old_seconds)) << cell(time_text(c.new_seconds))
             << cell(ratio_text(c.ratio)) << cell(percent_text(c.old_variation, 1)) << cell(percent_text(c.new_variation, 1))
             << cell(fixed(c.p, 4))
             << cell(c.verdict, c.verdict == "faster"   ? "left good"
                                : c.verdict == "slower" ? "left bad"
                                                        : "left")
             << "</tr>\n";
    html << "</table></div>\n";
    for (auto const& name : extras.comparison->only_old) html << "<p>Only then: " << escape(name) << "</p>\n";
    for (auto const& name : extras.comparison->only_new) html << "<p>Only now: " << escape(name) << "</p>\n";
    return html.str();
}

std::string environment_section(run_record const& record) {
    static constexpr std::pair<char const*, char const*> entries[] = {
        {"cpu_model", "processor"}, {"cpus", "CPUs usable"},  {"isa_compiled", "built for"},  {"isa_present", "present"},
        {"compiler", "compiler"},   {"heed_version", "heed"}, {"repetitions", "repetitions"}, {"min_time", "seconds each, at least"},
        {"seed", "seed"},           {"date", "date"}};
    std::string html = "<h2>Environment</h2>\n<dl>\n";
    for (auto const& [key, title] : entries)
        if (auto const value = record.text(key); !value.empty())
            html += std::string("<dt>") + title + "</dt><dd>" + escape(value) + "</dd>\n";
    std::map<std::string, int> engines;
    for (auto const& r : record.rows)
        if (!is_limit(r.name) && !r.engine.empty()) ++engines[r.engine];
    for (auto const& [engine, rows] : engines)
        html += "<dt>engine</dt><dd>" + escape(engine) + " (" + std::to_string(rows) + (rows == 1 ? " row" : " rows") + ")</dd>\n";
    return html + "</dl>\n";
}

} // namespace

std::string report_html(run_record const& record, report_extras const& extras) {
    auto const rows = timed_rows(record);
    std::ostringstream html;
    html << "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, "
            "initial-scale=1\">\n"
         << "<title>heed bench</title>\n<style>" << style << "</style>\n</head>\n<body>\n<h1>heed bench</h1>\n<p>"
         << escape(record.text("cpu_model")) << " &middot; built for " << escape(record.text("isa_compiled")) << " &middot; "
         << escape(record.text("date")) << "</p>\n"
         << gates_section(extras.gates) << peak_section(rows) << length_section(rows) << results_section(record)
         << comparison_section(extras) << environment_section(record);
    if (auto const line = record.text("repeat"); !line.empty()) html << "<h2>Repeat this run</h2>\n<pre>" << escape(line) << "</pre>\n";
    html << "</body>\n</html>\n";
    return html.str();
}

} // namespace heed::bench
