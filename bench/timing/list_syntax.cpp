// SPDX-License-Identifier: BSD-3-Clause
#include "list_syntax.hpp"

#include <array>
#include <charconv>
#include <limits>
#include <set>
#include <system_error>

namespace heed::bench {

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    for (;;) {
        auto const end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

std::string join(std::vector<std::string> const& items, std::string_view separator) {
    std::string text;
    for (auto const& item : items) {
        if (&item != &items.front()) text += separator;
        text += item;
    }
    return text;
}

std::int64_t parse_size(std::string_view text) {
    auto const bad = [&](char const* why) { return usage_error("'" + std::string(text) + "' is not a size: " + why); };
    std::string_view digits = text;
    std::int64_t unit = 1;
    if (!digits.empty() && (digits.back() == 'k' || digits.back() == 'K')) unit = std::int64_t{1} << 10;
    if (!digits.empty() && (digits.back() == 'm' || digits.back() == 'M')) unit = std::int64_t{1} << 20;
    if (unit != 1) digits.remove_suffix(1);
    std::int64_t value = 0;
    auto const [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (status == std::errc::result_out_of_range) throw bad("it does not fit in 64 bits");
    if (status != std::errc{} || end != digits.data() + digits.size()) throw bad("write digits, then k or m if wanted");
    if (value < 1) throw bad("it must be at least 1");
    if (value > std::numeric_limits<std::int64_t>::max() / unit) throw bad("it does not fit in 64 bits");
    return value * unit;
}

std::vector<std::int64_t> parse_sizes(std::string_view text) {
    std::vector<std::int64_t> sizes;
    for (auto const& item : split(text, ',')) {
        auto const dots = item.find("..");
        if (dots == std::string::npos) {
            sizes.push_back(parse_size(item));
            continue;
        }
        auto const first = parse_size(std::string_view(item).substr(0, dots));
        auto const last = parse_size(std::string_view(item).substr(dots + 2));
        if (first > last) throw usage_error("'" + item + "' runs backwards: write the smaller size first");
        for (auto size = first;; size *= 2) {
            sizes.push_back(size);
            if (size > last / 2) break;
        }
    }
    return sizes;
}

double parse_number(std::string_view text) {
    double value = 0;
    auto const [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status != std::errc{} || end != text.data() + text.size()) throw usage_error("'" + std::string(text) + "' is not a number");
    return value;
}

std::string number_text(double value) {
    std::array<char, 32> buffer{};
    auto const result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
    return {buffer.data(), result.ptr};
}

std::vector<settings> parse_settings(std::vector<std::string> const& assignments) {
    std::vector<settings> combinations{settings{}};
    std::set<std::string> seen;
    for (auto const& assignment : assignments) {
        auto const equals = assignment.find('=');
        if (equals == 0 || equals == std::string::npos || equals + 1 == assignment.size())
            throw usage_error("--set " + assignment + ": write key=value");
        auto const key = assignment.substr(0, equals);
        if (!seen.insert(key).second) throw usage_error("--set " + key + " is given twice: put its values in one list");
        std::vector<settings> extended;
        for (auto const& combination : combinations)
            for (auto const& value : split(std::string_view(assignment).substr(equals + 1), ',')) {
                if (value.empty()) throw usage_error("--set " + assignment + ": an empty value in the list");
                extended.push_back(combination);
                extended.back()[key] = value;
            }
        combinations = std::move(extended);
    }
    return combinations;
}

} // namespace heed::bench
