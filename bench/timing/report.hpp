// SPDX-License-Identifier: BSD-3-Clause
// A run as one self-contained HTML page: style and plots are in the page, nothing is fetched, nothing is scripted.
#pragma once

#include "compare.hpp"
#include "gates.hpp"
#include "run_record.hpp"

#include <optional>
#include <string>
#include <vector>

namespace heed::bench {

struct report_extras {
    std::vector<gate_result> gates;
    std::optional<run_comparison> comparison;
    std::string compared_with;
};

std::string report_html(run_record const& record, report_extras const& extras = {});

} // namespace heed::bench
