// SPDX-License-Identifier: BSD-3-Clause
// decode: new queries of every sequence against its cache. The new tokens' own keys and values are appended first: query i of N stands at position
// length - N + i, as the bottom-right rule of forward says. Grouped heads share one pass over their keys; results are bitwise the same for any
// number of threads, in any batch, and for contiguous and paged caches.
#pragma once

#include <heed/engine/engine_for.hpp>
#include <heed/front/cache.hpp>
#include <heed/front/plan.hpp>

#include <string>

namespace heed {

template <class M, class Q, class K, class V, class B>
class decode_plan {
    using engine_type = decode_engine<M, Q, K, V, B>;
    using T = compute_t<K>;
    using A = typename B::arch_type;
    using door = detail::door<A>;
    using problem = decode_problem<Q, K, V, T>;
    static constexpr bool on_cpu = detail::is_cpu<B>;

    M mechanism_;
    shape q_;
    typename engine_type::sizes sizes_;
    extent_t reach_;
    B backend_;
    std::byte const* owned_ = nullptr;

public:
    decode_plan(M const& mechanism, shape q, cache_view<K, V> const& c, B const& backend) : mechanism_(mechanism), q_(q), sizes_(q, c), reach_(c.reach()), backend_(backend) {
        static_assert(std::is_same_v<compute_t<Q>, T>, "heed: queries are of the type in which the cache is computed, or of a type stored in 16 bits");
        static_assert(MergeableNormalizer<decltype(M::normalizer)> || detail::is_idempotent<decltype(M::normalizer)>, "heed: decode splits the keys, so it needs a normalizer with merge and log_sum_exp");
        detail::check_cache<A>(c);
        check_shape(c);
    }

    // Of the cache that the plan was made for; where engines differ by strides and alignment, engine(cache) says which runs another.
    std::string_view engine() const {
        if constexpr (on_cpu) { return engine_type::name; } else { return sizes_.name; }
    }
    template <detail::Cache C>
    std::string_view engine(C const& c) const {
        if constexpr (on_cpu) { return engine_type::name; } else { return typename engine_type::sizes(q_, c.view()).name; }
    }
    extent_t tile_keys() const { return sizes_.tile; }
    extent_t chunks() const { return sizes_.chunks; } // of a KV head, at most
    int slots() const {
        if constexpr (on_cpu) {
            extent_t const items = sizes_.items();
            int const most = detail::concurrency_of(backend_.executor);
            return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
        } else {
            return 1; // a device cuts by itself
        }
    }
    std::size_t workspace_bytes() const { return line_bytes - 1 + engine_type::bytes(sizes_, slots()); }

    // On a device: makes a workspace ready, once; calls that get it again need not. Until the plan is gone nobody else may write there.
    void own(std::span<std::byte> workspace)
        requires(!on_cpu)
    {
        check_workspace(workspace.size());
        engine_type::prepare(backend_, sizes_, workspace.data());
        owned_ = workspace.data();
    }

    // One step, in the caller's memory (at least workspace_bytes(), any alignment). The cache may have grown; its shape may not.
    template <class Queries, class C, class O, class Save = detail::no_save>
    void run(Queries const& q_in, C&& c, O const& out_in, std::span<std::byte> workspace, Save const& saved = {}) {
        problem x{as_view(q_in), c.view(), as_view(out_in), {}, 0};
        if constexpr (detail::is_save<Save>) {
            x.lse = saved.lse;
            x.lse_unit = (Save::natural ? 1.0 : math::log2e) / decltype(M::normalizer)::unit;
        }
        check(x, detail::is_save<Save>, workspace.size());
        if (q_.batch * q_.head * q_.seq == 0) { return; }
        if constexpr (on_cpu) {
            engine_type::run(mechanism_, x, backend_.executor, sizes_, slots(), workspace.data());
        } else {
            engine_type::run(mechanism_, x, backend_, sizes_, workspace.data(), workspace.data() == owned_);
        }
    }

