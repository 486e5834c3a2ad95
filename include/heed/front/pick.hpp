// SPDX-License-Identifier: BSD-3-Clause
// Experts that pick tokens (Routing Transformer's clusters, arXiv:2003.05997; MoSA's heads, arXiv:2505.00315): each of S experts of a head takes the w tokens of
// the sequence that score highest for it, attends among them, and its rows go back to where they were picked. A token may be picked by many experts or none.
//
//   picked_tokens const of_q = pick_tokens(scores, w);                 scores {B, S, w', N}: of S groups of w' experts, one row of N tokens each
//   gather_tokens(of_q, q, q_picked);                                  {B, S w', w, d}: heads of their own
//   forward(any attention, q_picked, k_picked, v_picked, out_picked);  positions{of_q.at(), of_k.at()} is the order of time among them
//   scatter_tokens(of_q, out_picked, weights, out);                    sums, each row times a weight
//   gather and scatter are each other's adjoints.
// No gradient passes through the choice. Of equal scores the earliest token.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/front/check.hpp>
#include <heed/kernel/half.hpp>
#include <heed/view/adapt.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

namespace heed {

// Tokens of every expert, rising: {B, experts, w, 1}.
class picked_tokens {
    std::vector<std::int32_t> at_;
    shape s_{};

public:
    picked_tokens(shape s, std::vector<std::int32_t> at) : at_(std::move(at)), s_(s) {}
    // Lists {B, experts, w, 1} from elsewhere: numbers in [0, tokens), each once in a row; sorted here. Throws shape_error, naming the position.
    picked_tokens(tensor_view<std::int32_t const> lists, extent_t tokens) : at_(static_cast<std::size_t>(lists.shape().size())), s_(lists.shape()) {
        for (extent_t row = 0; row < s_.batch * s_.head; ++row) {
            auto const first = at_.begin() + static_cast<std::ptrdiff_t>(row * s_.seq);
            for (extent_t n = 0; n < s_.seq; ++n) {
                std::int32_t const token = lists(row / s_.head, row % s_.head, n, 0);
                if (token < 0 || token >= tokens) {
                    HEED_THROW(shape_error(sentence("heed: token ", token, " at batch ", row / s_.head, ", expert ", row % s_.head, ", place ", n, "; there are ", tokens, " tokens")));
                }
                first[n] = token;
            }
            std::sort(first, first + s_.seq);
            auto const twice = std::adjacent_find(first, first + s_.seq);
            if (twice != first + s_.seq) { HEED_THROW(shape_error(sentence("heed: token ", *twice, " stands twice in the list of batch ", row / s_.head, ", expert ", row % s_.head))); }
        }
    }
    tensor_view<std::int32_t const> at() const { return {at_.data(), s_}; }
    shape extents() const { return s_; }
};

// The w tokens of the greatest scores of every row of scores {B, S, E, N}, as lists {B, S E, w, 1}. NaN comes last. Throws shape_error unless 0 <= w <= N.
template <class Scores>
picked_tokens pick_tokens(Scores const& scores_in, extent_t w) {
    auto const scores = as_view(scores_in);
    shape const s = scores.shape();
    if (w < 0 || w > s.feature) { HEED_THROW(shape_error(sentence("heed: an expert picks ", w, " of ", s.feature, " tokens"))); }
    std::vector<std::int32_t> order(static_cast<std::size_t>(s.feature)), at;
    at.reserve(static_cast<std::size_t>(s.batch * s.head * s.seq * w));
    for (extent_t row = 0; row < s.batch * s.head * s.seq; ++row) {
        auto const* const x = scores.row(row / s.seq / s.head, row / s.seq % s.head, row % s.seq);
        auto const value = [&](std::int32_t n) { return x[n * scores.stride(3)]; };
        auto const first = [&](std::int32_t a, std::int32_t b) {
            auto const va = value(a), vb = value(b);
            bool const na = va != va, nb = vb != vb;
            return na != nb ? nb : va > vb || (!(vb > va) && a < b);
        };
        std::iota(order.begin(), order.end(), 0);
        auto const end = order.begin() + static_cast<std::ptrdiff_t>(w);
        if (end != order.end()) { std::nth_element(order.begin(), end, order.end(), first); }
        std::sort(order.begin(), end);
        at.insert(at.end(), order.begin(), end);
    }
    return {shape{s.batch, s.head * s.seq, w, 1}, std::move(at)};
}

namespace detail {
// f(batch, expert, place, head of x, token) for every pick; x {B, H, N, d}, H a divisor of the experts.
template <class F>
void for_each_pick(picked_tokens const& picked, shape x, F const& f) {
    shape const s = picked.extents();
    if (s.batch != x.batch || x.head < 1 || s.head % x.head != 0) {
        HEED_THROW(shape_error(sentence("heed: ", s.head, " experts in ", s.batch, " batch entries and a tensor of ", x.head, " heads in ", x.batch, "; experts are a multiple of the heads")));
    }
    auto const at = picked.at();
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t e = 0; e < s.head; ++e)
            for (extent_t n = 0; n < s.seq; ++n) { f(b, e, n, e / (s.head / x.head), static_cast<extent_t>(at(b, e, n, 0))); }
}
} // namespace detail

// to {B, experts, w, d} = rows of x {B, H, N, d}; expert e picks from head e div (experts / H).
template <class X, class To>
void gather_tokens(picked_tokens const& picked, X const& x_in, To&& to_in) {
    auto const x = as_view(x_in);
    auto const to = as_view(to_in);
    detail::for_each_pick(picked, x.shape(), [&](extent_t b, extent_t e, extent_t n, extent_t h, extent_t token) {
        for (extent_t c = 0; c < x.extent(3); ++c) { to(b, e, n, c) = x(b, h, token, c); }
    });
}
// to {B, H, N, d} += weight of the pick * rows {B, experts, w, d}; weight(b, e, n, token).
template <class X, class To, class Weight>
void scatter_tokens(picked_tokens const& picked, X const& rows_in, To&& to_in, Weight const& weight) {
    auto const rows = as_view(rows_in);
    auto const to = as_view(to_in);
    detail::for_each_pick(picked, to.shape(), [&](extent_t b, extent_t e, extent_t n, extent_t h, extent_t token) {
        auto const w = weight(b, e, n, h, token);
        for (extent_t c = 0; c < to.extent(3); ++c) { to(b, h, token, c) += w * rows(b, e, n, c); }
    });
}
// How many experts of a head picked each token, {B, H, N, 1}.
inline std::vector<std::int32_t> picks_of_tokens(picked_tokens const& picked, extent_t heads, extent_t tokens) {
    shape const x{picked.extents().batch, heads, tokens, 1};
    std::vector<std::int32_t> count(static_cast<std::size_t>(x.size()));
    detail::for_each_pick(picked, x, [&](extent_t b, extent_t, extent_t, extent_t h, extent_t token) { ++count[static_cast<std::size_t>((b * heads + h) * tokens + token)]; });
    return count;
}

} // namespace heed
