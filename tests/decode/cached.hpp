// SPDX-License-Identifier: BSD-3-Clause
// A decoding step for tests: sequences of different lengths, their keys and values as plain tensors and in caches of every kind, whose memory lies
// against protected pages and holds NaN wherever no token is.
#pragma once

#include <oracle/softmax.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/decode.hpp>
#include <heed/policy/pattern/tree.hpp>

#include <algorithm>
#include <vector>

namespace heed_test {

struct step_sizes {
    extent_t kv_heads = 1, group = 1, tokens = 1, width = 1, value_width = 1;
    std::vector<extent_t> lengths{}; // of the sequences, new tokens included

    extent_t batch() const { return static_cast<extent_t>(lengths.size()); }
    extent_t longest() const { return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end()); }
    heed::shape q() const { return {batch(), kv_heads * group, tokens, width}; }
    heed::shape out() const { return {batch(), kv_heads * group, tokens, value_width}; }
    heed::shape lse() const { return {batch(), kv_heads * group, tokens, 1}; }
    heed::shape k() const { return {batch(), kv_heads, longest(), width}; }
    heed::shape v() const { return {batch(), kv_heads, longest(), value_width}; }

    friend std::ostream& operator<<(std::ostream& s, step_sizes const& n) {
        s << "Hkv=" << n.kv_heads << " group=" << n.group << " N=" << n.tokens << " d=" << n.width << " dv=" << n.value_width << " lengths";
        for (extent_t x : n.lengths) { s << ' ' << x; }
        return s;
    }
};

template <class T>
heed::tensor_view<T> first_rows(heed::tensor_view<T> t, extent_t b, extent_t count) {
    return {t.row(b, 0, 0), {1, t.extent(1), count, t.extent(3)}, t.strides()};
}

template <class T>
heed::tensor_view<T> rows_of(heed::tensor_view<T> t, extent_t position) {
    return {t.row(0, 0, position), {t.extent(0), t.extent(1), 1, t.extent(3)}, t.strides()};
}

// Queries, keys, values and a result.
template <class T>
struct step {
    step_sizes n;
    tensor<T> q, k, v, out, lse;

    step(step_sizes s, random_source& random) : n(s), q(s.q()), k(s.k()), v(s.v()), out(s.out(), place::upper_page), lse(s.lse()) {
        q.normal(random);
        k.normal(random);
        v.normal(random);
    }
    // The same by forward, sequence by sequence.
    template <class M>
    step expected(M const& m) const {
        step r = *this;
        for (extent_t b = 0; b < n.batch(); ++b) {
            extent_t const len = n.lengths[static_cast<std::size_t>(b)];
            heed::forward(m, first_rows(q.in(), b, n.tokens), first_rows(k.in(), b, len), first_rows(v.in(), b, len), first_rows(r.out.view(), b, n.tokens),
                          heed::save{first_rows(r.lse.view(), b, n.tokens)});
        }
        return r;
    }
    // In one call: for mechanisms whose data is for the whole batch. All lengths are equal.
    template <class M>
    step expected_whole(M const& m) const {
        step r = *this;
        if constexpr (decltype(M::normalizer)::kept == 0) {
            heed::forward(m, q.in(), k.in(), v.in(), r.out.view());
            r.lse.copy(lse.in());
        } else {
            heed::forward(m, q.in(), k.in(), v.in(), r.out.view(), heed::save{r.lse.view()});
        }
        return r;
    }
    template <class M, class C, class... Options>
    void decode(M const& m, C&& c, Options const&... options) {
        out.fill(std::numeric_limits<T>::quiet_NaN());
        lse.fill(std::numeric_limits<T>::quiet_NaN());
        heed::decode(m, q.in(), c, out.view(), heed::save{lse.view()}, options...);
    }
    step(step const& o) : n(o.n), q(o.q.shape()), k(o.k.shape()), v(o.v.shape()), out(o.out.shape()), lse(o.lse.shape()) {
        q.copy(o.q.in());
        k.copy(o.k.in());
        v.copy(o.v.in());
    }
};

