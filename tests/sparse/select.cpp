// SPDX-License-Identifier: BSD-3-Clause
// Selectors against choices made by plain loops, the laws of routed attention, and what its pieces refuse. The numbers themselves are the golden files'.
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/hsa_decode.hpp>
#include <heed/front/nsa.hpp>
#include <heed/mechanism/moba.hpp>
#include <heed/policy/pattern/groups.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

using namespace heed_test;

namespace {

sizes some_sizes(random_source& random, extent_t least = 1) {
    sizes n;
    n.batch = random.integer(1, 2);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 3);
    n.keys = random.integer(least, 200);
    n.queries = random.integer(1, n.keys);
    n.width = random.integer(1, 20);
    n.value_width = random.integer(1, 20);
    return n;
}
bool close(tensor<double> const& a, tensor<double> const& b, double bound = 1e-12) {
    bool good = true;
    tensor<double> x(a.shape());
    x.each_at([&](double&, extent_t i, extent_t h, extent_t n, extent_t d) { good = good && std::abs(a(i, h, n, d) - b(i, h, n, d)) <= bound; });
    return good;
}
// Mean key of a block, by plain sums.
double mean_product(problem<double> const& p, extent_t b, extent_t h, extent_t i, extent_t block, extent_t c) {
    extent_t const end = std::min(p.n.keys, (c + 1) * block), kv = h / (p.n.heads / p.n.kv_heads);
    double sum = 0;
    for (extent_t j = c * block; j < end; ++j)
        for (extent_t e = 0; e < p.n.width; ++e) { sum += p.q(b, h, i, e) * p.k(b, kv, j, e); }
    return sum / static_cast<double>(end - c * block);
}
// Rows of one (b, h, i).
template <class F>
void each_row(sizes const& n, extent_t heads, F const& f) {
    for (extent_t b = 0; b < n.batch; ++b)
        for (extent_t h = 0; h < heads; ++h)
            for (extent_t i = 0; i < n.queries; ++i) { f(b, h, i); }
}
// The `top` greatest of a row as a set.
std::vector<extent_t> best_of(std::vector<double> const& score, extent_t top) {
    std::vector<extent_t> order;
    for (extent_t c = 0; c < static_cast<extent_t>(score.size()); ++c) {
        if (score[static_cast<std::size_t>(c)] > -INFINITY) { order.push_back(c); }
    }
    std::stable_sort(order.begin(), order.end(), [&](extent_t x, extent_t y) { return score[static_cast<std::size_t>(x)] > score[static_cast<std::size_t>(y)]; });
    order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
    return order;
}
void same_choice(heed::block_bits const& bits, extent_t b, extent_t h, extent_t i, std::vector<double> const& score, extent_t top) {
    auto const want = best_of(score, top);
    for (extent_t c = 0; c < bits.blocks(); ++c) {
        INFO("batch " << b << " head " << h << " query " << i << " block " << c << " top " << top);
        REQUIRE(bits.keeps(b, h, i, c) == (std::find(want.begin(), want.end(), c) != want.end()));
    }
}

} // namespace

TEST_CASE("MoBA: the blocks that plain loops choose, on any number of threads", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(720);
    for (int trial = 0; trial < 12; ++trial) {
        sizes const n = some_sizes(random);
        problem<double> p(n, random);
        extent_t const block = random.integer(1, 40), top = random.integer(1, 6), blocks = (n.keys + block - 1) / block;
        thread_team team{3};
        heed::block_summaries<double> const means(p.k.in(), block, heed::cpu{team});
        auto const chosen = trial % 2 == 0 ? heed::select_moba(p.q.in(), p.k.in(), means, top) : heed::select_moba(p.q.in(), p.k.in(), means, top, heed::cpu{team});
        each_row(n, n.heads, [&](extent_t b, extent_t h, extent_t i) {
            extent_t const own = (i + n.keys - n.queries) / block;
            std::vector<double> score(static_cast<std::size_t>(blocks), -INFINITY);
            for (extent_t c = 0; c < own; ++c) { score[static_cast<std::size_t>(c)] = mean_product(p, b, h, i, block, c); }
            score[static_cast<std::size_t>(own)] = INFINITY;
            same_choice(chosen, b, h, i, score, top);
        });
    }
}

