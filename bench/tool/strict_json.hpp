// SPDX-License-Identifier: BSD-3-Clause
// JSON from files that nobody vouches for: a JSON library resolves duplicate keys silently, here they are refused, and so is deep nesting.
#pragma once

#include "failure.hpp"

#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace heed::tool {

// `what` names the text in the sentences: "header", "metadata \"expected\"". NaN and infinities are no JSON and end here too.
template <class Json>
Json parse_strictly(std::string_view path, std::string_view what, std::string_view text) {
    std::vector<std::set<std::string>> keys; // of every open object
    auto const refuse = [&](std::string const& why) { return bad_file(path, std::string(what) + " " + why); };
    auto const watch = [&](int depth, typename Json::parse_event_t event, Json& parsed) {
        using parse_event = typename Json::parse_event_t;
        if (depth > 4) { throw refuse("is nested too deeply"); }
        if (event == parse_event::object_start) {
            keys.emplace_back();
        } else if (event == parse_event::object_end) {
            keys.pop_back();
        } else if (event == parse_event::key) {
            auto const& key = parsed.template get_ref<std::string const&>();
            if (!keys.back().insert(key).second) { throw refuse("holds the name " + in_quotes(key) + " twice"); }
        }
        return true;
    };
    try {
        return Json::parse(text.begin(), text.end(), watch);
    } catch (typename Json::parse_error const& error) {
        throw refuse("is not valid JSON at its byte " + std::to_string(error.byte));
    } catch (typename Json::exception const&) { // a number beyond every range
        throw refuse("is not valid JSON");
    }
}

} // namespace heed::tool