template <class T>
std::string differ(step<T> const& a, step<T> const& b, double allowed) {
    verdict const out = compare_close<T>(a.out.in(), b.out.in(), allowed), lse = compare_close<T>(a.lse.in(), b.lse.in(), allowed);
    return out.good() ? lse.text : out.text;
}
template <class T>
bool same(step<T> const& a, step<T> const& b) {
    return same_bits(a.out, b.out) && same_bits(a.lse, b.lse);
}

enum class kind { contiguous, ring, paged };

// A cache in the caller's memory, filled from a step's keys and values in random portions.
template <class K, class V>
struct own_cache {
    tensor<K> k;
    tensor<V> v;
    tensor<float> k_scale, v_scale;
    std::vector<extent_t> lengths;
    std::vector<std::int32_t> table;
    heed::cache_view<K, V> view_;

    // rows: of an entry or a page; room: of a sequence
    own_cache(step_sizes const& n, kind what, extent_t rows, extent_t room, random_source& random, bool per_head = false) : lengths(n.lengths.size(), 0) {
        extent_t const pages_of_sequence = what == kind::paged ? (room + rows - 1) / rows : 1, entries = n.batch() * pages_of_sequence + (what == kind::paged ? 3 : 0);
        k = tensor<K>({entries, n.kv_heads, rows, n.width}, random.chance(0.5) ? place::upper_page : place::lower_page);
        v = tensor<V>({entries, n.kv_heads, rows, n.value_width}, random.chance(0.5) ? place::upper_page : place::lower_page);
        heed::shape const scales = per_head ? heed::shape{1, n.kv_heads, 1, 1} : heed::shape{entries, n.kv_heads, rows, 1};
        k_scale = tensor<float>(scales);
        v_scale = tensor<float>(scales);
        if (per_head) {
            k_scale.fill(0.05f);
            v_scale.fill(0.04f);
        }
        if (what == kind::paged) {
            std::vector<std::int32_t> order(static_cast<std::size_t>(entries));
            for (extent_t i = 0; i < entries; ++i) { order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i); }
            for (extent_t i = entries - 1; i > 0; --i) { std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.integer(0, i))]); }
            table.assign(order.begin(), order.begin() + n.batch() * pages_of_sequence);
            view_ = heed::paged_cache(k.view(), v.view(), lengths, heed::block_table(table, n.batch(), pages_of_sequence, entries), k_scale.view(), v_scale.view());
        } else if (what == kind::ring) {
            view_ = heed::ring_cache(k.view(), v.view(), lengths, k_scale.view(), v_scale.view());
        } else {
            view_ = heed::contiguous_cache(k.view(), v.view(), lengths, k_scale.view(), v_scale.view());
        }
    }
    heed::cache_view<K, V> const& view() const { return view_; }

    // Every sequence to its length, by appends of at most `most` tokens.
    template <class T>
    void fill(step<T> const& s, random_source& random, extent_t most) {
        std::vector<extent_t> at(lengths.size(), 0);
        for (bool more = true; more;) {
            more = false;
            std::vector<std::int64_t> starts{0};
            for (std::size_t b = 0; b < at.size(); ++b) {
                extent_t const left = s.n.lengths[b] - at[b], now = std::min(left, random.integer(0, most));
                starts.push_back(starts.back() + now);
                more = more || now < left;
            }
            extent_t const total = starts.back();
            tensor<T> kn(heed::shape{1, s.n.kv_heads, total, s.n.width}), vn(heed::shape{1, s.n.kv_heads, total, s.n.value_width});
            auto const take = [&](tensor<T>& to, tensor<T> const& from) {
                to.each_at([&](T& x, extent_t, extent_t h, extent_t i, extent_t e) {
                    std::size_t b = 0;
                    while (starts[b + 1] <= i) { ++b; }
                    x = from(static_cast<extent_t>(b), h, at[b] + i - starts[b], e);
                });
            };
            take(kn, s.k);
            take(vn, s.v);
            heed::ragged_offsets const offsets(std::span<std::int64_t const>(starts.data(), starts.size()));
            heed::append(view_, heed::ragged(kn.in(), offsets), heed::ragged(vn.in(), offsets));
            for (std::size_t b = 0; b < at.size(); ++b) { at[b] += starts[b + 1] - starts[b]; }
        }
    }
    bool intact() const { return k.intact() && v.intact() && k_scale.intact() && v_scale.intact(); }
};

} // namespace heed_test