TEST_CASE("MoBA: enough blocks are causal attention, one block is its own, and the future does not matter", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(721);
    for (int trial = 0; trial < 6; ++trial) {
        sizes const n = some_sizes(random, 2);
        problem<double> p(n, random), other = copied(p);
        extent_t const block = random.integer(1, 50), blocks = (n.keys + block - 1) / block;
        auto const attend = [&](problem<double>& to, extent_t top) {
            heed::block_summaries<double> const means(to.k.in(), block);
            auto const chosen = heed::select_moba(to.q.in(), to.k.in(), means, top);
            to.run(heed::moba_attention(chosen.map(1, block)));
        };
        attend(p, blocks);
        heed::causal_bottom_right const causal;
        heed::forward(heed::chosen_attention(heed::any_pattern(causal), heed::inv_sqrt<double>(n.width)), other.q.in(), other.k.in(), other.v.in(), other.out.view(), heed::save{other.lse.view()});
        REQUIRE(close(p.out, other.out));
        REQUIRE(close(p.lse, other.lse));

        attend(p, 1);
        std::vector<std::int32_t> const size(1, static_cast<std::int32_t>(block)), zero(1, 0);
        auto const own = heed::head_groups{heed::per_head<std::int32_t const>(size.data(), 1), heed::per_head<std::int32_t const>(zero.data(), 1)} & causal;
        heed::forward(heed::chosen_attention(heed::any_pattern(own), heed::inv_sqrt<double>(n.width)), other.q.in(), other.k.in(), other.v.in(), other.out.view());
        REQUIRE(close(p.out, other.out));

        extent_t const cut = random.integer(n.keys - n.queries, n.keys - 1); // keys behind it change
        attend(p, 2);
        problem<double> later = copied(p);
        later.k.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t) { x = j > cut ? random.normal() * 10 : x; });
        later.v.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t) { x = j > cut ? NAN : x; });
        attend(later, 2);
        each_row(n, n.heads, [&](extent_t b, extent_t h, extent_t i) {
            for (extent_t e = 0; i + n.keys - n.queries <= cut && e < n.value_width; ++e) { REQUIRE(p.out(b, h, i, e) == later.out(b, h, i, e)); }
        });
    }
}

TEST_CASE("block summaries: appending gives the means of the whole", "[sparse]") {
    HEED_SEEDED;
    random_source random(722);
    sizes const n = some_sizes(random, 60);
    problem<double> p(n, random);
    heed::block_summaries<double> const whole(p.k.in(), 7);
    heed::block_summaries<double> step(n.batch, n.kv_heads, n.keys, n.width, 7);
    for (extent_t at = 0; at < n.keys;) {
        extent_t const count = std::min(n.keys - at, random.integer(1, 9));
        step.append(heed::tensor_view<double const>(p.k.in().row(0, 0, at), {n.batch, n.kv_heads, count, n.width}, p.k.in().strides()));
        at += count;
    }
    for (extent_t b = 0; b < n.batch; ++b)
        for (extent_t h = 0; h < n.kv_heads; ++h)
            for (extent_t c = 0; c < whole.blocks(); ++c)
                for (extent_t e = 0; e < n.width; ++e) { REQUIRE(std::abs(whole.means()(b, h, c, e) - step.means()(b, h, c, e)) < 1e-13); }
    CHECK_THROWS_WITH(step.append(p.k.in()), contains("no room in the summaries"));
    CHECK_THROWS_WITH(heed::select_moba(p.q.in(), p.k.in(), step, 0), contains("a choice of 0 blocks"));
    heed::block_summaries<double> const few(n.batch, n.kv_heads, 7, n.width, 7);
    CHECK_THROWS_WITH(heed::select_moba(p.q.in(), p.k.in(), few, 1), contains("each block needs one"));
}

