// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_problem.hpp"

#include "failure.hpp"
#include "softmax_kernels.hpp"

namespace heed::tool {

namespace {

// The ingredients beyond scaled dot products and a band, as bits.
enum ingredient : unsigned {
    has_softcap = 1,
    has_bias = 2,
    has_alibi = 4,
    has_gates = 8,
    has_prefix = 16,
    has_lengths = 32,
    has_documents = 64,
    has_keep = 128,
    has_sinks = 256
};

template <class T>
unsigned ingredients(softmax_problem<T> const& p) {
    auto const bit = [](auto const& view, unsigned value) { return view.data_handle() ? value : 0u; };
    return (p.softcap > 0 ? has_softcap : 0u) | bit(p.bias, has_bias) | bit(p.slopes, has_alibi) | bit(p.log_gates, has_gates) |
           bit(p.prefix, has_prefix) | bit(p.key_lengths, has_lengths) | bit(p.query_ids, has_documents) | bit(p.keep, has_keep) |
           bit(p.sinks, has_sinks);
}

template <class T>
void attend_in_band(softmax_problem<T> const& p) {
    switch (p.mask) {
    case mask_kind::full:
        return kernels::full(p);
    case mask_kind::causal_top_left:
        return kernels::causal_top_left(p);
    case mask_kind::causal_bottom_right:
        return kernels::causal_bottom_right(p);
    case mask_kind::window:
        return kernels::window(p);
    }
}

} // namespace

template <class T>
void attend(softmax_problem<T> const& p) {
    if (p.out.shape().size() == 0 && p.lse.shape().size() == 0) { return; } // nothing to write, however long the keys
    unsigned const has = ingredients(p);
    bool const unmasked = p.mask == mask_kind::full, causal = p.mask == mask_kind::causal_bottom_right;
    if (has == 0) { return attend_in_band(p); }
    if (has == has_prefix && unmasked) { return kernels::prefix(p); }
    if (has == has_lengths && unmasked) { return kernels::key_lengths(p); }
    if (has == has_documents && causal) { return kernels::documents_causal(p); }
    if (has == has_keep && unmasked) { return kernels::boolean_mask(p); }
    if (has == has_bias && unmasked) { return kernels::bias_full(p); }
    if (has == has_alibi) { return kernels::alibi_window(p); }
    if (has == has_softcap) { return kernels::softcap_window(p); }
    if (has == has_gates) { return kernels::forgetting_window(p); }
    if (has == has_sinks) { return kernels::sink_window(p); }
    if (has & has_gates) { throw not_supported("forgetting gates together with other ingredients are not supported"); }
    if (has & has_softcap) { return kernels::everything_capped(p); }
    kernels::everything(p);
}

template <class T>
void attend_gradients(softmax_problem<T> const& p) {
    if (p.dq.shape().size() == 0 && p.dk.shape().size() == 0 && p.dv.shape().size() == 0) { return; }
    unsigned const has = ingredients(p);
    if (has == 0) { return p.mask == mask_kind::causal_bottom_right ? kernels::causal_gradients(p) : kernels::window_gradients(p); }
    if (has == has_softcap) { return kernels::softcap_gradients(p); }
    if (has == has_gates) { return kernels::forgetting_gradients(p); }
    if (has & (has_softcap | has_gates)) { throw not_supported("gradients of a soft cap or of forgetting gates together with other ingredients are not supported"); }
    kernels::everything_gradients(p);
}

template void attend<float>(softmax_problem<float> const&);
template void attend<double>(softmax_problem<double> const&);
template void attend_gradients<float>(softmax_problem<float> const&);
template void attend_gradients<double>(softmax_problem<double> const&);

} // namespace heed::tool
