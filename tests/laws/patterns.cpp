// SPDX-License-Identifier: BSD-3-Clause
// One relation, written in two ways.
#include "law.hpp"

using namespace heed_test;

namespace {

template <class A, class B>
void same_results(problem<float>& p, A const& a, B const& b) {
    problem<float> other = same_inputs(p);
    p.run(a);
    other.run(b);
    require_same(p, other);
}
template <class M>
void close_results(M const& m, problem<float> const& a, problem<float> const& b) {
    require_close(a.out, b.out, out_bound(m, a));
    require_close(a.lse, b.lse, log_bound(m, a));
}
tensor<std::uint8_t> draw_mask(sizes const& n) {
    random_source random = draw_source();
    tensor<std::uint8_t> t(heed::shape{draw(0, 1) != 0 ? n.batch : 1, draw(0, 1) != 0 ? n.heads : 1, n.queries, n.keys});
    double const chance = random.pick({0.03, 0.3, 0.9});
    t.each([&](std::uint8_t& x) { x = random.chance(chance) ? 1 : 0; });
    return t;
}

} // namespace

TEST_CASE("laws: windows", "[laws]") {
    law("a window over everything keeps everything", [] {
        problem<float> p = draw_problem();
        extent_t const wide = p.n.queries + p.n.keys + draw(0, 1000);
        same_results(p, heed::softmax_attention(heed::window{wide, wide}), heed::softmax_attention());
    });
    law("a window of one gives the row's own value", [] {
        problem<float> p = draw_problem();
        p.run(heed::softmax_attention(heed::window{1}));
        tensor<float> own(p.out.shape());
        own.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t d) {
            extent_t const j = i + p.n.keys - p.n.queries;
            x = j < 0 ? 0.0f : p.v(b, h / (p.n.heads / p.n.kv_heads), j, d);
        });
        require_same(p.out, own);
    });
}

TEST_CASE("laws: masks", "[laws]") {
    law("a mask is a bias of 0 and -infinity", [] {
        problem<float> p = draw_problem();
        auto const flags = draw_mask(p.n);
        tensor<float> bias(flags.shape());
        bias.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t j) {
            x = flags(b, h, i, j) != 0 ? 0.0f : -std::numeric_limits<float>::infinity();
        });
        problem<float> other = same_inputs(p);
        auto const m = heed::softmax_attention(heed::mask{flags.in()});
        p.run(m);
        other.run(heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::bias{bias.in()}});
        close_results(m, p, other);
    });
    law("a mask of bits is a mask of bytes", [] {
        problem<float> p = draw_problem();
        auto const flags = draw_mask(p.n);
        heed::shape s = flags.shape();
        s.feature = (s.feature + 7) / 8;
        tensor<std::uint8_t> bits(s);
        bits.fill(0);
        for (extent_t b = 0; b < s.batch; ++b)
            for (extent_t h = 0; h < s.head; ++h)
                for (extent_t i = 0; i < s.seq; ++i)
                    for (extent_t j = 0; j < p.n.keys; ++j) {
                        auto& byte = bits(b, h, i, j / 8);
                        byte = static_cast<std::uint8_t>(byte | (flags(b, h, i, j) << (j % 8)));
                    }
        same_results(p, heed::softmax_attention(heed::bit_mask{bits.in()}), heed::softmax_attention(heed::mask{flags.in()}));
    });
}

TEST_CASE("laws: documents and lengths", "[laws]") {
    law("documents are calls of their own", [] {
        sizes n = draw_sizes();
        extent_t const count = draw(1, 4);
        std::vector<extent_t> q_starts{0}, k_starts{0};
        for (extent_t c = 0; c < count; ++c) {
            q_starts.push_back(q_starts.back() + draw(1, 50));
            k_starts.push_back(k_starts.back() + draw(0, 50));
        }
        n.queries = q_starts.back();
        n.keys = k_starts.back();
        problem<float> p = draw_problem(n);
        auto const ids = [&](std::vector<extent_t> const& starts) {
            tensor<std::int32_t> t(heed::shape{1, 1, starts.back(), 1});
            t.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t i, extent_t) {
                x = static_cast<std::int32_t>(std::upper_bound(starts.begin(), starts.end(), i) - starts.begin());
            });
            return t;
        };
        auto const q_ids = ids(q_starts), k_ids = ids(k_starts);
        auto const m = heed::softmax_attention(heed::documents{q_ids.in(), k_ids.in()});
        p.run(m);
        double const out_allowed = out_bound(m, p), log_allowed = log_bound(m, p);
        for (std::size_t c = 0; c + 1 < q_starts.size(); ++c) {
            extent_t const queries = q_starts[c + 1] - q_starts[c], keys = k_starts[c + 1] - k_starts[c];
            problem<float> alone = problem_of(rows(p.q.in(), q_starts[c], queries), rows(p.k.in(), k_starts[c], keys), rows(p.v.in(), k_starts[c], keys));
            alone.run(heed::softmax_attention());
            require_close(alone.out.in(), rows(p.out.in(), q_starts[c], queries), out_allowed);
            require_close(alone.lse.in(), rows(p.lse.in(), q_starts[c], queries), log_allowed);
        }
    });
    law("keys beyond the length are no keys", [] {
        problem<float> p = draw_problem();
        std::vector<std::int32_t> lengths;
        for (extent_t b = 0; b < p.n.batch; ++b) { lengths.push_back(static_cast<std::int32_t>(draw(0, p.n.keys))); }
        auto const m = heed::softmax_attention(heed::key_lengths{heed::per_batch<std::int32_t const>(lengths.data(), p.n.batch)});
        p.run(m);
        for (extent_t b = 0; b < p.n.batch; ++b) {
            extent_t const keys = lengths[static_cast<std::size_t>(b)];
            problem<float> cut = problem_of(entry(p.q.in(), b), rows(entry(p.k.in(), b), 0, keys), rows(entry(p.v.in(), b), 0, keys));
            cut.run(heed::softmax_attention());
            require_close(cut.out.in(), entry(p.out.in(), b), out_bound(m, p));
            require_close(cut.lse.in(), entry(p.lse.in(), b), log_bound(m, p));
        }
    });
    law("no prefix leaves the causal mask", [] {
        problem<float> p = draw_problem();
        std::int32_t const none = 0;
        same_results(p, heed::softmax_attention(heed::prefix{heed::per_batch<std::int32_t const>(&none, 1)}),
                     heed::softmax_attention(heed::causal_bottom_right{}));
    });
}
