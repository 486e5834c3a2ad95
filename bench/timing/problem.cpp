// SPDX-License-Identifier: BSD-3-Clause
#include "problem.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace heed::bench {

namespace {

constexpr std::array<std::pair<std::string_view, mask_kind>, 4> masks{
    {{"full", mask_kind::full}, {"causal", mask_kind::causal}, {"window", mask_kind::window}, {"document", mask_kind::document}}};
constexpr std::array<std::pair<std::string_view, element>, element_types> dtypes{
    {{"f32", element::f32}, {"f64", element::f64}, {"bf16", element::bf16}, {"f16", element::f16}, {"int8", element::int8}, {"f8", element::f8}}};
constexpr std::array<std::pair<std::string_view, bias_kind>, 3> biases{
    {{"none", bias_kind::none}, {"row", bias_kind::row}, {"full", bias_kind::full}}};

template <class Table>
std::string text_in(Table const& table, typename Table::value_type::second_type value) {
    for (auto const& [text, entry] : table)
        if (entry == value) return std::string(text);
    return {};
}

// option: what the user wrote before the value, "--set mask=".
template <class Table>
auto value_in(Table const& table, std::string const& option, std::string_view text) {
    std::vector<std::string> known;
    for (auto const& [name, entry] : table) {
        if (name == text) return entry;
        known.emplace_back(name);
    }
    throw usage_error(option + std::string(text) + ": use " + join(known, ", "));
}

settings settings_of(problem const& p) {
    problem const plain;
    settings s = p.extra;
    if (p.mask != plain.mask) s["mask"] = text_in(masks, p.mask);
    if (p.mask == mask_kind::window) s["window"] = std::to_string(p.window);
    if (p.mask == mask_kind::document) s["documents"] = std::to_string(p.documents);
    if (p.bias != plain.bias) s["bias"] = text_in(biases, p.bias);
    if (p.softcap != 0) s["softcap"] = number_text(p.softcap);
    if (p.alibi) s.emplace("alibi", "1");
    if (!p.isa.empty()) s["isa"] = p.isa;
    if (p.backend != plain.backend) s["backend"] = p.backend;
    return s;
}

} // namespace

std::size_t bytes_of(element type) {
    constexpr std::array<std::size_t, element_types> bytes{4, 8, 2, 2, 1, 1};
    return bytes[static_cast<std::size_t>(type)];
}

std::string_view text_of(element type) { return dtypes[static_cast<std::size_t>(type)].first; }

element parse_element(std::string_view text) { return value_in(dtypes, "--dtype ", text); }

std::string name_of(problem const& p) {
    std::string name = p.mechanism + '/' + p.verb + '/' + std::string(text_of(p.dtype));
    for (std::int64_t extent : {p.batch, p.heads, p.kv_heads, p.queries, p.keys, p.dim, p.dim_v, std::int64_t{p.threads}})
        name += '/' + std::to_string(extent);
    for (auto const& [key, value] : settings_of(p)) name += '/' + key + '=' + value;
    return name;
}

bool is_limit(std::string_view name) { return name.substr(0, 6) == "limit/"; }

std::string limit_name(std::string_view what, int threads, std::string_view isa) {
    auto name = "limit/" + std::string(what) + '/' + std::to_string(threads);
    if (!isa.empty()) name += "/isa=" + std::string(isa);
    return name;
}

problem parse_name(std::string_view name) {
    auto const parts = split(name, '/');
    if (is_limit(name) || parts.size() < 11) throw usage_error("'" + std::string(name) + "' is not the name of a timed problem");
    problem p;
    p.mechanism = parts[0];
    p.verb = parts[1];
    p.dtype = parse_element(parts[2]);
    std::int64_t* const extents[] = {&p.batch, &p.heads, &p.kv_heads, &p.queries, &p.keys, &p.dim, &p.dim_v};
    for (std::size_t i = 0; i < std::size(extents); ++i) *extents[i] = parse_size(parts[3 + i]);
    p.threads = static_cast<int>(parse_size(parts[10]));
    settings s;
    for (auto part = parts.begin() + 11; part != parts.end(); ++part) {
        auto const equals = part->find('=');
        if (equals == std::string::npos) throw usage_error("'" + *part + "' in '" + std::string(name) + "' is not key=value");
        s[part->substr(0, equals)] = part->substr(equals + 1);
    }
    apply_settings(s, p);
    return p;
}

namespace {

void apply_one(problem& p, std::string const& key, std::string const& value) {
    if (key == "mask") {
        p.mask = value_in(masks, "--set mask=", value);
    } else if (key == "bias") {
        p.bias = value_in(biases, "--set bias=", value);
    } else if (key == "window") {
        p.window = parse_size(value);
    } else if (key == "documents") {
        p.documents = parse_size(value);
    } else if (key == "softcap") {
        p.softcap = parse_number(value);
        if (!(p.softcap >= 0) || !std::isfinite(p.softcap))
            throw usage_error("--set softcap=" + value + ": use a positive number, 0 for none");
    } else if (key == "alibi") {
        if (value != "0" && value != "1") throw usage_error("--set alibi=" + value + ": use 0 or 1");
        p.alibi = value == "1";
    } else if (key == "isa") {
        p.isa = value;
    } else if (key == "backend") {
        p.backend = value;
    } else {
        p.extra[key] = value;
    }
}

} // namespace

void apply_settings(settings const& s, problem& p) {
    for (auto const& [key, value] : s) apply_one(p, key, value);
    if (s.contains("mask")) return;
    if (s.contains("window") && s.contains("documents")) throw usage_error("--set window and documents together: say which with mask=");
    if (s.contains("window")) p.mask = mask_kind::window;
    if (s.contains("documents")) p.mask = mask_kind::document;
}

void check(problem const& p) {
    auto const heads = std::to_string(p.heads), kv_heads = std::to_string(p.kv_heads);
    if (p.heads % p.kv_heads != 0) throw usage_error("--heads " + heads + " is not a multiple of --kv-heads " + kv_heads);
    if (p.mask == mask_kind::document && p.documents > std::min(p.queries, p.keys))
        throw usage_error("--set documents=" + std::to_string(p.documents) + " is more than the sequence has positions");
    auto const limit = static_cast<double>(std::numeric_limits<std::int64_t>::max() / 16);
    auto const product = [](auto... factor) { return (static_cast<double>(factor) * ...); };
    if (product(p.batch, p.heads, p.queries, p.dim + p.dim_v) > limit || product(p.batch, p.kv_heads, p.keys, p.dim + p.dim_v) > limit ||
        product(p.batch, p.heads, p.queries, p.keys) > limit)
        throw usage_error(name_of(p) + ": the tensors do not fit in an address space");
}

std::int64_t document_begin(std::int64_t document, std::int64_t length, std::int64_t documents) {
    if (document >= documents) return length;
    auto const part = std::pow(static_cast<double>(document) / static_cast<double>(documents), 1.25);
    return static_cast<std::int64_t>(std::floor(part * static_cast<double>(length)));
}

std::int64_t document_of(std::int64_t position, std::int64_t length, std::int64_t documents) {
    std::int64_t d = 0;
    while (d + 1 < documents && document_begin(d + 1, length, documents) <= position) ++d;
    return d;
}

} // namespace heed::bench
