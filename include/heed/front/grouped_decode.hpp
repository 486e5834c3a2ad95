// SPDX-License-Identifier: BSD-3-Clause
// decode of caches whose rows serve many heads. Latents: q is absorbed, [W_uk^T q^N | q^R] (B, H, N, width), and out the weighted latents (B, H, N, value
// width), which W_uv takes to the heads' values; see heed/mechanism/latent.hpp. Factors: q is a tensor or a heed::factored (B, H, N, d), out (B, H, N, dv), H a
// multiple of the cache's heads; the plan chooses the order of contraction.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/grouped_decode.hpp>
#include <heed/front/decode.hpp>
#include <heed/front/factored.hpp>
#include <heed/front/grouped_cache.hpp>

namespace heed {

template <class M, class Q, class K, class V, class B>
class grouped_decode_plan {
    using A = typename B::arch_type;
    using engine_type = grouped_decode<M, Q, K, V, A>;
    using T = compute_t<K>;
    using door = detail::door<A>;
    using problem = grouped_problem<Q, K, V, T>;
    static_assert(detail::is_cpu<B>, "heed: caches whose rows serve many heads are read on the cpu backend, heed::cpu{...}");
    static_assert(std::is_same_v<compute_t<Q>, T>, "heed: queries are of the type in which the cache is computed, or of a type stored in 16 bits");

    M mechanism_;
    shape q_;
    typename engine_type::sizes sizes_;
    extent_t reach_;
    B backend_;

    static extent_t rank_of(M const& m) {
        if constexpr (engine_type::factored_queries) { return m.load.q.rank(); }
        return 0;
    }

public:
    grouped_decode_plan(M const& mechanism, shape q, cache_view<K, V> const& c, row_factors const& of, B const& backend)
        : mechanism_(mechanism), q_(q), sizes_((check_shape(q, c, of), q), c, of, rank_of(mechanism)), reach_(c.reach()), backend_(backend) {}

