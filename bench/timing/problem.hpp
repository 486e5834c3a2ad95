// SPDX-License-Identifier: BSD-3-Clause
// A problem: everything that decides what one row of the benchmark computes, and the row's name.
#pragma once

#include "list_syntax.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace heed::bench {

enum class mask_kind { full, causal, window, document };
enum class bias_kind { none, row, full };
enum class element { f32, f64, bf16, f16, int8, f8 }; // f8: e4m3; bytes are caches' only
constexpr int element_types = 6;

struct problem {
    std::string mechanism = "softmax";
    std::string verb = "forward";
    element dtype = element::f32;
    std::int64_t batch = 1, heads = 8, kv_heads = 8, queries = 1024, keys = 1024, dim = 64, dim_v = 64;
    int threads = 1;

    mask_kind mask = mask_kind::full; // causal and window are aligned bottom right
    std::int64_t window = 256;        // query i sees the last `window` keys up to its own
    std::int64_t documents = 4;       // packed sequences of unequal length
    bias_kind bias = bias_kind::none; // row: one number per key; full: one per head, query and key
    double softcap = 0;               // 0: none
    bool alibi = false;
    std::string isa; // empty: the instruction set of the build
    std::string backend = "cpu";
    settings extra; // a mechanism's own

    bool operator==(problem const&) const = default;
};

// mechanism/verb/dtype/B/H/K/N/M/D/Dv/T, then every setting that is not the default, sorted by key.
std::string name_of(problem const& p);
problem parse_name(std::string_view name); // throws usage_error

// The rows of the machine's limits: limit/<what>/T, with isa= where it is not the build's own.
std::string limit_name(std::string_view what, int threads, std::string_view isa = "");
bool is_limit(std::string_view name);

// Applies the key=value pairs of --set. window=w and documents=n choose their mask unless mask= is there too; a key
// that is not one of ours lands in extra.
void apply_settings(settings const& s, problem& p);
void check(problem const& p); // usage_error for shapes that mean nothing

std::size_t bytes_of(element type);
std::string_view text_of(element type);
element parse_element(std::string_view text); // throws usage_error

// Position p of a sequence of `length` belongs to document document_of(p, length, documents).
std::int64_t document_of(std::int64_t position, std::int64_t length, std::int64_t documents);
std::int64_t document_begin(std::int64_t document, std::int64_t length, std::int64_t documents);

} // namespace heed::bench
