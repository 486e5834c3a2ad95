// SPDX-License-Identifier: BSD-3-Clause
// Attention on the sphere as layers: maps of the channels, an optional norm of queries and keys, heads, global or neighbourhood attention, a map of what comes
// out; and the grids themselves. Axis letters: B batch, C channels in, K of queries and keys, V of values, L M rings and longitudes of keys, P Q of queries.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/mechanism/spherical.hpp>

#include <array>
#include <limits>
#include <string>

namespace heed::tool {

namespace {

latitudes grid_kind(case_file const& source, std::string_view key) {
    std::string const& name = source.word(key);
    if (name == "equiangular") { return latitudes::equiangular; }
    if (name == "legendre-gauss") { return latitudes::legendre_gauss; }
    if (name == "lobatto") { return latitudes::lobatto; }
    if (name == "equiangular-trapezoidal") { return latitudes::trapezoidal; }
    throw bad_file(source.path(), "metadata \"" + std::string(key) + "\" names a grid that is none of equiangular, legendre-gauss, lobatto, equiangular-trapezoidal");
}

struct quadrature_nodes {
    template <class T>
    static void run(case_io<T>& io) {
        auto const rings = io.integers("nlat", "u", 1, 1 << 20).data[0], longitudes = io.integers("nlon", "u", 1, 1 << 20).data[0];
        io.set('L', rings, "nlat");
        sphere_grid const grid(grid_kind(io.source(), "grid"), rings, longitudes);
        T *const nodes = io.make("out", "L"), *const weights = io.make("weights", "L");
        for (extent_t l = 0; l < rings; ++l) {
            nodes[l] = static_cast<T>(grid.colatitudes()[static_cast<std::size_t>(l)]);
            weights[l] = static_cast<T>(grid.weights()[static_cast<std::size_t>(l)]);
        }
    }
};

// y[b][o][n] = sum_c w[o][c] x[b][c][n] + bias[o]: a map of channels at every point.
template <class T>
traced<T> map_channels(tape<T>& t, traced<T> x, extent_t batch, extent_t points, loaded<T> const& weight, T const* bias) {
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    extent_t const out = weight.shape[0], in = weight.shape[1];
    traced<T> const y = t.room(batch * out * points);
    Eigen::Map<matrix const> const w(weight.data, out, in);
    for (extent_t b = 0; b < batch; ++b) {
        Eigen::Map<matrix> result(y.x + b * out * points, out, points);
        result.noalias() = w * Eigen::Map<matrix const>(x.x + b * in * points, in, points);
        if (bias) { result.colwise() += Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, 1> const>(bias, out); }
    }
    t.back([=, data = weight.data] {
        for (extent_t b = 0; b < batch; ++b) {
            Eigen::Map<matrix>(x.d + b * in * points, in, points).noalias() += Eigen::Map<matrix const>(data, out, in).transpose() * Eigen::Map<matrix const>(y.d + b * out * points, out, points);
        }
    });
    return y;
}

// The heads of channels, [B, H d, N] as [B, H, N, d].
template <class T>
traced<T> heads_of_channels(tape<T>& t, traced<T> x, shape s) {
    traced<T> const y = t.room(s.size());
    auto const each = [=](auto const& f) {
        for (extent_t head = 0; head < s.batch * s.head; ++head)
            for (extent_t n = 0; n < s.seq; ++n)
                for (extent_t e = 0; e < s.feature; ++e) { f((head * s.feature + e) * s.seq + n, (head * s.seq + n) * s.feature + e); }
    };
    each([&](extent_t from, extent_t to) { y.x[to] = x.x[from]; });
    t.back([=] { each([&](extent_t from, extent_t to) { x.d[from] += y.d[to]; }); });
    return y;
}

template <bool Local>
struct sphere_layer {
    template <class T>
    static void run(case_io<T>& io) {
        case_file const& source = io.source();
        auto const query = io.reals("query", "BCPQ"), key = io.reals("key", "BCLM"), value = io.reals("value", "BCLM");
        extent_t const B = io['B'], N = io['P'] * io['Q'], M = io['L'] * io['M'], H = source.integer("heads", 1, 1 << 20);
        io.set('u', 1, "a map of channels");
        auto const wq = io.reals("q_weights", "KCuu"), wk = io.reals("k_weights", "KCuu"), wv = io.reals("v_weights", "VCuu"), wo = io.reals("proj_weights", "VVuu");
        if (io['K'] % H || io['V'] % H) { throw bad_tensor(source.path(), "q_weights", "has channels that the heads do not divide"); }
        shape const sq{B, H, N, io['K'] / H}, sk{B, H, M, sq.feature}, sv{B, H, M, io['V'] / H}, so{B, H, N, sv.feature};
        io.set('d', sq.feature, "the channels of a head");
        auto const bias = [&](std::string_view name, std::string_view axes) { return source.file().find(name) ? io.reals(name, axes).data : nullptr; };
        sphere_grid const queries(grid_kind(source, "grid_out"), io['P'], io['Q']), keys(grid_kind(source, "grid_in"), io['L'], io['M']);
        T* const weights = io.scratch(M); // the file's, which are those of the grid rounded to float
        if constexpr (Local) {
            auto const of_ring = io.reals("quad_weights", "L");
            for (extent_t j = 0; j < M; ++j) { weights[j] = of_ring.data[j / io['M']]; }
        } else {
            io.set('n', M, "the points of the keys' grid");
            auto const logarithms = io.reals("log_quad_weights", "uun");
            for (extent_t j = 0; j < M; ++j) { weights[j] = std::exp(logarithms.data[j]); }
        }
        std::vector<double> own(static_cast<std::size_t>(M));
        keys.point_weights(std::span<double>(own));
        for (extent_t j = 0; j < M; ++j) {
            if (std::abs(own[static_cast<std::size_t>(j)] - static_cast<double>(weights[j])) > 1e-5) { throw bad_tensor(source.path(), Local ? "quad_weights" : "log_quad_weights", "holds other weights than those of grid_in"); }
        }

        tape<T> t(io, io.wants("dquery") || io.wants("dkey") || io.wants("dvalue"));
        traced<T> const q_in = t.copy(query.data, B * io['C'] * N), k_in = t.copy(key.data, B * io['C'] * M), v_in = t.copy(value.data, B * io['C'] * M);
        auto const normed = [&](traced<T> x, shape s, std::string_view name) {
            traced<T> const heads = heads_of_channels(t, x, s);
            if (!source.file().find(name)) { return heads; }
            auto const weight = io.reals(name, "d");
            T* const factor = io.scratch(s.feature);
            for (extent_t e = 0; e < s.feature; ++e) { factor[e] = 1 + weight.data[e]; }
            return norm<false>(t, heads, B * H * s.seq, s.feature, factor, static_cast<T const*>(nullptr), static_cast<double>(std::numeric_limits<T>::epsilon()));
        };
        traced<T> const q = normed(map_channels(t, q_in, B, N, wq, bias("q_bias", "K")), sq, "q_norm_weights");
        traced<T> const k = normed(map_channels(t, k_in, B, M, wk, bias("k_bias", "K")), sk, "k_norm_weights");
        traced<T> const v = map_channels(t, v_in, B, M, wv, bias("v_bias", "V")), mixed = t.room(so.size());
        auto const channels = [](auto* data, shape s) { return tensor_view(data, s, {s.head * s.feature * s.seq, s.feature * s.seq, 1, s.seq}); };
        auto const in = [](traced<T> const& x, shape s) { return tensor_view<T const>(x.x, s); };

        double const given = source.number_if("scale").value_or(0);
        T const factor = static_cast<T>(given != 0 ? given : 1 / std::sqrt(static_cast<double>(sq.feature)));
        auto const attend = [&](auto const& pattern) {
            attention const m{dot{} | scale{factor} | weighted_keys<T>{tensor_view<T const>(weights, {1, 1, M, 1})}, pattern, softmax{}};
            save const saved{per_row(io.scratch(B * H * N), B, H, N)};
            forward(m, in(q, sq), in(k, sk), tensor_view<T const>(channels(v.x, sv)), channels(mixed.x, so), saved);
            if (!t.wanted()) { return; }
            t.back([=] {
                backward(m, in(q, sq), in(k, sk), tensor_view<T const>(channels(v.x, sv)), tensor_view<T const>(channels(mixed.x, so)), saved, tensor_view<T const>(channels(mixed.d, so)),
                         tensor_view<T>(q.d, sq), tensor_view<T>(k.d, sk), channels(v.d, sv));
            });
        };
        if constexpr (Local) {
            ring_neighbourhood const near(queries, keys, source.number("theta_cutoff"));
            attend(sphere_neighbourhood{near.bands()});
            finish(t, mixed, q_in, k_in, v_in, wo, bias("proj_bias", "V"), {B, N, M});
        } else {
            attend(full{});
            finish(t, mixed, q_in, k_in, v_in, wo, bias("proj_bias", "V"), {B, N, M});
        }
    }

private:
    template <class T>
    static void finish(tape<T>& t, traced<T> mixed, traced<T> q, traced<T> k, traced<T> v, loaded<T> const& wo, T const* bias, std::array<extent_t, 3> const& n) {
        case_io<T>& io = t.io();
        give(t, map_channels(t, mixed, n[0], n[1], wo, bias), "BVPQ", n[0] * io['V'] * n[1]);
        give_gradient(t, q, "dquery", "BCPQ", n[0] * io['C'] * n[1]);
        give_gradient(t, k, "dkey", "BCLM", n[0] * io['C'] * n[2]);
        give_gradient(t, v, "dvalue", "BCLM", n[0] * io['C'] * n[2]);
    }
};

constexpr std::array spherical_cases{
    wire<quadrature_nodes>("quadrature_equiangular"), wire<quadrature_nodes>("quadrature_legendre_gauss"), wire<quadrature_nodes>("quadrature_lobatto"),
    wire<sphere_layer<false>>("global_downsample_channels"), wire<sphere_layer<false>>("global_equiangular"), wire<sphere_layer<false>>("global_legendre_gauss"),
    wire<sphere_layer<false>>("global_no_bias_scale"), wire<sphere_layer<false>>("global_qknorm_lobatto"), wire<sphere_layer<true>>("local_downsample"),
    wire<sphere_layer<true>>("local_equiangular"), wire<sphere_layer<true>>("local_legendre_gauss"), wire<sphere_layer<true>>("local_qknorm_channels"),
    wire<sphere_layer<true>>("local_upsample"), wire<sphere_layer<true>>("local_wide"),
};
check_registration const registration("spherical", spherical_cases);

} // namespace

} // namespace heed::tool
