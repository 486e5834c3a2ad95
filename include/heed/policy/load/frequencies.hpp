// SPDX-License-Identifier: BSD-3-Clause
// Frequencies of rotary embedding: radians per position of pair m of r/2 pairs, m = 0, 1, ...; L is the length that a model was trained for, s the
// factor by which it is stretched.
//   geometric{b}             f_m = b^{-2m/r}                            Su et al., arXiv:2104.09864
//   position_interpolation   f_m / s                                   Chen et al., arXiv:2306.15595
//   ntk{b, s}                geometric with base b s^{r/(r-2)}          Peng et al., arXiv:2309.00071, "NTK-aware": the slowest pair is stretched by s,
//                                                                      the fastest not at all
//   yarn{b, s, L}            (1 - g) f_m / s + g f_m, where g rises from 0 to 1 as the turns of pair m within L, L f_m / 2 pi, go from `slow` to
//                            `fast`; rotated rows are multiplied by 0.1 ln s + 1.  Same paper, "NTK-by-parts" and "YaRN"
//   listed_frequencies       f_m = view(0, 0, 0, m)
#pragma once

#include <heed/config.hpp>
#include <heed/view/tensor_view.hpp>

#include <cmath>

namespace heed {

struct geometric {
    double base = 10000;
    HEED_HD double frequency(extent_t m, extent_t width) const { return std::pow(base, -2.0 * static_cast<double>(m) / static_cast<double>(width)); }
    HEED_HD double amplitude() const { return 1; }
};

struct position_interpolation {
    double base = 10000, factor = 1;
    HEED_HD double frequency(extent_t m, extent_t width) const { return geometric{base}.frequency(m, width) / factor; }
    HEED_HD double amplitude() const { return 1; }
};

struct ntk {
    double base = 10000, factor = 1;
    HEED_HD double frequency(extent_t m, extent_t width) const {
        double const r = static_cast<double>(width);
        return width > 2 ? geometric{base * std::pow(factor, r / (r - 2))}.frequency(m, width) : 1.0;
    }
    HEED_HD double amplitude() const { return 1; }
};

struct yarn {
    double base = 10000, factor = 1, length = 4096, slow = 1, fast = 32;
    HEED_HD double frequency(extent_t m, extent_t width) const {
        double const f = geometric{base}.frequency(m, width), turns = length * f / 6.2831853071795864769, ramp = (turns - slow) / (fast - slow);
        double const g = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        return (1 - g) * f / factor + g * f;
    }
    HEED_HD double amplitude() const { return factor > 1 ? 0.1 * std::log(factor) + 1 : 1; }
};

template <class T>
struct listed_frequencies {
    tensor_view<T const> list; // {1, 1, 1, r/2}
    HEED_HD double frequency(extent_t m, extent_t) const { return static_cast<double>(list(0, 0, 0, m)); }
    HEED_HD double amplitude() const { return 1; }
};
template <class T>
listed_frequencies(tensor_view<T>) -> listed_frequencies<std::remove_const_t<T>>;

} // namespace heed
