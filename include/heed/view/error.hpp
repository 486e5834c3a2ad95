// SPDX-License-Identifier: BSD-3-Clause
// The one exception of the library and the builder of its sentences.
#pragma once

#include <heed/config.hpp>

#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace heed {

// A wrong shape, stride, alias or index list. Thrown at the door, before anything is written; the text names the
// argument, the axis, the numbers and the rule.
struct shape_error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

namespace detail {
template <class Arch, class Part>
HEED_COLD void append(std::string& text, Part const& part) {
    if constexpr (std::is_arithmetic_v<Part>) {
        text += std::to_string(part);
    } else {
        text += part;
    }
}
} // namespace detail

// sentence("k has ", 128, " positions"): text and numbers joined. A template, so that no two objects share its code by accident of flags.
template <class Arch = native_arch, class... Parts>
HEED_COLD std::string sentence(Parts const&... parts) {
    std::string text;
    (detail::append<Arch>(text, parts), ...);
    return text;
}

} // namespace heed