    std::string describe() const {
        return sentence<A>(engine(), on_cpu ? " on " : "", on_cpu ? arch_name<A>() : "", ", ", sizes_.rows, " rows share a pass, tiles of ", tile_keys(), " keys, up to ", chunks(), " chunks of a head, ", slots(),
                           slots() == 1 ? " slot, " : " slots, ", workspace_bytes(), " workspace bytes");
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, decode_plan const& p) {
        s << p.describe();
        return s;
    }

private:
    void check_shape(cache_view<K, V> const& c) const {
        detail::argument const args[] = {{"q", q_, {}, 1, sizeof(Q), {}, false}, {"the cache's k", c.k.shape(), {}, 1, sizeof(K), {}, false}};
        static constexpr detail::axis_rule rules[] = {{0, detail::axis::head, detail::rule_kind::multiple, 1, detail::axis::head},
                                                      {0, detail::axis::feature, detail::rule_kind::equal, 1, detail::axis::feature}};
        door::check_axes(args, 2, rules, 2);
        if (q_.batch != c.sequences()) { door::refuse(sentence<A>("heed: q has ", q_.batch, " batch entries and the cache has ", c.sequences(), " sequences; they must be equal")); }
    }
    void check(problem const& x, bool with_lse, std::size_t workspace) const {
        using detail::argument;
        detail::check_cache<A>(x.cache);
        if (!(x.q.shape() == q_) || x.cache.heads() != sizes_.kv_heads || x.cache.v.extent(3) != sizes_.dv || x.cache.reach() != reach_) {
            door::refuse("heed: the plan was made for another shape of q or of the cache; make a new plan");
        }
        check_shape(x.cache);
        argument args[] = {argument::of("q", x.q), argument::of("the cache's k", tensor_view<K const>(x.cache.k)), argument::of("the cache's v", tensor_view<V const>(x.cache.v)),
                           argument::of("out", x.out), argument::of("lse", x.lse)};
        int const count = with_lse ? 5 : 4;
        static constexpr detail::axis_rule rules[] = {
            {3, detail::axis::batch, detail::rule_kind::equal, 0, detail::axis::batch}, {3, detail::axis::head, detail::rule_kind::equal, 0, detail::axis::head},
            {3, detail::axis::seq, detail::rule_kind::equal, 0, detail::axis::seq},     {3, detail::axis::feature, detail::rule_kind::equal, 2, detail::axis::feature},
            {4, detail::axis::batch, detail::rule_kind::equal, 0, detail::axis::batch}, {4, detail::axis::head, detail::rule_kind::equal, 0, detail::axis::head},
            {4, detail::axis::seq, detail::rule_kind::equal, 0, detail::axis::seq}};
        door::check_axes(args, count, rules);
        if (with_lse && x.lse.extent(3) != 1) { door::refuse(sentence<A>("heed: lse has ", x.lse.extent(3), " features; it holds one number per row, lse.feature must be 1")); }
        door::check_offsets(args[0], args[3]);
        if (with_lse) { door::check_offsets(args[0], args[4]); }
        door::check_outputs(args, count);
        call_sizes const n{q_.batch, q_.head, q_.seq, x.cache.longest(), q_.feature};
        mechanism_.views(n, [&](char const* name, auto const& view, shape want, auto... exact) {
            door::check_view(name, view.shape(), want, sizeof...(exact) > 0);
            for (int o = 3; o < count; ++o) { door::check_apart(args[o], argument::of(name, view)); }
        });
        if (x.cache.kind == cache_kind::ring) { check_ring(x); }
        check_workspace(workspace);
    }
    void check_workspace(std::size_t bytes) const {
        if (bytes < workspace_bytes()) { door::refuse(sentence<A>("heed: the workspace has ", bytes, " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()")); }
    }
    // What a mechanism looks at must still be there.
    void check_ring(problem const& x) const {
        for (extent_t b = 0; b < q_.batch; ++b) {
            for (extent_t h = 0; h < q_.head; ++h) {
                place const at = x.at(b, h);
                range const hull = detail::hull_of(mechanism_.pattern, at, {0, at.queries});
                if (hull.size() > 0 && hull.begin < x.cache.oldest(b)) {
                    door::refuse(sentence<A>("heed: the ring of sequence ", b, " remembers positions from ", x.cache.oldest(b), " on and the mechanism looks back to ", hull.begin,
                                             "; a window of w keys and n new tokens need a ring of w + n - 1"));
                }
            }
        }
    }
};

// plan_decode<float>(mechanism, q.shape(), cache, backend): Q is the element type of queries and results.
template <class Q = float, class A = native_arch, class M, detail::Cache C, class B = cpu<serial, A>>
auto plan_decode(M const& mechanism, shape q, C&& c, B const& backend = {}) {
    auto const v = c.view();
    return decode_plan<M, Q, typename decltype(v.k)::value_type, typename decltype(v.v)::value_type, B>(mechanism, q, v, backend);
}

// out_i = attention of q_i over the cache of its sequence. q, out (B, H, N, d or dv), H a multiple of the cache's heads; N from 1 to many, ragged where
// sequences have different numbers of new tokens; tree{...} masks them among themselves. Options: a backend, save{lse} or save_log2{lse}.
// Throws shape_error before anything is written. Makes one allocation of plan.workspace_bytes() and frees it.
template <class A = native_arch, class M, class Queries, class C, class O, class... Options>
auto decode(M const& mechanism, Queries const& q, C&& c, O&& out, Options const&... options) {
    static_assert((detail::is_option<Options> && ...), "heed: options of decode are a backend (heed::cpu{...}) and heed::save{lse} or heed::save_log2{lse}");
    auto const out_view = as_view(out);
    using Q = typename decltype(out_view)::element_type;
    static_assert(!std::is_const_v<Q>, "heed: out is written; it must not be a view of const");
    static_assert(std::is_same_v<Q, typename decltype(as_view(q))::value_type>, "heed: q and out of decode must have the same element type");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_save(options...);
    auto p = plan_decode<Q, A>(mechanism, as_view(q).shape(), c, backend);
    detail::call_memory<std::remove_const_t<decltype(backend)>> const memory(backend, p.workspace_bytes());
    p.run(q, c, out_view, memory.span(), saved);
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) { return saved; }
}

} // namespace heed
