// SPDX-License-Identifier: BSD-3-Clause
#include "compare.hpp"

#include "problem.hpp"
#include "statistics.hpp"
#include "text_table.hpp"

#include <cmath>
#include <ostream>

namespace heed::bench {

namespace {

std::string verdict_of(row_comparison const& c, std::size_t old_count, std::size_t new_count) {
    if (smallest_p(old_count, new_count) >= significant_below) return "too few";
    if (c.p >= significant_below || std::abs(c.ratio - 1) <= same_within) return "same";
    return c.ratio < 1 ? "faster" : "slower";
}

} // namespace

run_comparison compare(run_record const& before, run_record const& after) {
    run_comparison result;
    for (auto const& now : after.rows) {
        auto const* const then = before.find(now.name);
        if (then == nullptr || then->seconds.empty() || now.seconds.empty()) {
            result.only_new.push_back(now.name);
            continue;
        }
        row_comparison c;
        c.name = now.name;
        c.old_seconds = then->median_seconds();
        c.new_seconds = now.median_seconds();
        c.ratio = c.new_seconds / c.old_seconds;
        c.old_variation = then->variation();
        c.new_variation = now.variation();
        c.p = mann_whitney(now.seconds, then->seconds).p;
        c.verdict = verdict_of(c, then->seconds.size(), now.seconds.size());
        result.rows.push_back(c);
    }
    for (auto const& then : before.rows) {
        auto const* const now = after.find(then.name);
        if (now == nullptr || now->seconds.empty() || then.seconds.empty()) result.only_old.push_back(then.name);
    }
    return result;
}

void print(std::ostream& out, run_comparison const& comparison, std::string const& old_source) {
    out << "\nCompared with " << old_source << " (time now over time then; Mann-Whitney, two-sided):\n\n";
    text_table table({"<name", "then", "now", "ratio", "cv then", "cv now", "p", "<verdict"});
    for (auto const& c : comparison.rows)
        table.add({c.name, time_text(c.old_seconds), time_text(c.new_seconds), ratio_text(c.ratio), percent_text(c.old_variation, 1),
                   percent_text(c.new_variation, 1), fixed(c.p, 4), c.verdict});
    if (!table.empty()) out << table;
    for (auto const& name : comparison.only_old) out << "only then: " << name << '\n';
    for (auto const& name : comparison.only_new) out << "only now:  " << name << '\n';
    for (auto const& c : comparison.rows)
        if (is_limit(c.name) && std::abs(c.ratio - 1) > 0.05)
            out << "The machine itself changed: " << c.name << " takes " << ratio_text(c.ratio) << " the time it took then.\n";
}

} // namespace heed::bench
