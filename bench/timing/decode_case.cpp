// SPDX-License-Identifier: BSD-3-Clause
#include "decode_case.hpp"

#include "limit.hpp"
#include "pair_count.hpp"
#include "team.hpp"

#include <heed/heed.hpp>

#include <algorithm>

namespace heed::bench {

template <>
std::shared_ptr<owned_run> make_decode_run<float>(problem const& p, std::uint64_t seed);
template <>
std::shared_ptr<owned_run> make_decode_run<bf16>(problem const& p, std::uint64_t seed);
template <>
std::shared_ptr<owned_run> make_decode_run<fp16>(problem const& p, std::uint64_t seed);
template <>
std::shared_ptr<owned_run> make_decode_run<std::int8_t>(problem const& p, std::uint64_t seed);
template <>
std::shared_ptr<owned_run> make_decode_run<fp8_e4m3>(problem const& p, std::uint64_t seed);

namespace {

std::shared_ptr<owned_run> run_of(problem const& p, std::uint64_t seed) {
    switch (p.dtype) {
    case element::f32:
        return make_decode_run<float>(p, seed);
    case element::bf16:
        return make_decode_run<bf16>(p, seed);
    case element::f16:
        return make_decode_run<fp16>(p, seed);
    case element::int8:
        return make_decode_run<std::int8_t>(p, seed);
    case element::f8:
        return make_decode_run<fp8_e4m3>(p, seed);
    case element::f64:
        break;
    }
    throw unsupported_error(name_of(p) + ": decode is compiled for f32, bf16, f16, int8 and f8 here");
}

void refuse_what_is_not_compiled(problem const& p) {
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.backend != "cpu" || !p.isa.empty()) refuse("decode runs on the cpu backend, with the build's own instruction set");
    if (p.mask == mask_kind::document || p.bias != bias_kind::none || p.softcap != 0 || p.alibi) refuse("decode is compiled with mask=full, causal and window alone here");
    if (p.threads > 1 && !has_teams()) refuse("this build has no OpenMP, so one thread only");
    for (auto const& [key, value] : p.extra) {
        if (key == "layout" && (value == "paged" || value == "ring" || value == "contiguous")) continue;
        if (key == "page" && parse_size(value) > 0) continue;
        refuse("decode has no setting '" + key + "=" + value + "'; layout is contiguous, paged or ring, page a number of rows");
    }
    if (auto const layout = p.extra.find("layout"); layout != p.extra.end() && layout->second == "ring" && p.mask != mask_kind::window) {
        refuse("layout=ring goes with mask=window: a ring holds the window");
    }
}

} // namespace

double decode_bytes(problem const& p) {
    std::int64_t begin = p.keys, end = 0;
    for (std::int64_t i = 0; i < p.queries; ++i) {
        auto const span = keys_of(p, i);
        begin = std::min(begin, span.begin);
        end = std::max(end, span.end);
    }
    auto const row = static_cast<double>((p.dim + p.dim_v) * static_cast<std::int64_t>(bytes_of(p.dtype)) + (bytes_of(p.dtype) == 1 ? 2 * 4 : 0));
    return static_cast<double>(p.batch * p.kv_heads * std::max<std::int64_t>(end - begin, 0)) * row;
}

timed_case decode_case(problem const& p, std::uint64_t seed) {
    refuse_what_is_not_compiled(p);
    auto const run = run_of(p, seed);
    return case_of(p, run, decode_bytes(p), limit_name("read", p.threads));
}

} // namespace heed::bench
