// SPDX-License-Identifier: BSD-3-Clause
#include "backward_case.hpp"

#include "limit.hpp"
#include "pair_count.hpp"
#include "team.hpp"

#include <heed/kernel/half.hpp>

namespace heed::bench {

template <>
std::shared_ptr<owned_run> make_backward_run<float>(problem const& p, std::uint64_t seed);
template <>
std::shared_ptr<owned_run> make_backward_run<bf16>(problem const& p, std::uint64_t seed);

namespace {

void refuse_what_is_not_compiled(problem const& p) {
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.dtype != element::f32 && p.dtype != element::bf16) refuse("backward is compiled for f32 and bf16 here");
    if (p.backend != "cpu" || !p.isa.empty()) refuse("backward runs on the cpu backend, with the build's own instruction set");
    if (p.bias != bias_kind::none || p.softcap != 0 || p.alibi) refuse("backward is compiled without bias, softcap and alibi here");
    if (p.mask == mask_kind::document || (p.mask == mask_kind::window && p.dtype != element::f32)) refuse("backward is compiled with mask=full and causal, and for f32 with window here");
    if (!p.extra.empty()) refuse("backward has no setting '" + p.extra.begin()->first + "'");
    if (p.threads > 1 && !has_teams()) refuse("this build has no OpenMP, so one thread only");
}

// What is read and written once: q, k, v, out and dout, and the gradients of q, k and v.
double backward_bytes(problem const& p) {
    auto const queries = p.heads * p.queries, keys = p.kv_heads * p.keys;
    return static_cast<double>(p.batch * (2 * queries * (p.dim + p.dim_v) + 2 * keys * (p.dim + p.dim_v))) * static_cast<double>(bytes_of(p.dtype));
}

} // namespace

timed_case backward_case(problem const& p, std::uint64_t seed) {
    refuse_what_is_not_compiled(p);
    auto const run = p.dtype == element::bf16 ? make_backward_run<bf16>(p, seed) : make_backward_run<float>(p, seed);
    return case_of(p, run, backward_bytes(p), limit_name("fma_f32", p.threads));
}

} // namespace heed::bench
