// SPDX-License-Identifier: BSD-3-Clause
// Decode on the GPU, by the generic engine and on tensor cores, against the engine that walks pair by pair, sequence by sequence.
#include "gpu_problem.hpp"

#include <numeric>

using namespace heed_test;

namespace {

heed::strides dense(heed::shape s) { return heed::row_major(s); }
// Rows at multiples of 16 bytes, something between them.
heed::strides in_parts(heed::shape s) {
    extent_t const row = s.feature / 8 * 8 + 16, head = row * s.seq + 8;
    return {head * s.head + 8, head, row, 1};
}

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

    step_on_gpu(heed::cache_kind what, std::vector<extent_t> n, extent_t rows, sizes s, random_source& random, heed::strides (*lie)(heed::shape) = dense)
        : kind(what), lengths(std::move(n)), pages_of_sequence(what == heed::cache_kind::paged ? (s.keys + rows - 1) / rows : 1), k(rows_of(s, rows, s.width, lie)),
          v(rows_of(s, rows, s.value_width, lie)), q(s.q()), out(s.out()), lse(s.lse()), table({1, 1, s.batch, pages_of_sequence}) {
        for (auto* t : {&k, &v, &q}) { t->normal(random); }
        extent_t const all = s.batch * pages_of_sequence; // pages in an order of their own
        extent_t step = 7;
        while (std::gcd(step, all) != 1) { ++step; }
        table.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t b, extent_t p) { x = static_cast<std::int32_t>(((b * pages_of_sequence + p) * step + 3) % all); });
    }
    tensor<E> rows_of(sizes const& s, extent_t rows, extent_t width, heed::strides (*lie)(heed::shape)) const {
        heed::shape const all{s.batch * pages_of_sequence, s.kv_heads, rows, width};
        return tensor<E>(all, lie(all), heed_test::place::margin);
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
                double step = 0;
                if constexpr (heed::is_half<E>) { step = 0.501 * spacing(x, E::digits); }
                found.look("out", b, h, i, d, static_cast<double>(out(b, h, i, d)), x, of_largest * largest + step);
            });
            if (with_lse) {
                saved.each_at([&](double x, extent_t, extent_t h, extent_t i, extent_t) { found.look("lse", b, h, i, 0, static_cast<double>(lse(b, h, i, 0)), x, 4e-6 * (1 + std::fabs(x))); });
            }
        }
        return found.text;
    }
};

char const *const generic = "cuda.simt.pairwise.decode", *const tensor_cores = "cuda.tensor.pairwise.decode";

// A causal window with sinks, over views of either machine.
struct with_sinks {
    extent_t window;
    tensor<float> sinks;
    device_tensor<float> there;
    with_sinks(sizes const& n, extent_t w, random_source& random) : window(w), sinks({1, n.heads, 1, 1}), there(sinks.normal(random)) {}
    on_gpu::sunk of(heed::tensor_view<float const> s) const { return {{}, heed::window{window}, heed::softmax_sink<float>{s}}; }
    on_gpu::sunk on_device() const { return of(there.in()); }
    on_gpu::sunk on_host() const { return of(sinks.in()); }
};

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

TEST_CASE("cuda decode: 16 bits run on tensor cores at every size") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(35);
    for (sizes const n : {sizes{3, 8, 2, 1, 700, 64, 64}, sizes{3, 6, 1, 3, 700, 100, 70}, sizes{3, 2, 2, 2, 5000, 128, 128}, sizes{3, 32, 1, 1, 900, 128, 96}, sizes{3, 8, 1, 8, 300, 192, 128}, sizes{3, 1, 1, 1, 64, 5, 250},
                          sizes{150, 2, 1, 1, 90, 32, 64}}) {
        std::vector<extent_t> lengths{n.keys, n.queries, n.keys / 2 + 7};
        for (extent_t b = 3; b < n.batch; ++b) { lengths.push_back(b * 17 % n.keys); }
        with_sinks const mechs(n, n.keys, random);
        step_on_gpu<heed::bf16> p(heed::cache_kind::contiguous, lengths, n.keys, n, random, in_parts);
        INFO(n);
        REQUIRE(p.run(mechs.on_device()));
        CHECK(p.engine == tensor_cores);
        CHECK(p.against(mechs.on_host(), 4e-3, true) == "");
    }
}

