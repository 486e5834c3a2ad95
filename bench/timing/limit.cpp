// SPDX-License-Identifier: BSD-3-Clause
#include "limit.hpp"

#include "list_syntax.hpp"
#include "team.hpp"

namespace heed::bench {

namespace {

register_loop find(std::string_view what, std::string_view isa) {
    if (isa == "avx2") {
        if (what == "fma_f32") return avx2::fma_f32();
        if (what == "fma_f64") return avx2::fma_f64();
        if (what == "add_max") return avx2::add_max();
    } else if (isa.empty()) {
        if (what == "fma_f32") return native::fma_f32();
        if (what == "fma_f64") return native::fma_f64();
        if (what == "add_max") return native::add_max();
        if (what == "range") return native::range();
        if (what == "bf16_dot") return native::bf16_dot();
    }
    return {};
}

} // namespace

std::vector<std::string> limits_here() {
    std::vector<std::string> names{"fma_f32", "fma_f64", "add_max", "range", "read"};
    if (native::bf16_dot().run != nullptr) names.insert(names.begin() + 2, "bf16_dot");
    return names;
}

timed_case limit_case(std::string_view name) {
    auto const parts = split(name, '/');
    if (parts.size() < 3 || !is_limit(name)) throw usage_error("'" + std::string(name) + "' is no limit/<what>/<threads>");
    constexpr std::string_view key = "isa=";
    auto const isa = parts.size() > 3 && parts[3].starts_with(key) ? parts[3].substr(key.size()) : std::string();
    return limit_case(parts[1], static_cast<int>(parse_size(parts[2])), isa);
}

timed_case limit_case(std::string_view what, int threads, std::string_view isa) {
    if (what == "read") return read_case(threads);
    auto const loop = find(what, isa);
    if (loop.run == nullptr) throw unsupported_error(limit_name(what, threads, isa) + ": this build has no such loop");
    timed_case c;
    c.name = limit_name(what, threads, isa);
    c.prepare = [] { return "registers only"; };
    c.threads = threads;
    c.flops = loop.work * threads;
    c.run = [loop, threads] { on_team(threads, [loop](int) { loop.run(loop.steps); }); };
    return c;
}

} // namespace heed::bench
