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
// float or double; ragged alike or not at all. Option: a backend. Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, class X, class R, class W, class O, class... Options>
void absorb_queries(X const& q_nope, R const& q_rope, W const& w_uk, O&& to_in, Options const&... options) {
    tensor_view const to = as_view(to_in);
    using T = typename decltype(to)::element_type;
    tensor_view<T const> const q = as_view(q_nope), r = as_view(q_rope), w = as_view(w_uk);
    using door = detail::door<A>;
    using detail::argument;
    extent_t const latent = w.extent(3);
    door::check_view("w_uk", w.shape(), {1, to.extent(1), q.extent(3), latent}, true);
    if (to.extent(3) != latent + r.extent(3) || w.extent(1) != to.extent(1)) {
        door::refuse(sentence<A>("heed: absorbed queries have ", to.extent(3), " features; they are ", latent, " of the latent and ", r.extent(3), " of the rotary part, of as many heads as w_uk"));
    }
    tensor_view<T> const head = detail::features_of(to, 0, latent), tail = detail::features_of(to, latent, r.extent(3));
    argument const args[] = {argument::of("the rotary queries", r), argument::of("the queries", q), argument::of("the absorbed queries", to)};
    door::check_same(args[0], argument::of("the absorbed rotary part", tail));
    door::check_offsets(args[0], args[2]);
    door::check_offsets(args[1], args[2]);
    door::check_outputs(args, 3);
    if (to.stride(3) != 1 && to.extent(3) > 1) { door::refuse("heed: features of absorbed queries lie side by side"); }
    semiring_matmul<A>(plus_times{}, detail::whole(q), w, detail::whole(head), options...);
    detail::copy_rows<A>(detail::whole(r), detail::whole(tail));
}

// out (B, H, N, dv) = W_uv^h o, o (B, H, N, d_c) what decode gave; w_uv (1, H, dv, d_c). Makes one allocation.
template <class A = native_arch, class X, class W, class O, class... Options>
void expand_values(X const& o_in, W const& w_uv, O&& out_in, Options const&... options) {
    tensor_view const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    using door = detail::door<A>;
    tensor_view<T const> const w = as_view(w_uv), o = as_view(o_in);
    if (w.extent(1) != out.extent(1)) { door::refuse(sentence<A>("heed: w_uv has ", w.extent(1), " heads and out has ", out.extent(1), "; they must be equal")); }
    door::check_offsets(detail::argument::of("the weighted latents", o), detail::argument::of("out", out));
    semiring_matmul<A>(plus_times{}, detail::whole(o), detail::turned_map(w), detail::whole(out), options...);
}

// What latent_forward will do, before it does it: its workspace. Reusable, allocates nothing.
template <class M, class T, class B>
class latent_forward_plan {
    using A = typename B::arch_type;
    using door = detail::door<A>;
    using argument = detail::argument;
    using maps = semiring_matmul_engine<plus_times, T, A>;
    static_assert(detail::is_cpu<B>, "heed: latent_forward runs on the cpu backend");

    M mechanism_;
    tensor_view<T const> q_, c_, r_, wk_, wv_;
    B backend_;
    extent_t turn_ = 1; // heads taken at once

