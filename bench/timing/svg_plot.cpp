// SPDX-License-Identifier: BSD-3-Clause
#include "svg_plot.hpp"

#include "text_table.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace heed::bench {

std::string escape(std::string const& text) {
    std::string safe;
    for (char c : text) switch (c) {
        case '&':
            safe += "&amp;";
            break;
        case '<':
            safe += "&lt;";
            break;
        case '>':
            safe += "&gt;";
            break;
        case '"':
            safe += "&quot;";
            break;
        default:
            safe += c;
        }
    return safe;
}

namespace {

struct canvas {
    std::ostringstream svg;

    canvas(double width, double height, std::string const& title) {
        svg.precision(6);
        svg << "<svg viewBox=\"0 0 " << width << ' ' << height << "\" role=\"img\" aria-label=\"" << escape(title) << "\">\n";
    }
    void line(char const* style, double x1, double y1, double x2, double y2) {
        svg << "<line class=\"" << style << "\" x1=\"" << x1 << "\" y1=\"" << y1 << "\" x2=\"" << x2 << "\" y2=\"" << y2 << "\"/>\n";
    }
    void text(char const* style, double x, double y, std::string const& content) {
        svg << "<text class=\"" << style << "\" x=\"" << x << "\" y=\"" << y << "\">" << escape(content) << "</text>\n";
    }
    std::string finish() {
        svg << "</svg>\n";
        return svg.str();
    }
};

std::string colour(std::size_t series) { return "series" + std::to_string(series % series_colours); }

} // namespace

std::string bar_plot(std::vector<bar> const& bars) {
    double const width = 960, row = 22, bar_height = 15, group_gap = 10, top = 8, axis = 28;
    std::size_t longest = 0;
    for (auto const& b : bars) longest = std::max(longest, b.label.size());
    double const left = std::min(460.0, 24 + 6.9 * static_cast<double>(longest)), right = 70;
    double height = top + axis;
    double largest = 1;
    for (auto const& b : bars) {
        height += row + (b.starts_group ? group_gap : 0);
        largest = std::max(largest, b.value);
    }
    double const end = std::ceil(largest * 5 - 1e-9) / 5;
    auto const x_of = [&](double value) { return left + value / end * (width - left - right); };

    canvas c(width, height, "Bars: fraction of the machine's limit");
    for (double tick = 0; tick <= end + 1e-9; tick += end > 2 ? std::ceil(end) / 5 : 0.2) {
        c.line(std::abs(tick - 1) < 1e-9 ? "full" : "grid", x_of(tick), top, x_of(tick), height - axis);
        c.text("tick middle", x_of(tick), height - axis + 17, percent_text(tick));
    }
    double y = top;
    for (auto const& b : bars) {
        if (b.starts_group) y += group_gap;
        double const middle = y + row / 2 + 4.5;
        c.text("label end", left - 10, middle, b.label);
        c.svg << "<rect class=\"" << colour(b.series) << "\" x=\"" << left << "\" y=\"" << y + (row - bar_height) / 2 << "\" width=\""
              << std::max(1.0, x_of(b.value) - left) << "\" height=\"" << bar_height << "\" rx=\"2\"><title>" << escape(b.label) << ": "
              << escape(b.value_text) << "</title></rect>\n";
        c.text("value", x_of(b.value) + 7, middle, b.value_text);
        y += row;
    }
    return c.finish();
}

std::string time_plot(std::vector<curve> const& curves) {
    double const width = 600, height = 380, left = 68, right = 22, top = 12, bottom = 46;
    auto const infinity = std::numeric_limits<double>::infinity();
    double x_low = infinity, x_high = 0, y_low = infinity, y_high = 0;
    for (auto const& curve : curves)
        for (auto const& [x, y] : curve.points) {
            x_low = std::min(x_low, x), x_high = std::max(x_high, x);
            y_low = std::min(y_low, y), y_high = std::max(y_high, y);
        }
    auto const x_begin = std::log2(x_low), x_end = std::max(std::log2(x_high), x_begin + 1);
    auto const y_begin = std::floor(std::log10(y_low) + 1e-9);
    auto const y_end = std::max(std::ceil(std::log10(y_high) - 1e-9), y_begin + 1);
    auto const x_of = [&](double x) { return left + (std::log2(x) - x_begin) / (x_end - x_begin) * (width - left - right); };
    auto const y_of = [&](double y) { return height - bottom - (std::log10(y) - y_begin) / (y_end - y_begin) * (height - top - bottom); };

    canvas c(width, height, "Time over sequence length, both logarithmic");
    for (double e = y_begin; e <= y_end; ++e) {
        auto const seconds = std::pow(10.0, e);
        c.line("grid", left, y_of(seconds), width - right, y_of(seconds));
        auto label = time_text(seconds * (1 + 1e-12));
        c.text("tick end", left - 10, y_of(seconds) + 4, fixed(std::pow(10.0, std::fmod(e + 30, 3)), 0) + label.substr(label.find(' ')));
    }
    for (double e = std::ceil(x_begin - 1e-9); e <= x_end + 1e-9; ++e) {
        auto const n = std::exp2(e);
        c.line("grid", x_of(n), top, x_of(n), height - bottom);
        c.text("tick middle", x_of(n), height - bottom + 18, n >= 1024 ? fixed(n / 1024, 0) + "k" : fixed(n, 0));
    }
    c.text("tick middle", (left + width - right) / 2, height - 8, "sequence length");
    for (auto const& curve : curves) {
        c.svg << "<polyline class=\"curve " << colour(curve.series) << "\" points=\"";
        for (auto const& [x, y] : curve.points) c.svg << x_of(x) << ',' << y_of(y) << ' ';
        c.svg << "\"/>\n";
        for (auto const& [x, y] : curve.points)
            c.svg << "<circle class=\"" << colour(curve.series) << "\" cx=\"" << x_of(x) << "\" cy=\"" << y_of(y) << "\" r=\"4\"><title>"
                  << escape(curve.name) << ", " << fixed(x, 0) << ": " << time_text(y) << "</title></circle>\n";
    }
    return c.finish();
}

} // namespace heed::bench
