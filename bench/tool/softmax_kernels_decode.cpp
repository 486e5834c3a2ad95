// SPDX-License-Identifier: BSD-3-Clause
// The decoding cases: keys and values go into a paged cache, queries through the decode engine.
#include "softmax_call.hpp"

namespace heed::tool::kernels {

namespace {

template <class T, class M>
void decode_with(softmax_problem<T> const& p, M const& mechanism) {
    extent_t const B = p.k.extent(0), M_longest = p.k.extent(2), page = 16;
    auto cache = make_cache<T>(mechanism, {B, p.k.extent(1), M_longest, p.k.extent(3), p.v.extent(3)}, paged{page, B * ((M_longest + page - 1) / page)});
    append(cache, p.k, p.v);
    heed::decode(mechanism, p.q, cache, p.out, save{p.lse});
}

} // namespace

template <class T>
void decode(softmax_problem<T> const& p) {
    if (p.sinks.data_handle() != nullptr) {
        decode_with(p, attention{scaled_dot(p), heed::full{}, softmax_sink{p.sinks}});
    } else {
        decode_with(p, attention{scaled_dot(p), heed::full{}, softmax{}});
    }
}
HEED_TOOL_INSTANTIATE(decode);

} // namespace heed::tool::kernels
