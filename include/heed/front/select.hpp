// SPDX-License-Identifier: BSD-3-Clause
// Selectors: they look at q and k and return a pattern. What they return is data (block_bits, or lists of blocks with their scores); the attention over it
// is an ordinary mechanism, with its forward, backward and decode. No gradient passes through a choice.
//
//   block_summaries means(k, block);                            one mean a block; append(k_new) extends it, for decode
//   block_bits const chosen = select_moba(q, k, means, top);    MoBA: own block, and the top - 1 earlier ones by q . mean
//   forward(moba_attention(chosen.map(1, block)), q, k, v, out);
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/block_select.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/policy/pattern/block_bits.hpp>
#include <heed/policy/select/rules.hpp>
#include <heed/view/adapt.hpp>

#include <memory>
#include <span>
#include <vector>

namespace heed {

namespace detail {

template <class A, class E, class Executor>
void block_means_checked(tensor_view<E const> const& k, extent_t block, tensor_view<compute_t<E>> const& means, Executor& executor) {
    using engine = block_means<E, A>;
    extent_t const items = means.extent(0) * means.extent(1) * means.extent(2);
    int const most = concurrency_of(executor), slots = items < most ? static_cast<int>(items) : most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[line_bytes + static_cast<std::size_t>(slots) * engine::slot_bytes(k.extent(3))]);
    engine::run(k, block, means, executor, slots, memory.get());
}

} // namespace detail

// Means of the blocks of keys, {B, Hkv, blocks, d}, with memory of their own. Blocks of a sequence count from its start; the last one may be short.
template <class T>
class block_summaries {
    extent_t block_, batch_, heads_, width_, room_;
    std::vector<extent_t> lengths_;
    std::vector<T> means_;

public:
    // Room for `tokens` keys of every sequence, none of them there yet.
    block_summaries(extent_t batch, extent_t heads, extent_t tokens, extent_t width, extent_t block)
        : block_(block), batch_(batch), heads_(heads), width_(width), room_(block < 1 ? 0 : (tokens + block - 1) / block), lengths_(static_cast<std::size_t>(batch)),
          means_(static_cast<std::size_t>(batch * heads * room_ * width)) {
        if (block < 1) { HEED_THROW(shape_error(sentence("heed: blocks of ", block, " keys; a block has at least one"))); }
    }
    // The means of the keys k (B, Hkv, M, d). Option: a backend.
    template <class A = native_arch, class K, class... Options>
        requires(!std::is_arithmetic_v<K> && (detail::is_backend<Options> && ...))
    block_summaries(K const& k_in, extent_t block, Options const&... options)
        : block_summaries(as_view(k_in).extent(0), as_view(k_in).extent(1), as_view(k_in).extent(2), as_view(k_in).extent(3), block) {
        auto const k = as_view(k_in);
        using E = typename decltype(k)::value_type;
        static_assert(std::is_same_v<compute_t<E>, T>, "heed: summaries are of the type of computation: float for float, bf16 and fp16, double for double");
        auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
        for (extent_t b = 0; b < batch_; ++b) { lengths_[static_cast<std::size_t>(b)] = k.length(b); }
        detail::block_means_checked<A>(tensor_view<E const>(k), block, tensor_view<T>(means_.data(), shape_of()), backend.executor);
    }
    // New keys (B, Hkv, n, d) behind the last of each sequence: the means that they change. Throws shape_error where they do not fit.
    template <class K>
    void append(K const& k_in) {
        auto const k = as_view(k_in);
        if (k.extent(0) != batch_ || k.extent(1) != heads_ || k.extent(3) != width_) {
            HEED_THROW(shape_error(sentence("heed: new keys have ", k.extent(0), " batch entries, ", k.extent(1), " heads and ", k.extent(3), " features; the summaries have ", batch_, ", ", heads_, " and ", width_)));
        }
        for (extent_t b = 0; b < batch_; ++b) {
            if (length(b) + k.length(b) > room_ * block_) { HEED_THROW(shape_error(sentence("heed: sequence ", b, " has ", length(b), " keys and no room in the summaries for ", k.length(b), " more"))); }
        }
        for (extent_t b = 0; b < batch_; ++b) {
            for (extent_t n = 0; n < k.length(b); ++n) {
                extent_t const at = length(b) + n, before = at % block_;
                for (extent_t h = 0; h < heads_; ++h) {
                    T* const mean = means_.data() + ((b * heads_ + h) * room_ + at / block_) * width_;
                    T const part = T(1) / static_cast<T>(before + 1);
                    for (extent_t e = 0; e < width_; ++e) { mean[e] += (static_cast<T>(k(b, h, n, e)) - mean[e]) * part; }
                }
            }
            lengths_[static_cast<std::size_t>(b)] += k.length(b);
        }
    }
    extent_t block() const { return block_; }
    extent_t length(extent_t b) const { return lengths_[static_cast<std::size_t>(b)]; }
    extent_t blocks() const { return room_; }
    tensor_view<T const> means() const { return {means_.data(), shape_of()}; }
    tensor_view<T> memory() { return {means_.data(), shape_of()}; }
    std::size_t bytes() const { return means_.size() * sizeof(T); }

private:
    shape shape_of() const { return {batch_, heads_, room_, width_}; }
};

