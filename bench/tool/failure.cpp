// SPDX-License-Identifier: BSD-3-Clause
#include "failure.hpp"

#include <cstdio>
#include <new>

namespace heed::tool {

std::string in_quotes(std::string_view text) {
    std::string result = "\"";
    for (char const c : text) {
        auto const code = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            result += '\\';
            result += c;
        } else if (code < 0x20 || code == 0x7f) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned>(code));
            result += escape;
        } else {
            result += c;
        }
    }
    return result += '"';
}

failure bad_file(std::string_view path, std::string_view what) { return {exit_bad_input, std::string(path) + ": " + std::string(what)}; }

failure bad_tensor(std::string_view path, std::string_view tensor, std::string_view what) {
    return {exit_bad_input, std::string(path) + ": tensor " + in_quotes(tensor) + ": " + std::string(what)};
}

failure bad_usage(std::string_view what) { return {exit_bad_input, std::string(what)}; }

failure not_supported(std::string_view what) { return {exit_not_supported, std::string(what)}; }

std::string sentence_of(std::exception const& error) {
    if (dynamic_cast<std::bad_alloc const*>(&error)) { return "needs more memory than there is"; }
    std::string_view text = error.what();
    constexpr std::string_view prefix = "heed: "; // the command says it itself
    if (text.starts_with(prefix)) { text.remove_prefix(prefix.size()); }
    return std::string(text);
}

} // namespace heed::tool
