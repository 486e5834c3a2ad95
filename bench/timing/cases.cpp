// SPDX-License-Identifier: BSD-3-Clause
#include "cases.hpp"

#include "limit.hpp"
#include "list_syntax.hpp"
#include "registry.hpp"

#include <iterator>
#include <set>

namespace heed::bench {

timed_case case_for(problem const& p, std::shared_ptr<operand_store> const& store) {
    auto const* const rows = find_rows(p.mechanism);
    if (rows == nullptr) { throw unsupported_error(name_of(p) + ": no rows for the mechanism '" + p.mechanism + "'; there are " + join(mechanisms_with_rows(), ", ")); }
    return rows->make(p, store);
}

case_group group_of(std::string title, std::vector<problem> const& problems, std::shared_ptr<operand_store> const& store,
                    std::vector<std::string>* skipped) {
    case_group group{std::move(title), {}};
    std::set<std::string> seen;
    std::vector<timed_case> limits;
    for (auto const& p : problems) {
        if (!seen.insert(name_of(p)).second) continue;
        try {
            group.cases.push_back(case_for(p, store));
        } catch (unsupported_error const& e) {
            if (skipped == nullptr) throw;
            skipped->push_back(e.what());
            continue;
        }
        for (auto const& name : {group.cases.back().limit, limit_name("read", p.threads)})
            if (is_limit(name) && seen.insert(name).second) limits.push_back(limit_case(name));
    }
    std::move(limits.begin(), limits.end(), std::back_inserter(group.cases));
    return group;
}

void add_backend_rivals(case_group& group) {
    for (auto& c : group.cases) {
        if (is_limit(c.name)) { continue; }
        auto p = parse_name(c.name);
        if (p.mechanism != "softmax" || p.backend != "cpu" || p.verb != "forward" || p.dtype == element::bf16 || p.dtype == element::f16 || !p.extra.empty()) { continue; }
        for (auto const* other : {"eigen", "unfused"}) {
            p.backend = other;
            c.rivals.push_back({std::string("vs_") + other, name_of(p)});
        }
    }
}

} // namespace heed::bench
