// SPDX-License-Identifier: BSD-3-Clause
// Groups of gates, written line by line.
#pragma once

#include "gates.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace heed::bench {

inline problem square(std::int64_t n, std::int64_t d, mask_kind mask = mask_kind::full) {
    problem p;
    p.queries = p.keys = n;
    p.dim = p.dim_v = d;
    p.mask = mask;
    return p;
}

inline std::string label(problem const& p) {
    auto text = "d=" + std::to_string(p.dim) + ", N=" + std::to_string(p.queries);
    if (p.verb == "decode") text = std::string(text_of(p.dtype)) + ", M=" + std::to_string(p.keys);
    if (auto const layout = p.extra.find("layout"); layout != p.extra.end()) text += ", " + layout->second;
    if (p.mask == mask_kind::causal) text += ", causal";
    if (p.threads != 1) text += ", " + std::to_string(p.threads) + " threads";
    return text;
}

class gate_builder {
public:
    explicit gate_builder(std::string title) { group_.title = std::move(title); }

    void peak(problem const& p, double gate, double goal) { add({label(p), measure_of::peak, name(p), {}, gate, goal}); }
    void against(std::string what, measure_of measure, problem const& p, problem const& other, double gate, double goal) {
        add({std::move(what), measure, name(p), name(other), gate, goal});
    }
    gate_group finish() { return std::move(group_); }

private:
    std::string name(problem const& p) {
        if (std::find(group_.problems.begin(), group_.problems.end(), p) == group_.problems.end()) group_.problems.push_back(p);
        return name_of(p);
    }
    void add(gate g) { group_.gates.push_back(std::move(g)); }

    gate_group group_;
};

} // namespace heed::bench