    static constexpr std::string_view engine() { return engine_type::name; }
    // Whether the features of factored queries are contracted with the keys' before the heads.
    bool features_first() const { return sizes_.features_first; }
    int slots() const {
        extent_t const items = sizes_.items();
        int const most = detail::concurrency_of(backend_.executor);
        return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
    std::size_t workspace_bytes() const { return line_bytes - 1 + engine_type::bytes(sizes_, slots()); }

    // One step, in the caller's memory (at least workspace_bytes(), any alignment). The cache may have grown; its shape may not.
    template <class C, class Save = detail::no_save>
    void run(tensor_view<Q const> q, C&& cache, tensor_view<Q> out, std::span<std::byte> workspace, Save const& saved = {}) {
        auto const from = cache.grouped();
        problem x{q, from.rows, sizes_.of, from.beside_k, from.beside_v, out, {}, 0};
        if constexpr (detail::is_save<Save>) {
            x.lse = saved.lse;
            x.lse_unit = (Save::natural ? 1.0 : math::log2e) / decltype(M::normalizer)::unit;
        }
        check(x, detail::is_save<Save>, workspace.size());
        if (q_.batch * q_.head * q_.seq == 0) { return; }
        engine_type::run(mechanism_, x, backend_.executor, sizes_, slots(), workspace.data());
    }
    std::string describe() const {
        return sentence<A>(engine(), " on ", arch_name<A>(), ", ", sizes_.group, " heads share a row, ", sizes_.features_first ? "features first, " : "heads first, ", "up to ", sizes_.chunks, " chunks of a head, ", slots(),
                           slots() == 1 ? " slot, " : " slots, ", workspace_bytes(), " workspace bytes");
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, grouped_decode_plan const& p) {
        s << p.describe();
        return s;
    }

private:
    static void check_shape(shape q, cache_view<K, V> const& c, row_factors const& of) {
        detail::check_grouped<A>(c, of);
        shape const k{c.sequences(), of.any() ? of.heads : c.heads(), c.reach(), of.width_k(c.k.extent(3))};
        detail::argument const args[] = {{"q", q, {}, 1, sizeof(Q), {}, false}, {"the cache's k", k, {}, 1, sizeof(K), {}, false}};
        static constexpr detail::axis_rule rules[] = {{0, detail::axis::head, detail::rule_kind::multiple, 1, detail::axis::head}, {0, detail::axis::feature, detail::rule_kind::equal, 1, detail::axis::feature}};
        door::check_axes(args, 2, rules, 2);
        if (q.batch != c.sequences()) { door::refuse(sentence<A>("heed: q has ", q.batch, " batch entries and the cache has ", c.sequences(), " sequences; they must be equal")); }
    }
    void check(problem const& x, bool with_lse, std::size_t workspace) const {
        using detail::argument;
        using detail::axis;
        using detail::rule_kind;
        check_shape(x.q.shape(), x.cache, x.of);
        if (!(x.q.shape() == q_) || x.cache.k.extent(3) != sizes_.row_k || x.cache.v.extent(3) != sizes_.row_v || x.cache.heads() != sizes_.kv_heads || x.cache.reach() != reach_) {
            door::refuse("heed: the plan was made for another shape of q or of the cache; make a new plan");
        }
        if ((x.of.shared_k != shared_factor::none && x.beside_k == nullptr) || (x.of.shared_v != shared_factor::none && x.beside_v == nullptr)) {
            door::refuse("heed: a factor that all tokens share has no memory beside the cache; see factor_cache_view");
        }
        argument const value{"the values", {q_.batch, q_.head, x.cache.reach(), sizes_.dv}, {}, 1, sizeof(V), {}, false};
        argument args[] = {argument::of("q", x.q), value, argument::of("out", x.out), argument::of("lse", x.lse)};
        args[0].made = detail::makes_rows<decltype(decltype(M::load)::q)>;
        args[1].made = true;
        int const count = with_lse ? 4 : 3;
        static constexpr detail::axis_rule rules[] = {{2, axis::batch, rule_kind::equal, 0, axis::batch}, {2, axis::head, rule_kind::equal, 0, axis::head}, {2, axis::seq, rule_kind::equal, 0, axis::seq},
                                                      {2, axis::feature, rule_kind::equal, 1, axis::feature}, {3, axis::batch, rule_kind::equal, 0, axis::batch}, {3, axis::head, rule_kind::equal, 0, axis::head},
                                                      {3, axis::seq, rule_kind::equal, 0, axis::seq}};
        door::check_axes(args, count, rules);
        if (with_lse && x.lse.extent(3) != 1) { door::refuse(sentence<A>("heed: lse has ", x.lse.extent(3), " features; it holds one number per row, lse.feature must be 1")); }
        door::check_offsets(args[0], args[2]);
        if (with_lse) { door::check_offsets(args[0], args[3]); }
        door::check_outputs(args, count);
        for (int o = 2; o < count; ++o) {
            door::check_apart(args[o], argument::of("the cache's k", tensor_view<K const>(x.cache.k)));
            door::check_apart(args[o], argument::of("the cache's v", tensor_view<V const>(x.cache.v)));
        }
        // heads that share a row are masked alike
        call_sizes const n{q_.batch, sizes_.group == q_.head ? 1 : q_.head, q_.seq, x.cache.longest(), q_.feature};
        auto const look = [&](char const* name, auto const& view, shape want, auto... exact) {
            door::check_view(name, view.shape(), want, sizeof...(exact) > 0);
            for (int o = 2; o < count; ++o) { door::check_apart(args[o], argument::of(name, view)); }
        };
        if constexpr (requires { mechanism_.pattern.views(n, look); }) { mechanism_.pattern.views(n, look); }
        call_sizes const all{q_.batch, q_.head, q_.seq, x.cache.longest(), q_.feature};
        if constexpr (requires { mechanism_.normalizer.views(all, look); }) { mechanism_.normalizer.views(all, look); }
        if constexpr (requires { mechanism_.score.views(n, look); }) { mechanism_.score.views(n, look); }
        mechanism_.load.views(all, look);
        if (x.cache.kind == cache_kind::ring) {
            for (extent_t b = 0; b < q_.batch; ++b) {
                place const at = x.at(b, 0);
                range const hull = detail::hull_of(mechanism_.pattern, at, {0, at.queries});
                if (hull.size() > 0 && hull.begin < x.cache.oldest(b)) {
                    door::refuse(sentence<A>("heed: the ring of sequence ", b, " remembers positions from ", x.cache.oldest(b), " on and the mechanism looks back to ", hull.begin, "; a window of w keys and n new tokens need a ring of w + n - 1"));
                }
            }
        }
        if (workspace < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace, " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
    }
};

// The plan of a step. q: a tensor, or heed::factored whose rows are what they stand for; of a plan only its shape and rank matter.
template <class Q = float, class A = native_arch, class M, class Queries, detail::GroupedCache C, class B = cpu<serial, A>>
auto plan_grouped_decode(M const& mechanism, Queries const& q, C& c, B const& backend = {}) {
    auto const with = detail::with_operands<false>(mechanism, q, plain{}, plain{});
    auto const to = c.grouped();
    using rows = std::remove_cvref_t<decltype(to.rows)>;
    return grouped_decode_plan<std::remove_const_t<decltype(with)>, Q, typename rows::key_type, typename rows::value_type, B>(with, detail::operand_view<Q>(q).shape(), to.rows, to.of, backend);
}

// As heed::decode of keys and values: options are a backend, save{lse} or save_log2{lse}. Bitwise the same for any number of threads, in any batch, for
// contiguous caches and pages. Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, class M, class Queries, class C, class O, class... Options>
    requires detail::GroupedCache<C>
auto decode(M const& mechanism, Queries const& q, C&& c, O&& out, Options const&... options) {
    static_assert((detail::is_option<Options> && ...), "heed: options of decode are a backend (heed::cpu{...}) and heed::save{lse} or heed::save_log2{lse}");
    auto const out_view = as_view(out);
    using Q = typename decltype(out_view)::element_type;
    static_assert(!std::is_const_v<Q>, "heed: out is written; it must not be a view of const");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_save(options...);
    auto p = plan_grouped_decode<Q, A>(mechanism, q, c, backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(detail::operand_view<Q>(q), c, out_view, std::span<std::byte>(memory.get(), bytes), saved);
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) { return saved; }
}

} // namespace heed
