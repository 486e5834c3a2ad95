// SPDX-License-Identifier: BSD-3-Clause
// Doors of latent attention beside decode: what absorbs the maps into queries and takes results out of the latent, and prefill in the naive form.
#pragma once

#include <heed/front/attention.hpp>
#include <heed/front/factored.hpp>
#include <heed/front/semiring_matmul.hpp>
#include <heed/policy/ring/plus_times.hpp>

namespace heed {

namespace detail {
// Maps of heads, {1, H, rows, columns}, the other way round.
template <class T>
tensor_view<T> turned_map(tensor_view<T> const& w) {
    return {w.data_handle(), {w.extent(0), w.extent(1), w.extent(3), w.extent(2)}, {w.stride(0), w.stride(1), w.stride(3), w.stride(2)}};
}
// Features [first, first + count) of a view.
template <class T>
tensor_view<T> features_of(tensor_view<T> const& x, extent_t first, extent_t count) {
    return {x.data_handle() == nullptr ? nullptr : x.data_handle() + first * x.stride(3), {x.extent(0), x.extent(1), x.extent(2), count}, x.strides(), x.offsets()};
}
template <class A, class T>
void copy_rows(tensor_view<T const> const& from, tensor_view<T> const& to) {
    for (extent_t b = 0; b < to.extent(0); ++b) {
        for (extent_t h = 0; h < to.extent(1); ++h) { pack_rows<A>(from.row(b, h, 0), from.stride(2), from.stride(3), to.extent(2), to.extent(3), to.row(b, h, 0), to.stride(2)); }
    }
}
} // namespace detail

// Absorbed queries: to (B, H, N, d_c + d_rope) = [q_nope W_uk^h | q_rope]; q_nope (B, H, N, d_nope), q_rope (B, H, N, d_rope), turned; w_uk (1, H, d_nope, d_c);
// float or double. Option: a backend. Throws shape_error before anything is written.
template <class A = native_arch, class X, class R, class W, class O, class... Options>
void absorb_queries(X const& q_nope, R const& q_rope, W const& w_uk, O&& to_in, Options const&... options) {
    tensor_view const to = as_view(to_in);
    using T = typename decltype(to)::element_type;
    tensor_view<T const> const q = as_view(q_nope), r = as_view(q_rope), w = as_view(w_uk);
    using door = detail::door<A>;
    extent_t const latent = w.extent(3);
    door::check_view("w_uk", w.shape(), {1, to.extent(1), q.extent(3), latent}, true);
    if (to.extent(3) != latent + r.extent(3) || w.extent(1) != to.extent(1)) {
        door::refuse(sentence<A>("heed: absorbed queries have ", to.extent(3), " features; they are ", latent, " of the latent and ", r.extent(3), " of the rotary part, of as many heads as w_uk"));
    }
    detail::argument const args[] = {detail::argument::of("the rotary queries", r), detail::argument::of("the absorbed queries", to)};
    tensor_view<T> const tail = detail::features_of(to, latent, r.extent(3));
    door::check_same(args[0], detail::argument::of("the absorbed rotary part", tail));
    door::check_outputs(args, 2);
    if (to.stride(3) != 1 && to.extent(3) > 1) { door::refuse("heed: features of absorbed queries lie side by side"); }
    semiring_matmul<A>(plus_times{}, q, w, detail::features_of(to, 0, latent), options...);
    detail::copy_rows<A>(r, tail);
}

// out (B, H, N, dv) = W_uv^h o, o (B, H, N, d_c) what decode gave; w_uv (1, H, dv, d_c).
template <class A = native_arch, class X, class W, class O, class... Options>
void expand_values(X const& o_in, W const& w_uv, O&& out_in, Options const&... options) {
    tensor_view const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    tensor_view<T const> const w = as_view(w_uv);
    if (w.extent(1) != out.extent(1)) { detail::door<A>::refuse(sentence<A>("heed: w_uv has ", w.extent(1), " heads and out has ", out.extent(1), "; they must be equal")); }
    semiring_matmul<A>(plus_times{}, tensor_view<T const>(as_view(o_in)), detail::turned_map(w), out, options...);
}

// Prefill in the naive form: keys [W_uk^h c | k_rope] and values W_uv^h c of one head at a time, M (d_nope + d_rope + dv) numbers of workspace, a third of the
// multiply-adds of the absorbed form. q (B, H, N, d_nope + d_rope), latent (B, G, M, d_c), k_rope (B, 1 or G, M, d_rope), w_uk (1, H, d_nope, d_c), w_uv (1, H, dv, d_c),
// out (B, H, N, dv); H a multiple of G. The absorbed form needs no door of its own: forward(latent_attention(...), absorbed queries, rows, rows' first part, out).
// Options: a backend, save{lse}. Not ragged. Throws shape_error before out is written. Makes one allocation of its own, and each head's call one.
template <class A = native_arch, class M, class Q, class L, class R, class WK, class WV, class O, class... Options>
auto latent_forward(M const& mechanism, Q const& q_in, L const& latent_in, R const& k_rope_in, WK const& w_uk, WV const& w_uv, O&& out_in, Options const&... options) {
    static_assert((detail::is_option<Options> && ...), "heed: options of latent_forward are a backend (heed::cpu{...}) and heed::save{lse} or heed::save_log2{lse}");
    tensor_view const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    using door = detail::door<A>;
    tensor_view<T const> const q = as_view(q_in), c = as_view(latent_in), r = as_view(k_rope_in), wk = as_view(w_uk), wv = as_view(w_uv);
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_save(options...);
    extent_t const heads = q.extent(1), groups = c.extent(1), keys = c.extent(2), nope = wk.extent(2), rope = r.extent(3), dv = wv.extent(2), batch = c.extent(0);
    detail::argument const rows = {"the keys' rows", {batch, groups, keys, nope + rope}, {}, 1, sizeof(T), {}, false, true}, values = {"the values' rows", {batch, groups, keys, dv}, {}, 1, sizeof(T), {}, false, true};
    detail::argument args[] = {detail::argument::of("q", q), rows, values, detail::argument::of("out", out)};
    door::check_axes(args, 4, detail::pairwise_rules, static_cast<int>(std::size(detail::pairwise_rules)));
    door::check_outputs(args, 4);
    door::check_view("w_uk", wk.shape(), {1, heads, nope, c.extent(3)}, true);
    door::check_view("w_uv", wv.shape(), {1, heads, dv, c.extent(3)}, true);
    door::check_view("k_rope", r.shape(), {batch, groups, keys, rope}, true);
    if (wk.extent(1) != heads || wv.extent(1) != heads || r.extent(2) != keys || r.extent(0) != batch) { door::refuse("heed: w_uk and w_uv have one map for each head of q, and k_rope one row for each of the latent's"); }
    for (auto const& x : args) {
        if (x.offsets) { door::refuse(sentence<A>("heed: ", x.name, " is ragged; latent_forward takes sequences of one length, call once for each")); }
    }
    shape const ks{batch, 1, keys, nope + rope}, vs{batch, 1, keys, dv};
    std::unique_ptr<T[]> const memory(new T[static_cast<std::size_t>(ks.size() + vs.size()) + 1]);
    tensor_view<T> const k(memory.get(), ks), v(memory.get() + ks.size(), vs);
    for (extent_t h = 0; h < heads; ++h) {
        extent_t const g = h / (heads / groups);
        auto const latent = detail::heads_of(c, g, 1), turned = detail::heads_of(r, r.extent(1) == 1 ? 0 : g, 1);
        semiring_matmul<A>(plus_times{}, latent, detail::turned_map(detail::heads_of(wk, h, 1)), detail::features_of(k, 0, nope), cpu{backend.executor});
        detail::copy_rows<A>(turned, detail::features_of(k, nope, rope));
        semiring_matmul<A>(plus_times{}, latent, detail::turned_map(detail::heads_of(wv, h, 1)), v, cpu{backend.executor});
        auto const head_q = detail::heads_of(q, h, 1);
        auto const head_out = detail::heads_of(out, h, 1);
        if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) {
            forward<A>(mechanism, head_q, k, v, head_out, backend, std::remove_const_t<decltype(saved)>{detail::heads_of(saved.lse, h, 1)});
        } else {
            forward<A>(mechanism, head_q, k, v, head_out, backend);
        }
    }
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) { return saved; }
}

} // namespace heed
