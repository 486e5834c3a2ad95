// SPDX-License-Identifier: BSD-3-Clause
#include "pair_count.hpp"

#include <algorithm>

namespace heed::bench {

namespace {

// sum over 0 <= i < n of clamp(i + first, 0, m): the pairs below a diagonal.
std::int64_t pairs_below(std::int64_t first, std::int64_t n, std::int64_t m) {
    auto const ramp_begin = std::clamp<std::int64_t>(1 - first, 0, n); // i + first >= 1 from here
    auto const ramp_end = std::clamp<std::int64_t>(m - first, 0, n);   // i + first >= m from here
    auto const steps = std::max<std::int64_t>(ramp_end - ramp_begin, 0);
    auto const ramp = steps * (ramp_begin + first) + steps * (steps - 1) / 2;
    return ramp + (n - std::max(ramp_end, ramp_begin)) * m;
}

} // namespace

bool attends(problem const& p, std::int64_t query, std::int64_t key) {
    auto const diagonal = query + p.keys - p.queries; // bottom right
    switch (p.mask) {
    case mask_kind::full:
        return true;
    case mask_kind::causal:
        return key <= diagonal;
    case mask_kind::window:
        return key <= diagonal && key > diagonal - p.window;
    case mask_kind::document:
        return document_of(query, p.queries, p.documents) == document_of(key, p.keys, p.documents);
    }
    return false;
}

std::int64_t pairs_per_head(problem const& p) {
    auto const n = p.queries, m = p.keys, shift = m - n;
    switch (p.mask) {
    case mask_kind::full:
        return n * m;
    case mask_kind::causal:
        return pairs_below(shift + 1, n, m);
    case mask_kind::window:
        return pairs_below(shift + 1, n, m) - pairs_below(shift + 1 - p.window, n, m);
    case mask_kind::document: {
        std::int64_t pairs = 0;
        auto const extent = [&](std::int64_t d, std::int64_t length) {
            return document_begin(d + 1, length, p.documents) - document_begin(d, length, p.documents);
        };
        for (std::int64_t d = 0; d < p.documents; ++d) pairs += extent(d, n) * extent(d, m);
        return pairs;
    }
    }
    return 0;
}

key_span keys_of(problem const& p, std::int64_t query) {
    auto const end = std::clamp<std::int64_t>(query + p.keys - p.queries + 1, 0, p.keys);
    switch (p.mask) {
    case mask_kind::full:
        break;
    case mask_kind::causal:
        return {0, end};
    case mask_kind::window:
        return {std::clamp<std::int64_t>(query + p.keys - p.queries + 1 - p.window, 0, end), end};
    case mask_kind::document: {
        auto const d = document_of(query, p.queries, p.documents);
        return {document_begin(d, p.keys, p.documents), document_begin(d + 1, p.keys, p.documents)};
    }
    }
    return {0, p.keys};
}

double flops(problem const& p) {
    double const forward = static_cast<double>(pairs_per_head(p)) * static_cast<double>(p.batch * p.heads) * 2.0 * static_cast<double>(p.dim + p.dim_v);
    return p.verb == "backward" ? 2.5 * forward : forward; // five products for two
}

double bytes(problem const& p) {
    auto const queries = p.heads * p.queries, keys = p.kv_heads * p.keys, width = p.dim + p.dim_v;
    auto elements = p.batch * (queries + keys) * width;
    if (p.bias == bias_kind::row) elements += p.keys;
    if (p.bias == bias_kind::full) elements += p.heads * p.queries * p.keys;
    return static_cast<double>(elements) * static_cast<double>(bytes_of(p.dtype));
}

} // namespace heed::bench