    extent_t nope() const { return wk_.extent(2); }
    extent_t width() const { return nope() + r_.extent(3); }
    extent_t rows() const { return c_.is_ragged() ? c_.offsets()[c_.offsets().count()] : c_.extent(0) * c_.extent(2); }
    struct buffers {
        tensor_view<T> k, v;
        buffers(arena& a, latent_forward_plan const& p) : k(lay(a, p, p.width())), v(lay(a, p, p.wv_.extent(2))) {}
        static tensor_view<T> lay(arena& a, latent_forward_plan const& p, extent_t width) {
            tensor_view<T const> const like(nullptr, {p.c_.extent(0), p.turn_, p.c_.extent(2), width}, {}, p.c_.offsets());
            return detail::like(a.template take<T>(p.rows() * p.turn_ * width), like);
        }
    };
    auto plan_of(tensor_view<T const> const& k, tensor_view<T const> const& v) const {
        return forward_plan<M, T, B>(mechanism_, {q_.extent(0), turn_, q_.extent(2), q_.extent(3)}, k.shape(), v.shape(), backend_);
    }
    int slots_of(tensor_view<T> const& to) const {
        extent_t const items = maps::items(to.shape());
        int const most = detail::concurrency_of(backend_.executor);
        return items < most ? static_cast<int>(items) : most;
    }
    std::size_t map_bytes(tensor_view<T> const& to) const { return line_bytes - 1 + static_cast<std::size_t>(slots_of(detail::whole(to))) * maps::slot_bytes(); }
    void map(tensor_view<T const> const& x, tensor_view<T const> const& w, tensor_view<T> const& to, std::byte* workspace) {
        if (to.shape().size() > 0) { maps::run(plus_times{}, {x, detail::turned_map(w), to}, backend_.executor, slots_of(to), workspace); }
    }

public:
    latent_forward_plan(M const& mechanism, tensor_view<T const> q, tensor_view<T const> c, tensor_view<T const> r, tensor_view<T const> wk, tensor_view<T const> wv, B const& backend)
        : mechanism_(mechanism), q_(q), c_(c), r_(r), wk_(wk), wv_(wv), backend_(backend) {
        extent_t const heads = q.extent(1), batch = c.extent(0), keys = c.extent(2);
        argument const made[] = {argument::of("q", q), {"the keys' rows", {batch, c.extent(1), keys, width()}, {}, 1, sizeof(T), {}, false, true}, {"the values' rows", {batch, c.extent(1), keys, wv.extent(2)}, {}, 1, sizeof(T), {}, false, true}};
        door::check_axes(made, 3, detail::pairwise_rules);
        argument const given[] = {argument::of("the latent", c), argument::of("k_rope", r), argument::of("w_uk", wk), argument::of("w_uv", wv)};
        door::check_axes(given, 4, nullptr, 0);
        door::check_offsets(given[0], given[1]);
        door::check_view("w_uk", wk.shape(), {1, heads, nope(), c.extent(3)}, true);
        door::check_view("w_uv", wv.shape(), {1, heads, wv.extent(2), c.extent(3)}, true);
        door::check_view("k_rope", r.shape(), {batch, c.extent(1), keys, r.extent(3)}, true);
        if (wk.extent(1) != heads || wv.extent(1) != heads || r.extent(2) != keys || r.extent(0) != batch) { door::refuse("heed: w_uk and w_uv have one map for each head of q, and k_rope one row for each of the latent's"); }
        mechanism_.views(call_sizes{batch, heads, q.extent(2), keys, q.extent(3), heads}, [&](char const* name, auto const& view, shape want, auto... exact) {
            door::check_view(name, view.shape(), want, sizeof...(exact) > 0);
            if (view.extent(1) != 1) { turn_ = heads; }
        });
    }

