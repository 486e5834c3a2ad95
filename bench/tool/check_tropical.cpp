// SPDX-License-Identifier: BSD-3-Clause
// Tropical attention: max-plus products, given q, k and v, and the multi-head layer. Axis letters: B batch, N queries, M keys, d and e widths, H heads,
// D the model's width, c a head's.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/heed.hpp>

#include <array>
#include <limits>

namespace heed::tool {

namespace {

// The scores themselves: values are the identity of (max, +).
template <class T, class S>
void give_scores(case_io<T>& io, S const& score, tensor_view<T const> const& q, tensor_view<T const> const& k, tensor_view<T> const& to) {
    extent_t const m = k.extent(2);
    T* const eye = io.scratch(m * m);
    for (extent_t n = 0; n < m * m; ++n) { eye[n] = n / m == n % m ? T(0) : -std::numeric_limits<T>::infinity(); }
    tensor_view<T const> const identity(eye, {k.extent(0), k.extent(1), m, m}, {0, 0, m, 1});
    forward(attention{score, full{}, tropical<max_plus>{}, max_plus{}}, q, k, identity, to);
}

template <class S>
struct tropical_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BNd"), k = io.reals("k", "BMd"), v = io.reals("v", "BMe");
        auto const B = io['B'], N = io['N'], M = io['M'], d = io['d'], e = io['e'];
        tensor_view<T const> const qv(q.data, {B, 1, N, d}), kv(k.data, {B, 1, M, d}), vv(v.data, {B, 1, M, e});
        tensor_view<T> const out(io.make("out", "BNe"), {B, 1, N, e});
        attention const m{S{}, full{}, tropical<max_plus>{}, max_plus{}};
        forward(m, qv, kv, vv, out);
        give_scores(io, S{}, qv, kv, tensor_view<T>(io.make("scores", "BNM"), {B, 1, N, M}));
        if (!io.wants("dq") && !io.wants("dk") && !io.wants("dv")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BNe").data, out.shape());
        backward(m, qv, kv, vv, out, nothing_saved{}, dout, tensor_view<T>(io.make("dq", "BNd"), qv.shape()), tensor_view<T>(io.make("dk", "BMd"), kv.shape()),
                 tensor_view<T>(io.make("dv", "BMe"), vv.shape()));
    }
};

template <bool Batched>
struct tropical_product {
    template <class T>
    static void run(case_io<T>& io) {
        if (!Batched) { io.set('B', 1, "one matrix"); }
        std::string_view const of_a = Batched ? "Bnk" : "nk", of_b = Batched ? "Bkm" : "km", of_c = Batched ? "Bnm" : "nm";
        auto const a = io.reals("a", of_a), b = io.reals("b", of_b);
        auto const B = io['B'], n = io['n'], k = io['k'], m = io['m'];
        tensor_view<T const> const av(a.data, {B, 1, n, k}), bv(b.data, {B, 1, k, m});
        shape const s{B, 1, n, m};
        semiring_matmul(max_plus{}, av, bv, tensor_view<T>(io.make("out", of_c), s));
        std::vector<std::int32_t> winners(static_cast<std::size_t>(s.size()));
        semiring_winners(max_plus{}, av, bv, tensor_view<std::int32_t>(winners.data(), s));
        std::copy(winners.begin(), winners.end(), io.make_integers("argmax", of_c, integer_order::exact));
        if (!io.wants("da") && !io.wants("db")) { return; }
        tensor_view<T const> const dc(io.reals("dout", of_c).data, s);
        semiring_matmul_backward(max_plus{}, av, bv, dc, tensor_view<T>(io.make("da", of_a), av.shape()), tensor_view<T>(io.make("db", of_b), bv.shape()));
    }
};

// u = log1p(relu(x)) - lambda, maps of one matrix for all heads, y_o = max_i (u_i + W[o, i]).
template <class S, bool Maps, bool Shifted>
struct tropical_layer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BND"), last = io.reals("out.weight", "DD");
        auto const B = io['B'], N = io['N'], D = io['D'], H = io.source().integer("heads", 1, 1 << 20);
        if (D % H) { throw bad_tensor(io.source().path(), "x", "has a width that its heads do not divide"); }
        io.set('c', D / H, "the width of a head");
        io.set('u', 1, "one row");
        extent_t const d = D / H;
        shape const s{B, H, N, d};
        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.copy(x.data, B * N * D), u = t.room(B * N * D), mixed = t.room(B * N * D);
        log1p_valuation<T> valuation;
        if constexpr (Shifted) { valuation = log1p_valuation<T>(tensor_view<T const>(io.reals("lambda_param", "uuD").data, {1, 1, 1, D})); }
        shape const whole{1, 1, B * N, D};
        valuate(valuation, tensor_view<T const>(input.x, whole), tensor_view<T>(u.x, whole));
        t.back([=, &io] {
            T* const dx = io.scratch(B * N * D);
            valuate_backward(valuation, tensor_view<T const>(input.x, whole), tensor_view<T const>(u.x, whole), tensor_view<T const>(u.d, whole), tensor_view<T>(dx, whole));
            add<T>(tensor_view<T const>(dx, whole), tensor_view<T>(input.d, whole));
        });
        auto const map = [&](char const* name) {
            if constexpr (!Maps) {
                return u;
            } else {
                auto const w = io.reals(name, "cc");
                traced<T> const y = t.room(B * N * D);
                tensor_view<T const> const turned(w.data, {1, 1, d, d}, {0, 0, 1, d});
                semiring_matmul(max_plus{}, sequence_major<T const>(u.x, s), turned, sequence_major(y.x, s));
                t.back([=, &io] {
                    T* const du = io.scratch(B * N * D);
                    semiring_matmul_backward(max_plus{}, sequence_major<T const>(u.x, s), turned, sequence_major<T const>(y.d, s), sequence_major(du, s), tensor_view<T>{});
                    add<T>(sequence_major<T const>(du, s), sequence_major(u.d, s));
                });
                return y;
            }
        };
        traced<T> const q = map("query_trop.W"), k = map("key_trop.W"), v = map("value_trop.W");
        auto const of = [=](T const* p) { return sequence_major<T const>(p, s); };
        auto const m = tropical_attention(full{}, S{});
        forward(m, of(q.x), of(k.x), of(v.x), sequence_major(mixed.x, s));
        io.set('b', B * H, "batch entries times heads");
        give_scores(io, S{}, of(q.x), of(k.x), tensor_view<T>(io.make("scores", "bNN"), {B, H, N, N}));
        t.back([=, &io] {
            T* const room = io.scratch(3 * B * N * D);
            auto const part = [=](int n) { return sequence_major(room + n * B * N * D, s); };
            backward(m, of(q.x), of(k.x), of(v.x), of(mixed.x), nothing_saved{}, of(mixed.d), part(0), part(1), part(2));
            add<T>(part(0), sequence_major(q.d, s)), add<T>(part(1), sequence_major(k.d, s)), add<T>(part(2), sequence_major(v.d, s));
        });
        give(t, linear(t, mixed, B * N, last), "BND", B * N * D);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }
};

constexpr std::array tropical_cases{
    wire<tropical_core<hilbert>>("core_symmetric"),
    wire<tropical_core<one_sided_hilbert>>("core_asymmetric"),
    wire<tropical_product<true>>("maxplus_odd"),
    wire<tropical_product<false>>("maxplus_pow2"),
    wire<tropical_layer<hilbert, true, false>>("mhta_symmetric"),
    wire<tropical_layer<hilbert, true, false>>("mhta_signed_inputs"),
    wire<tropical_layer<one_sided_hilbert, true, false>>("mhta_asymmetric"),
    wire<tropical_layer<hilbert, true, true>>("mhta_norm"),
    wire<tropical_layer<hilbert, false, false>>("mhta_no_projection"),
    wire<tropical_layer<one_sided_hilbert, false, true>>("mhta_no_projection_norm_asymmetric"),
};
check_registration const registration("tropical", tropical_cases);

} // namespace

} // namespace heed::tool
