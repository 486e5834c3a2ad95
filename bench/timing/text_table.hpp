// SPDX-License-Identifier: BSD-3-Clause
// Columns for a terminal, and numbers as people read them.
#pragma once

#include <initializer_list>
#include <iosfwd>
#include <string>
#include <vector>

namespace heed::bench {

class text_table {
public:
    explicit text_table(std::vector<std::string> header); // a header that starts with '<' aligns its column left
    void add(std::vector<std::string> cells);
    bool empty() const { return rows_.empty(); }
    friend std::ostream& operator<<(std::ostream& out, text_table const& table);

private:
    std::vector<std::string> header_;
    std::vector<bool> left_;
    std::vector<std::vector<std::string>> rows_;
};

// All of them give "-" for NaN.
std::string fixed(double value, int digits);
std::string time_text(double seconds);    // 12.3 us, 4.56 ms
std::string giga_text(double per_second); // 0.42, 5.1, 203
std::string percent_text(double fraction, int digits = 0);
std::string ratio_text(double ratio); // 1.42x

} // namespace heed::bench
