// SPDX-License-Identifier: BSD-3-Clause
// The rows of softmax attention: every backend, the forward verb here, the others by their own files.
#include "../baselines/eigen.hpp"
#include "../baselines/unfused.hpp"
#include "backward_case.hpp"
#include "decode_case.hpp"
#include "limit.hpp"
#include "list_syntax.hpp"
#include "pair_count.hpp"
#include "prepared_run.hpp"
#include "registry.hpp"
#include "row_check.hpp"
#include "team.hpp"

#include <type_traits>

namespace heed::bench {

namespace {

template <class T>
prepared_run prepare_eigen(problem const& p, operands<T> const& o, operand_store& store) {
    return {"Eigen: two products and a softmax of rows",
            [p, o, &store, bytes = eigen_scratch_bytes<T>(p)] { eigen_attention<T>(p, o, store.scratch(bytes)); }};
}

template <class T>
prepared_run prepare_unfused(problem const& p, operands<T> const& o, operand_store& store) {
    return {"unfused: all scores of a head written out, " + unfused_tile<T>(),
            [p, o, &store, bytes = unfused_scratch_bytes<T>(p)] { unfused_attention<T>(p, o, store.scratch(bytes)); }};
}

bool is_half_type(element type) { return type == element::bf16 || type == element::f16; }
bool is_plain(problem const& p) { return p.bias == bias_kind::none && p.softcap == 0 && !p.alibi; }

template <class T>
prepared_run prepare(problem const& p, operands<T> const& o, operand_store& store) {
    if constexpr (!is_half<T>) {
        if (p.backend == "eigen") { return prepare_eigen(p, o, store); }
        if (p.backend == "unfused") { return prepare_unfused(p, o, store); }
        if (p.backend == "reference") { return softmax_reference(p, o, store); }
    }
    if constexpr (std::is_same_v<T, float>) {
        if (p.isa == "avx2") { return softmax_avx2(p, o, store); }
        if (p.extra.contains("splits")) { return softmax_splits(p, o, store); }
        if (!is_plain(p)) { return softmax_scored(p, o, store); }
    }
    return softmax_plain(p, o, store);
}

// What bounds the products of an element type: elements of 16 bits are multiplied as floats, bf16 in pairs where the build can.
std::string arithmetic_limit(element type) {
    if (type == element::f64) { return "fma_f64"; }
    return type == element::bf16 && native::bf16_dot().run != nullptr ? "bf16_dot" : "fma_f32";
}

template <class T>
timed_case case_of(problem const& p, std::shared_ptr<operand_store> const& store) {
    timed_case c;
    c.name = name_of(p);
    c.threads = p.threads;
    c.flops = flops(p);
    c.bytes = bytes(p);
    c.limit = limit_name(arithmetic_limit(p.dtype), p.threads, p.isa);
    auto const prepared = std::make_shared<prepared_run>();
    c.prepare = [=] {
        auto const o = store->of<T>(p);
        *prepared = prepare<T>(p, o, *store);
        poison(p, o);
        return prepared->engine;
    };
    c.run = [=] { prepared->run(); };
    c.verify = [=] { return check_rows(p, store->of<T>(p), store->seed()); };
    return c;
}

// Why heed's own engines cannot run a problem here; empty when they can.
std::string missing_engine(problem const& p) {
    bool const triangle = p.mask == mask_kind::full || p.mask == mask_kind::causal;
    int const stages = (p.bias != bias_kind::none) + (p.softcap != 0) + p.alibi;
    if (p.isa == "avx2") {
        if (!has_softmax_avx2()) { return "this build has no AVX2 kernels beside its own"; }
        if (p.dtype != element::f32 || !triangle || stages != 0) { return "isa=avx2 is compiled for f32, mask=full and mask=causal alone"; }
        return {};
    }
    if (!p.isa.empty()) { return "this build has no kernels for isa=" + p.isa; }
    if (stages == 0) { return {}; }
    if (p.backend == "reference") { return "the reference engine is compiled without bias, softcap and alibi here"; }
    if (p.dtype != element::f32) { return "bias, softcap and alibi are compiled for f32 here"; }
    if (stages > 1) { return "bias, softcap and alibi are compiled one at a time here"; }
    if (!triangle) { return "bias, softcap and alibi are compiled with mask=full and mask=causal here"; }
    return {};
}

void refuse_what_is_not_compiled(problem const& p) {
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    bool const own = p.backend == "cpu" || p.backend == "reference";
    if (p.dtype == element::int8 || p.dtype == element::f8) { refuse("one-byte elements are for caches: --decode"); }
    for (auto const& [key, value] : p.extra) {
        if (key != "splits") { refuse("softmax has no setting '" + key + "'"); }
        auto const parts = parse_size(value);
        if (parts < 1 || parts > p.keys) { refuse("splits is a number of parts from 1 to the number of keys"); }
        if (p.backend != "cpu" || p.dtype != element::f32 || p.mask != mask_kind::full || !is_plain(p) || !p.isa.empty()) { refuse("splits is compiled for f32 with mask=full here"); }
    }
    if (!p.isa.empty() && p.backend != "cpu") { refuse("isa=" + p.isa + " goes with the cpu backend"); }
    if (p.threads > 1 && !has_teams()) { refuse("this build has no OpenMP, so one thread only"); }
    if (p.threads > 1 && p.backend == "reference") { refuse("the reference engine runs on one thread"); }
    if (is_half_type(p.dtype)) {
        if (p.backend != "cpu") { refuse("the backend " + p.backend + " is compiled for f32 and f64 here"); }
        if (p.mask != mask_kind::full && p.mask != mask_kind::causal) { refuse("bf16 and f16 are compiled with mask=full and mask=causal here"); }
    }
    if (auto const why = missing_engine(p); own && !why.empty()) { refuse(why); }
}

timed_case softmax_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    if (p.verb == "decode") { return decode_case(p, store->seed()); }
    if (p.verb == "backward") { return backward_case(p, store->seed()); }
    refuse_what_is_not_compiled(p);
    store->reserve(p);
    switch (p.dtype) {
    case element::f64: return case_of<double>(p, store);
    case element::bf16: return case_of<bf16>(p, store);
    case element::f16: return case_of<fp16>(p, store);
    default: return case_of<float>(p, store);
    }
}

row_registration const registration({"softmax", softmax_case});

} // namespace

} // namespace heed::bench
