// SPDX-License-Identifier: BSD-3-Clause
// Two kinds of plot as inline SVG. Colours and fonts come from the page's style: classes series0 .. series5.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace heed::bench {

inline constexpr std::size_t series_colours = 6;

struct bar {
    std::string label, value_text;
    double value = 0;       // fraction of `full`
    std::size_t series = 0; // colour
    bool starts_group = false;
};

// Horizontal bars; the grid runs to 100 %, and further where a bar needs it.
std::string bar_plot(std::vector<bar> const& bars);

struct curve {
    std::string name;
    std::vector<std::pair<double, double>> points; // x ascending, both positive
    std::size_t series = 0;
};

// Both axes logarithmic: sequence length in powers of two, seconds in powers of ten.
std::string time_plot(std::vector<curve> const& curves);

std::string escape(std::string const& text); // for HTML and SVG text

} // namespace heed::bench
