// SPDX-License-Identifier: BSD-3-Clause
#include "registry.hpp"

#include <algorithm>

namespace heed::bench {

namespace {

using add_gates = void (*)(int cpus, std::vector<gate_group>& groups);

// Filled before main, in no order that is known.
std::vector<row_family>& rows() {
    static std::vector<row_family> all;
    return all;
}
std::vector<add_gates>& gates() {
    static std::vector<add_gates> all;
    return all;
}

} // namespace

row_registration::row_registration(row_family const& family) { rows().push_back(family); }
gate_registration::gate_registration(add_gates add) { gates().push_back(add); }

row_family const* find_rows(std::string_view mechanism) {
    auto const found = std::find_if(rows().begin(), rows().end(), [&](row_family const& r) { return r.mechanism == mechanism; });
    return found == rows().end() ? nullptr : &*found;
}

std::vector<std::string> mechanisms_with_rows() {
    std::vector<std::string> names;
    for (auto const& r : rows()) names.emplace_back(r.mechanism);
    std::sort(names.begin(), names.end());
    return names;
}

void add_registered_gates(int cpus, std::vector<gate_group>& groups) {
    auto const already = groups.size();
    for (auto const& add : gates()) add(cpus, groups);
    std::stable_sort(groups.begin() + static_cast<std::ptrdiff_t>(already), groups.end(), [](gate_group const& a, gate_group const& b) { return a.title < b.title; });
}

} // namespace heed::bench
