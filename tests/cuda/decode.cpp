// SPDX-License-Identifier: BSD-3-Clause
// Decode by the generic engine of the GPU against the engine that walks pair by pair, sequence by sequence.
#include "gpu_problem.hpp"

using namespace heed_test;

namespace {

// A cache on both machines, and new queries for it. rows: of an entry or a page.
template <class E>
struct step_on_gpu {
    heed::cache_kind kind;
    std::vector<extent_t> lengths;
    extent_t pages_of_sequence = 0;
    tensor<E> k, v, q, out;
    tensor<float> lse;
    tensor<std::int32_t> table; // paged: {1, 1, B, pages}
    std::string engine{};

    step_on_gpu(heed::cache_kind what, std::vector<extent_t> n, extent_t rows, sizes s, random_source& random)
        : kind(what), lengths(std::move(n)), pages_of_sequence(what == heed::cache_kind::paged ? (s.keys + rows - 1) / rows : 1),
          k({s.batch * pages_of_sequence, s.kv_heads, rows, s.width}), v({s.batch * pages_of_sequence, s.kv_heads, rows, s.value_width}), q(s.q()), out(s.out()), lse(s.lse()),
          table({1, 1, s.batch, pages_of_sequence}) {
        for (auto* t : {&k, &v, &q}) { t->normal(random); }
        extent_t const all = s.batch * pages_of_sequence; // pages in an order of their own
        table.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t b, extent_t p) { x = static_cast<std::int32_t>(((b * pages_of_sequence + p) * 7 + 3) % all); });
    }
    heed::cache_view<E> cache(heed::tensor_view<E> keys, heed::tensor_view<E> values, std::int32_t const* pages) {
        heed::cache_view<E> c{kind, keys, values, std::span<extent_t>(lengths), {}, {}, {}};
        if (kind == heed::cache_kind::paged) { c.table = {heed::block_table::trusted{}, pages, static_cast<extent_t>(lengths.size()), pages_of_sequence, k.shape().batch}; }
        return c;
    }
    template <class M>
    bool run(M const& m) {
        device_tensor<E> const dk(k), dv(v), dq(q), dout(out);
        device_tensor<float> const dlse(lse);
        device_stream const stream;
        std::int32_t* pages = nullptr; // both read the table
        on_device(cudaMallocHost(reinterpret_cast<void**>(&pages), static_cast<std::size_t>(table.shape().size()) * sizeof(std::int32_t)));
        std::copy_n(table.view().data_handle(), table.shape().size(), pages);
        engine = decode_on_gpu<M, E>(m, dq.in(), cache(dk.view(), dv.view(), pages), dout.view(), dlse.view(), stream);
        stream.wait();
        on_device(cudaFreeHost(pages));
        return dout.back(out) && dlse.back(lse) && out.intact() && lse.intact();
    }
    // Every sequence by itself, its keys brought together.
    template <class M>
    std::string against(M const& m, double of_largest, bool with_lse) {
        auto const c = cache(k.view(), v.view(), table.view().data_handle());
        verdict found;
        for (std::size_t n = 0; n < lengths.size(); ++n) {
            extent_t const b = static_cast<extent_t>(n), M_ = lengths[n], H = q.shape().head, Hkv = k.shape().head, N = q.shape().seq, D = q.shape().feature, Dv = v.shape().feature;
            tensor<double> qd({1, H, N, D}), kd({1, Hkv, M_, D}), vd({1, Hkv, M_, Dv}), exact({1, H, N, Dv}), saved({1, H, N, 1});
            qd.each_at([&](double& x, extent_t, extent_t h, extent_t i, extent_t d) { x = static_cast<double>(q(b, h, i, d)); });
            auto const gather = [&](tensor<double>& to, tensor<E> const& from) {
                to.each_at([&](double& x, extent_t, extent_t h, extent_t j, extent_t d) {
                    auto const at = c.kind == heed::cache_kind::ring ? typename heed::cache_view<E>::location{b, j % from.shape().seq, 1} : c.locate(b, j);
                    x = static_cast<double>(from(at.entry, h, at.row, d));
                });
            };
            gather(kd, k);
            gather(vd, v);
            if constexpr (heed::detail::kept_of<decltype(M::normalizer)>() > 0) {
                heed::forward(m, qd.in(), kd.in(), vd.in(), exact.view(), heed::reference{}, heed::save{saved.view()});
            } else {
                heed::forward(m, qd.in(), kd.in(), vd.in(), exact.view(), heed::reference{});
            }
            double largest = 0;
            exact.each([&](double x) { largest = std::fmax(largest, std::fabs(x)); });
            exact.each_at([&](double x, extent_t, extent_t h, extent_t i, extent_t d) {
                double const step = heed::is_half<E> ? 0.501 * spacing(x, 8) : 0;
                found.look("out", b, h, i, d, static_cast<double>(out(b, h, i, d)), x, of_largest * largest + step);
            });
            if (with_lse) {
                saved.each_at([&](double x, extent_t, extent_t h, extent_t i, extent_t) { found.look("lse", b, h, i, 0, static_cast<double>(lse(b, h, i, 0)), x, 4e-6 * (1 + std::fabs(x))); });
            }
        }
        return found.text;
    }
};

