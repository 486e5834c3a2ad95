// SPDX-License-Identifier: BSD-3-Clause
// How the heed command ends, and the one exception that carries an ending and its sentence up to main.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

namespace heed::tool {

enum exit_code : int {
    exit_ok = 0,
    exit_mismatch = 1,      // a result outside its tolerance
    exit_bad_input = 2,     // bad usage, or a file that breaks its own rules
    exit_not_supported = 3, // nothing wrong, but something asked for does not exist here
};

class failure : public std::runtime_error {
    exit_code code_;

public:
    failure(exit_code code, std::string const& sentence) : std::runtime_error(sentence), code_(code) {}
    exit_code code() const { return code_; }
};

// Text from a file or the command line, in double quotes and with everything unprintable escaped: safe on a terminal.
std::string in_quotes(std::string_view text);

// "FILE: what is wrong" and "FILE: tensor "NAME": what is wrong".
failure bad_file(std::string_view path, std::string_view what);
failure bad_tensor(std::string_view path, std::string_view tensor, std::string_view what);
failure bad_usage(std::string_view what);
failure not_supported(std::string_view what);

// What to print of an exception that is no failure: the library's own sentences, or that memory ran out.
std::string sentence_of(std::exception const& error);

} // namespace heed::tool