namespace detail {

template <class A, class Rule, class E, class Executor>
void select_checked(Rule const& rule, block_select_problem<E> const& x, Executor& executor) {
    using door = detail::door<A>;
    using engine = block_select<Rule, E, A>;
    argument const args[] = {argument::of("q", x.q), argument::of("the summaries", x.summary), argument::of("k", x.k)};
    static constexpr axis_rule rules[] = {{1, axis::batch, rule_kind::equal, 0, axis::batch}, {0, axis::head, rule_kind::multiple, 1, axis::head}, {1, axis::feature, rule_kind::equal, 0, axis::feature},
                                          {2, axis::batch, rule_kind::equal, 0, axis::batch}};
    door::check_axes(args, 2, rules, 3);
    if (x.block < 1 || x.top < 1) { door::refuse(sentence<A>("heed: a choice of ", x.top, " blocks of ", x.block, " keys; both are at least 1")); }
    if (x.summary.extent(3) > 1 && x.summary.stride(3) != 1) { door::refuse("heed: features of the summaries lie side by side"); }
    if ((x.k.extent(2) + x.block - 1) / x.block > x.summary.extent(2)) {
        door::refuse(sentence<A>("heed: ", x.k.extent(2), " keys in blocks of ", x.block, " and ", x.summary.extent(2), " summaries; each block needs one"));
    }
    extent_t const items = engine::items(x);
    if (items == 0) { return; }
    int const most = concurrency_of(executor), slots = items < most ? static_cast<int>(items) : most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[line_bytes + static_cast<std::size_t>(slots) * engine::slot_bytes(x)]);
    engine::run(rule, x, executor, slots, memory.get());
}

} // namespace detail

// Lists of chosen blocks and their scores, {B, S, N, top}, from the best down: -1 and -inf where there was none to choose.
template <class T>
struct block_lists {
    std::vector<std::int32_t> list;
    std::vector<T> score;
    shape s;
    tensor_view<std::int32_t const> lists() const { return {list.data(), s}; }
    tensor_view<T const> scores() const { return {score.data(), s}; }
};

// The best `top` blocks of every query by a rule (heed/policy/select/rules.hpp) on scale * q . summary. q (B, H, N, d), summaries (B, G, blocks, d); keys: a
// tensor with the sequence lengths of k. Option: a backend. Bits do not depend on threads. Throws shape_error.
template <class A = native_arch, class Rule, class Q, class S, class K, class... Options>
auto select_lists(Rule const& rule, Q const& q_in, S const& summaries, K const& keys, extent_t block, extent_t top, double scale, Options const&... options) {
    static_assert(!Rule::shared, "heed: heads that choose together need the log-sum-exp of the compressed attention; see select_nsa");
    auto const q = as_view(q_in);
    using E = typename decltype(q)::value_type;
    using T = compute_t<E>;
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    block_lists<T> to;
    to.s = {q.extent(0), q.extent(1), q.extent(2), top < 0 ? 0 : top};
    to.list.assign(static_cast<std::size_t>(to.s.size()), -1);
    to.score.assign(to.list.size(), -math::inf<T>());
    block_select_problem<E> x{q, as_view(summaries), as_view(keys), block, top, static_cast<T>(scale)};
    x.lists = {to.list.data(), to.s}, x.scores = {to.score.data(), to.s};
    detail::select_checked<A>(rule, x, backend.executor);
    return to;
}

// MoBA (Lu et al., arXiv:2502.13189): bits {B, H, N, blocks} of the own block and the top - 1 earlier ones whose mean key has the greatest product with q,
// unscaled; of equal ones the earliest. Attention: moba_attention(bits.map(1, means.block())).
template <class A = native_arch, class Q, class K, class T, class... Options>
block_bits select_moba(Q const& q_in, K const& k_in, block_summaries<T> const& means, extent_t top, Options const&... options) {
    auto const q = as_view(q_in);
    auto const k = as_view(k_in);
    using E = typename decltype(q)::value_type;
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    block_bits to(q.extent(0), q.extent(1), q.extent(2), (k.extent(2) + means.block() - 1) / means.block());
    block_select_problem<E> x{q, means.means(), k, means.block(), top};
    x.bits = to.bits();
    detail::select_checked<A>(moba_rule{}, x, backend.executor);
    return to;
}

// Native sparse attention (Yuan et al., arXiv:2502.11089): bits {B, Hkv, N, blocks} of the own, the first and the previous block, and of those of the greatest
// probability in the compressed attention (softmax of scale * q . mean over the blocks wholly in the past, mean over the heads of a group), `top` in all.
// lse (B, H, N, 1): natural log-sum-exp of that attention, which its forward saves. Attention: bits.map(1, block, H / Hkv).
template <class A = native_arch, class Q, class K, class T, class L, class... Options>
block_bits select_nsa(Q const& q_in, K const& k_in, block_summaries<T> const& means, L const& lse, double scale, extent_t top, Options const&... options) {
    auto const q = as_view(q_in);
    auto const k = as_view(k_in);
    using E = typename decltype(q)::value_type;
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    block_bits to(q.extent(0), k.extent(1), q.extent(2), (k.extent(2) + means.block() - 1) / means.block());
    block_select_problem<E> x{q, means.means(), k, means.block(), top, static_cast<T>(scale)};
    x.lse = as_view(lse), x.bits = to.bits();
    detail::door<A>::check_view("lse", x.lse.shape(), {q.extent(0), q.extent(1), q.extent(2), 1}, false);
    detail::select_checked<A>(nsa_rule{}, x, backend.executor);
    return to;
}

} // namespace heed