char const* const generic = "cuda.simt.pairwise.decode";

} // namespace

TEST_CASE("cuda decode: keys are split and grouped heads share them") {
    HEED_SEEDED;
    random_source random(31);
    for (sizes const n : {sizes{3, 8, 2, 1, 700, 64, 64}, sizes{3, 6, 1, 3, 700, 100, 70}, sizes{3, 2, 2, 2, 5000, 128, 128}, sizes{3, 1, 1, 1, 64, 5, 300}, sizes{3, 2, 1, 9, 130, 0, 3}}) {
        step_on_gpu<float> p(heed::cache_kind::contiguous, {n.keys, n.queries, n.keys / 2 + 7}, n.keys, n, random);
        INFO(n);
        REQUIRE(p.run(on_gpu::causal{}));
        CHECK(p.engine == generic);
        CHECK(p.against(on_gpu::causal{}, 4e-6, true) == "");
    }
}

TEST_CASE("cuda decode: rings and pages with sinks in 16 bits") {
    HEED_SEEDED;
    random_source random(32);
    sizes const n{3, 8, 2, 2, 800, 40, 64};
    tensor<float> sinks({1, n.heads, 1, 1});
    sinks.normal(random);
    device_tensor<float> const dsinks(sinks);
    auto const mech = [](auto const& s) { return on_gpu::sunk{{}, heed::window{100}, heed::softmax_sink<float>{s}}; };
    for (auto const kind : {heed::cache_kind::ring, heed::cache_kind::paged}) {
        step_on_gpu<heed::bf16> p(kind, {800, 2, 333}, kind == heed::cache_kind::ring ? 101 : 16, n, random);
        REQUIRE(p.run(mech(dsinks.in())));
        CHECK(p.engine == generic);
        CHECK(p.against(mech(sinks.in()), 4e-6, true) == "");
    }
}

TEST_CASE("cuda decode: what lies behind a length is never read") {
    HEED_SEEDED;
    random_source random(33);
    sizes const n{2, 4, 2, 1, 300, 32, 48};
    step_on_gpu<float> p(heed::cache_kind::contiguous, {123, 200}, n.keys, n, random);
    p.k.each_at([&](float& x, extent_t b, extent_t, extent_t j, extent_t) { x = j >= p.lengths[static_cast<std::size_t>(b)] ? std::nanf("") : x; });
    p.v.each_at([&](float& x, extent_t b, extent_t, extent_t j, extent_t) { x = j >= p.lengths[static_cast<std::size_t>(b)] ? std::nanf("") : x; });
    REQUIRE(p.run(on_gpu::causal{}));
    CHECK(p.against(on_gpu::causal{}, 4e-6, true) == "");
}

TEST_CASE("cuda decode: tropical parts join exactly") {
    HEED_SEEDED;
    random_source random(34);
    sizes const n{2, 4, 2, 2, 900, 20, 36};
    step_on_gpu<float> p(heed::cache_kind::contiguous, {900, 77}, n.keys, n, random);
    REQUIRE(p.run(on_gpu::tropical_step{}));
    CHECK(p.engine == generic);
    CHECK(p.against(on_gpu::tropical_step{}, 2e-6, false) == "");
}
