// SPDX-License-Identifier: BSD-3-Clause
#include "text_table.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ostream>

namespace heed::bench {

text_table::text_table(std::vector<std::string> header) : header_(std::move(header)) {
    for (auto& title : header_) {
        left_.push_back(!title.empty() && title.front() == '<');
        if (left_.back()) title.erase(0, 1);
    }
}

void text_table::add(std::vector<std::string> cells) {
    cells.resize(header_.size());
    rows_.push_back(std::move(cells));
}

std::ostream& operator<<(std::ostream& out, text_table const& table) {
    std::vector<std::size_t> width;
    for (auto const& title : table.header_) width.push_back(title.size());
    for (auto const& row : table.rows_)
        for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
    auto const line = [&](std::vector<std::string> const& cells) {
        std::string text;
        for (std::size_t c = 0; c < cells.size(); ++c) {
            std::string const space(width[c] - cells[c].size(), ' ');
            text += (c == 0 ? "" : "  ") + (table.left_[c] ? cells[c] + space : space + cells[c]);
        }
        out << text.substr(0, text.find_last_not_of(' ') + 1) << '\n';
    };
    line(table.header_);
    std::vector<std::string> rule;
    for (std::size_t c = 0; c < width.size(); ++c) rule.emplace_back(width[c], table.header_[c].empty() ? ' ' : '-');
    line(rule);
    for (auto const& row : table.rows_) line(row);
    return out;
}

std::string fixed(double value, int digits) {
    if (std::isnan(value)) return "-";
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
    return buffer;
}

namespace {
std::string three_digits(double value) { return fixed(value, value < 1 ? 3 : value < 10 ? 2 : value < 100 ? 1 : 0); }
} // namespace

std::string time_text(double seconds) {
    if (std::isnan(seconds)) return "-";
    if (seconds < 1e-6) return three_digits(seconds * 1e9) + " ns";
    if (seconds < 1e-3) return three_digits(seconds * 1e6) + " us";
    if (seconds < 1) return three_digits(seconds * 1e3) + " ms";
    return three_digits(seconds) + " s";
}

std::string giga_text(double per_second) { return std::isnan(per_second) ? "-" : three_digits(per_second * 1e-9); }
std::string percent_text(double fraction, int digits) { return std::isnan(fraction) ? "-" : fixed(100 * fraction, digits) + " %"; }
std::string ratio_text(double ratio) { return std::isnan(ratio) ? "-" : fixed(ratio, 2) + "x"; }

} // namespace heed::bench