    static constexpr std::string_view engine() { return forward_plan<M, T, B>::engine(); }
    extent_t heads_at_once() const { return turn_; }
    std::size_t workspace_bytes() const {
        arena count(nullptr);
        buffers const b(count, *this);
        std::size_t const attends = plan_of(b.k, b.v).workspace_bytes(), keys = map_bytes(b.k), values = map_bytes(b.v), most = keys > values ? keys : values;
        return line_bytes - 1 + count.bytes() + (attends > most ? attends : most);
    }
    std::string describe() const { return sentence<A>(engine(), " on rows of ", turn_, turn_ == 1 ? " head" : " heads", " at once, ", workspace_bytes(), " workspace bytes"); }
    template <class Stream>
    friend Stream& operator<<(Stream& s, latent_forward_plan const& p) {
        s << p.describe();
        return s;
    }
    // Runs in the caller's memory (at least workspace_bytes(), any alignment).
    template <class Save = detail::no_save>
    void run(tensor_view<T> const& out, std::span<std::byte> workspace, Save const& saved = {}) {
        extent_t const heads = q_.extent(1), groups = c_.extent(1);
        argument args[8] = {argument::of("q", q_), {"the keys' rows", {c_.extent(0), groups, c_.extent(2), width()}, {}, 1, sizeof(T), {}, false, true}, {"the values' rows", {c_.extent(0), groups, c_.extent(2), wv_.extent(2)}, {}, 1, sizeof(T), {}, false, true},
                            argument::of("out", out), argument::of("the latent", c_), argument::of("k_rope", r_), argument::of("w_uk", wk_), argument::of("w_uv", wv_)};
        door::check_axes(args, 4, detail::pairwise_rules);
        door::check_offsets(args[0], args[3]);
        door::check_outputs(args, 8);
        if constexpr (detail::is_save<Save>) {
            argument const lse = argument::of("lse", saved.lse), rows{"the rows of q", {q_.extent(0), heads, q_.extent(2), 1}, {}, 1, sizeof(T), {}, false, true};
            door::check_same(lse, rows);
            for (argument const& x : args) { door::check_apart(lse, x); }
        }
        if (workspace.size() < workspace_bytes()) { door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()")); }
        arena memory(aligned(workspace.data()));
        buffers const b(memory, *this);
        std::byte* const rest = aligned(workspace.data()) + memory.bytes();
        std::span<std::byte> const left(rest, static_cast<std::size_t>(workspace.data() + workspace.size() - rest));
        for (extent_t first = 0; first < heads; first += turn_) {
            for (extent_t x = 0; x < turn_; ++x) {
                extent_t const h = first + x, g = h / (heads / groups);
                tensor_view<T const> const latent = detail::whole(detail::heads_of(c_, g, 1)), turned = detail::whole(detail::heads_of(r_, r_.extent(1) == 1 ? 0 : g, 1));
                tensor_view<T> const k = detail::whole(detail::heads_of(b.k, x, 1)), v = detail::whole(detail::heads_of(b.v, x, 1));
                map(latent, detail::heads_of(wk_, h, 1), detail::features_of(k, 0, nope()), rest);
                detail::copy_rows<A>(turned, detail::features_of(k, nope(), r_.extent(3)));
                map(latent, detail::heads_of(wv_, h, 1), v, rest);
            }
            auto p = plan_of(b.k, b.v);
            auto const queries = detail::heads_of(q_, first, turn_);
            auto const results = detail::heads_of(out, first, turn_);
            if constexpr (detail::is_save<Save>) {
                p.run(queries, b.k, b.v, results, left, Save{detail::heads_of(saved.lse, first, turn_)});
            } else {
                p.run(queries, b.k, b.v, results, left);
            }
        }
    }
};

// The plan of a call of latent_forward with these arguments.
template <class A = native_arch, class M, class Q, class L, class R, class WK, class WV, class... Options>
auto plan_latent_forward(M const& mechanism, Q const& q_in, L const& latent, R const& k_rope, WK const& w_uk, WV const& w_uv, Options const&... options) {
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const q = as_view(q_in);
    return latent_forward_plan<M, typename decltype(q)::value_type, std::remove_const_t<decltype(backend)>>(mechanism, q, as_view(latent), as_view(k_rope), as_view(w_uk), as_view(w_uv), backend);
}

// Prefill in the naive form: keys [W_uk^h c | k_rope] and values W_uv^h c of one head at a time, M (d_nope + d_rope + dv) numbers of workspace, a third of the
// multiply-adds of the absorbed form. q (B, H, N, d_nope + d_rope), latent (B, G, M, d_c), k_rope (B, 1 or G, M, d_rope), w_uk (1, H, d_nope, d_c), w_uv (1, H, dv, d_c),
// out (B, H, N, dv); H a multiple of G; q and out may be ragged, latent and k_rope too. The absorbed form needs no door of its own:
// forward(latent_attention(...), absorbed queries, rows, rows' first part, out). Where policies hold data per head all heads are taken at once, H times the workspace.
// Options: a backend, save{lse}. Throws shape_error before out is written. Makes one allocation.
template <class A = native_arch, class M, class Q, class L, class R, class WK, class WV, class O, class... Options>
auto latent_forward(M const& mechanism, Q const& q, L const& latent, R const& k_rope, WK const& w_uk, WV const& w_uv, O&& out_in, Options const&... options) {
    static_assert((detail::is_option<Options> && ...), "heed: options of latent_forward are a backend (heed::cpu{...}) and heed::save{lse} or heed::save_log2{lse}");
    auto const saved = detail::pick_save(options...);
    auto p = plan_latent_forward<A>(mechanism, q, latent, k_rope, w_uk, w_uv, options...);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(as_view(out_in), std::span<std::byte>(memory.get(), bytes), saved);
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) { return saved; }
}

} // namespace heed