TEST_CASE("cuda decode: rings and pages with sinks on tensor cores") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(32);
    sizes const n{3, 8, 2, 2, 800, 40, 64};
    with_sinks const mechs(n, 100, random);
    for (extent_t const rows : {101, 16, 5, 128}) {
        step_on_gpu<heed::bf16> p(rows == 101 ? heed::cache_kind::ring : heed::cache_kind::paged, {800, 2, 333}, rows, n, random);
        INFO(rows);
        REQUIRE(p.run(mechs.on_device()));
        CHECK(p.engine == tensor_cores);
        CHECK(p.against(mechs.on_host(), 4e-3, true) == "");
    }
}

TEST_CASE("cuda decode: drafted tokens with a softcap and slopes on tensor cores") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(36);
    for (sizes const n : {sizes{2, 8, 1, 8, 500, 128, 128}, sizes{2, 4, 2, 5, 300, 64, 48}}) {
        tensor<float> slopes({1, n.heads, 1, 1});
        slopes.fill(0.03f);
        tensor<std::uint64_t> bits({1, 1, n.queries, 1});
        bits.each_at([&](std::uint64_t& x, extent_t, extent_t, extent_t i, extent_t) { x = (std::uint64_t(0x5a35) | std::uint64_t(1) << i) & ((std::uint64_t(1) << (i + 1)) - 1); });
        device_tensor<float> const dslopes(slopes);
        device_tensor<std::uint64_t> const dbits(bits);
        auto const mech = [](auto const& s, auto const& b) { return on_gpu::drafted{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap<float>{3.0f} | heed::alibi<float>{s}, heed::tree{b}, {}}; };
        step_on_gpu<heed::fp16> p(heed::cache_kind::paged, {n.keys, n.queries + 3}, 32, n, random);
        INFO(n);
        REQUIRE(p.run(mech(dslopes.in(), dbits.in())));
        CHECK(p.engine == tensor_cores);
        CHECK(p.against(mech(slopes.in(), bits.in()), 1e-3, true) == "");
    }
}

TEST_CASE("cuda decode: rows that are no multiples of 16 bytes apart and wide ones fall to the generic engine") {
    HEED_SEEDED;
    random_source random(37);
    for (sizes const n : {sizes{1, 2, 1, 1, 70, 64, 64}, sizes{1, 2, 1, 1, 70, 264, 64}}) {
        with_sinks const mechs(n, n.keys, random);
        step_on_gpu<heed::bf16> p(heed::cache_kind::contiguous, {n.keys}, n.keys, n, random, [](heed::shape s) { return padded(s, s.feature == 64 ? 3 : 0); });
        REQUIRE(p.run(mechs.on_device()));
        CHECK(p.engine == generic);
        CHECK(p.against(mechs.on_host(), 4e-3, true) == "");
    }
}

TEST_CASE("cuda decode: tensor cores give the same bits again, and never read behind a length") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(38);
    sizes const n{3, 8, 2, 1, 3000, 128, 128};
    with_sinks const mechs(n, n.keys, random);
    step_on_gpu<heed::bf16> p(heed::cache_kind::contiguous, {123, 3000, 1777}, n.keys, n, random);
    for (auto* t : {&p.k, &p.v}) {
        t->each_at([&](heed::bf16& x, extent_t b, extent_t, extent_t j, extent_t) { x = j >= p.lengths[static_cast<std::size_t>(b)] ? heed::bf16(std::nanf("")) : x; });
    }
    REQUIRE(p.run(mechs.on_device()));
    CHECK(p.against(mechs.on_host(), 4e-3, true) == "");
    tensor<heed::bf16> first(n.out());
    first.copy(p.out.in());
    REQUIRE(p.run(mechs.on_device()));
    CHECK(same_bits(first, p.out));
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