TEST_CASE("native sparse attention: the choice of plain loops, and its branches alone", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(723);
    for (int trial = 0; trial < 6; ++trial) {
        sizes const n = some_sizes(random, 2);
        problem<double> p(n, random), causal = copied(p);
        extent_t const block = random.integer(1, 20), top = random.integer(3, 6), blocks = (n.keys + block - 1) / block, group = n.heads / n.kv_heads;
        heed::causal_bottom_right const before;
        heed::forward(heed::chosen_attention(heed::any_pattern(before), heed::inv_sqrt<double>(n.width)), causal.q.in(), causal.k.in(), causal.v.in(), causal.out.view());
        tensor<double> zero(n.lse()), one(n.lse());
        zero.fill(0), one.fill(1);
        auto const run = [&](extent_t size, extent_t count, extent_t window, tensor<double> const& c, tensor<double> const& s, tensor<double> const& w) {
            return heed::forward(heed::nsa{size, count, window, c.in(), s.in(), w.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        };
        auto const saved = run(block, top, 5, one, one, one);
        each_row(n, n.kv_heads, [&](extent_t b, extent_t g, extent_t i) {
            extent_t const t = i + n.keys - n.queries, own = t / block, past = (t + 1) / block;
            std::vector<double> score(static_cast<std::size_t>(blocks), -INFINITY);
            for (extent_t c = 0; c <= own; ++c) { score[static_cast<std::size_t>(c)] = 0; }
            for (extent_t h = g * group; h < (g + 1) * group; ++h) {
                double sum = 0;
                for (extent_t c = 0; c < past; ++c) { sum += std::exp(mean_product(p, b, h, i, block, c) / std::sqrt(static_cast<double>(n.width))); }
                for (extent_t c = 0; c < past; ++c) { score[static_cast<std::size_t>(c)] += std::exp(mean_product(p, b, h, i, block, c) / std::sqrt(static_cast<double>(n.width))) / sum; }
            }
            if (own > 0) { score[static_cast<std::size_t>(own - 1)] = 1e6; }
            score[0] = 2e6, score[static_cast<std::size_t>(own)] = 3e6;
            same_choice(saved.chosen, b, g, i, score, top);
        });
        run(block, blocks, 5, zero, one, zero); // every block chosen
        REQUIRE(close(p.out, causal.out));
        run(block, top, n.keys, zero, zero, one); // a window over everything
        REQUIRE(close(p.out, causal.out));
        run(1, top, 0, one, zero, zero); // blocks of one token are their own means
        REQUIRE(close(p.out, causal.out));
    }
    sizes const n{1, 2, 1, 4, 4, 3, 3};
    problem<double> p(n, random);
    tensor<double> gate(n.lse()), wrong(heed::shape{1, 2, 3, 1});
    CHECK_THROWS_WITH(heed::forward(heed::nsa{2, 2, 0, gate.in(), wrong.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("the gate of the selected branch"));
    CHECK_THROWS_WITH(heed::forward(heed::nsa{0, 2, 0, gate.in(), gate.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("nsa{block 0"));
}

TEST_CASE("native sparse attention over latents: absorbed queries give the rows of expanded keys and values", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(726);
    for (int trial = 0; trial < 3; ++trial) {
        extent_t const N = random.integer(10, 60), d = 6, r = 9, dv = 5;
        problem<double> naive({1, 1, 1, N, N, d, dv}, random), latent({1, 1, 1, N, N, r, r}, random);
        tensor<double> up_k(heed::shape{1, 1, r, d}), up_v(heed::shape{1, 1, r, dv}), gate[3] = {tensor<double>(naive.n.lse()), tensor<double>(naive.n.lse()), tensor<double>(naive.n.lse())};
        up_k.normal(random), up_v.normal(random), latent.v.copy(latent.k.in());
        for (auto& g : gate) { g.each([&](double& x) { x = random.uniform(); }); }
        auto const map = [&](tensor<double>& to, tensor<double> const& from, auto const& weight) {
            to.each_at([&](double& x, extent_t, extent_t, extent_t n, extent_t e) {
                x = 0;
                for (extent_t c = 0; c < from.shape().feature; ++c) { x += from(0, 0, n, c) * weight(c, e); }
            });
        };
        map(naive.k, latent.k, [&](extent_t c, extent_t e) { return up_k(0, 0, c, e); }), map(naive.v, latent.k, [&](extent_t c, extent_t e) { return up_v(0, 0, c, e); });
        map(latent.q, naive.q, [&](extent_t e, extent_t c) { return up_k(0, 0, c, e); });
        heed::nsa m{random.integer(2, 8), 4, 7, gate[0].in(), gate[1].in(), gate[2].in()};
        heed::forward(m, naive.q.in(), naive.k.in(), naive.v.in(), naive.out.view());
        m.factor = heed::inv_sqrt<double>(d);
        heed::forward(m, latent.q.in(), latent.k.in(), latent.v.in(), latent.out.view());
        tensor<double> expanded(naive.n.out());
        map(expanded, latent.out, [&](extent_t c, extent_t e) { return up_v(0, 0, c, e); });
        REQUIRE(close(expanded, naive.out, 1e-11));
    }
}

TEST_CASE("retrieved chunks: order, weights and their gradient", "[sparse]") {
    HEED_SEEDED;
    random_source random(724);
    extent_t const B = 2, S = 2, N = 37, chunk = 5, slots = 3, d = 6, chunks = (N + chunk - 1) / chunk;
    tensor<double> e(heed::shape{B, S, N, d}), marks(heed::shape{B, S, chunks, d});
    e.normal(random), marks.normal(random);
    for (auto const kind : {heed::chunk_weights::stick_breaking, heed::chunk_weights::softmax}) {
        auto const choice = heed::retrieve_chunks(e.in(), marks.in(), e.in(), chunk, slots, kind);
        for (extent_t row = 0; row < B * S * N; ++row) {
            extent_t const t = row % N, past = t / chunk, b = row / N / S, h = row / N % S;
            double rest = 1, sum = 0, total = 0;
            std::vector<double> score(static_cast<std::size_t>(past));
            for (extent_t c = 0; c < past; ++c) {
                for (extent_t x = 0; x < d; ++x) { score[static_cast<std::size_t>(c)] += e(b, h, t, x) * marks(b, h, c, x) / std::sqrt(double(d)); }
            }
            auto want = best_of(score, slots);
            std::sort(want.rbegin(), want.rend());
            for (extent_t const c : want) { total += std::exp(score[static_cast<std::size_t>(c)]); }
            for (extent_t x = 0; x < slots; ++x) {
                bool const there = x < static_cast<extent_t>(want.size());
                REQUIRE(choice.lists()(b, h, t, x) == (there ? want[static_cast<std::size_t>(x)] : -1));
                double const p = there ? 1 / (1 + std::exp(-score[static_cast<std::size_t>(want[static_cast<std::size_t>(x)])])) : 0;
                double const w = !there ? 0 : kind == heed::chunk_weights::softmax ? std::exp(score[static_cast<std::size_t>(want[static_cast<std::size_t>(x)])]) / total : rest * p;
                REQUIRE(choice.weights()(b, h, t, x) == approx(w).margin(1e-14));
                rest *= 1 - p;
                sum += w;
            }
            REQUIRE(sum <= 1 + 1e-12);
        }
        // gradient of sum of c w by the scores, by central differences
        std::vector<double> c(choice.weight.size()), got(choice.weight.size());
        for (double& x : c) { x = random.normal(); }
        heed::chunk_score_gradient<double>(choice, kind, c, got);
        auto const weights_at = [&](std::size_t row, std::vector<double> const& a) {
            std::vector<double> w(static_cast<std::size_t>(slots));
            double rest = 1, total = 0;
            for (std::size_t x = 0; x < w.size(); ++x) { total += choice.list[row + x] < 0 ? 0 : std::exp(a[x]); }
            for (std::size_t x = 0; x < w.size(); ++x) {
                if (choice.list[row + x] < 0) { continue; }
                double const p = 1 / (1 + std::exp(-a[x]));
                w[x] = kind == heed::chunk_weights::softmax ? std::exp(a[x]) / total : rest * p;
                rest *= 1 - p;
            }
            return w;
        };
        for (std::size_t row = 0; row < c.size(); row += slots) {
            for (std::size_t x = 0; x < static_cast<std::size_t>(slots); ++x) {
                std::vector<double> a(choice.score.begin() + static_cast<std::ptrdiff_t>(row), choice.score.begin() + static_cast<std::ptrdiff_t>(row + slots)), b = a;
                if (choice.list[row + x] < 0) {
                    REQUIRE(got[row + x] == 0);
                    continue;
                }
                a[x] += 1e-5, b[x] -= 1e-5;
                auto const up = weights_at(row, a), down = weights_at(row, b);
                double slope = 0;
                for (std::size_t y = 0; y < up.size(); ++y) { slope += c[row + y] * (up[y] - down[y]) / 2e-5; }
                REQUIRE(got[row + x] == approx(slope).margin(1e-8));
            }
        }
    }
    // three chunks of score 0: 1/2, 1/4, 1/8
    CHECK(heed::retrieve_chunks(tensor<double>(heed::shape{1, 1, 16, 1}).fill(0).in(), tensor<double>(heed::shape{1, 1, 4, 1}).fill(0).in(), tensor<double>(heed::shape{1, 1, 16, 1}).in(), 4, 3, heed::chunk_weights::stick_breaking)
              .weights()(0, 0, 15, 2) == 0.125);
}

TEST_CASE("retrieved chunks: one chunk of weight one is attention to it, no chunk is nothing", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(725);
    sizes const n{1, 4, 2, 21, 21, 5, 6};
    problem<double> p(n, random), dense = copied(p);
    tensor<std::int32_t> list(heed::shape{1, 2, 21, 2});
    tensor<double> weight(heed::shape{1, 2, 21, 2});
    list.each_at([](std::int32_t& x, extent_t, extent_t, extent_t i, extent_t s) { x = s == 0 && i >= 6 ? 0 : -1; });
    weight.each_at([](double& x, extent_t, extent_t, extent_t, extent_t s) { x = s == 0 ? 1 : 0.5; });
    heed::forward(heed::hsa{6, list.in(), weight.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view());
    heed::tensor_view<double const> const k(p.k.in().data_handle(), {1, 2, 6, 5}, p.k.in().strides()), v(p.v.in().data_handle(), {1, 2, 6, 6}, p.v.in().strides());
    heed::full const all;
    heed::forward(heed::chosen_attention(heed::any_pattern(all), heed::inv_sqrt<double>(n.width)), p.q.in(), k, v, dense.out.view());
    each_row(n, n.heads, [&](extent_t b, extent_t h, extent_t i) {
        for (extent_t e = 0; e < n.value_width; ++e) { REQUIRE(p.out(b, h, i, e) == approx(i >= 6 ? dense.out(b, h, i, e) : 0).margin(1e-13)); }
    });
    list(0, 1, 3, 1) = 4;
    CHECK_THROWS_WITH(heed::forward(heed::hsa{6, list.in(), weight.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("block 4 at batch 0, head 1, row 3"));
    CHECK_THROWS_WITH(heed::forward(heed::hsa{0, list.in(), weight.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("chunks of 0 keys"));
}

TEST_CASE("retrieved chunks: steps against a cache give the rows of forward", "[sparse]") {
    HEED_SEEDED;
    random_source random(763);
    extent_t const B = 2, chunk = 7, slots = 3, r = 4;
    sizes const n{B, 4, 2, 61, 61, 6, 5};
    problem<double> p(n, random);
    tensor<double> e(heed::shape{B, 2, 61, r}), marks(heed::shape{B, 2, 9, r});
    e.normal(random), marks.normal(random);
    auto const all = heed::retrieve_chunks(e.in(), marks.in(), e.in(), chunk, slots, heed::chunk_weights::stick_breaking);
    heed::forward(heed::hsa{chunk, all.lists(), all.weights()}, p.q.in(), p.k.in(), p.v.in(), p.out.view());
    heed::hsa_cache<double> cache({B, 2, 61, 6, 5}, chunk, 2, r);
    auto const rows = [](tensor<double> const& x, extent_t from, extent_t count) { return heed::tensor_view<double const>(x.in().row(0, 0, from), {x.shape().batch, x.shape().head, count, x.shape().feature}, x.in().strides()); };
    extent_t complete = 0;
    for (extent_t at = 0; at < 61;) {
        extent_t const count = std::min(61 - at, random.integer(1, 4)), end = at + count;
        cache.append(rows(p.k, at, count), rows(p.v, at, count));
        if (end / chunk > complete) { cache.append_landmarks(rows(marks, complete, end / chunk - complete)); }
        complete = end / chunk;
        auto const choice = cache.retrieve(rows(e, at, count), slots, heed::chunk_weights::stick_breaking);
        tensor<double> out(heed::shape{B, 4, count, 5});
        heed::decode(heed::hsa{chunk, choice.lists(), choice.weights()}, rows(p.q, at, count), cache, out.view());
        out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t c) { REQUIRE(std::abs(x - p.out(b, h, at + i, c)) < 1e-12); });
        at = end;
    }
    CHECK_THROWS_WITH(cache.append_landmarks(rows(marks, 0, 1)), contains("a landmark stands for a complete chunk"));
    heed::hsa_cache<double> late({B, 2, 61, 6, 5}, chunk, 2, r);
    late.append(rows(p.k, 0, 20), rows(p.v, 0, 20));
    CHECK_THROWS_WITH(late.retrieve(rows(e, 0, 1), slots, heed::chunk_weights::softmax), contains("every chunk before the last has one"));
}
