// SPDX-License-Identifier: BSD-3-Clause
// merge: results of the same queries over different keys become the result over all of them. Split keys, a prefix shared by many sequences,
// keys on several machines: compute each part with forward or decode and its log-sum-exp saved, then join.
//
//   lse = ln sum_s e^{lse_s}      out = sum_s e^{lse_s - lse} out_s         (softmax; other normalizers by their own monoid)
//
// Laws: associative and commutative up to rounding; a part without keys (lse -inf) changes no bit and its out is not read; split equals whole.
// A sink is counted by merge, once: save the parts with the plain softmax and merge them with softmax_sink. Cost: one read of every part.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/merge_partials.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <utility>

namespace heed {

// One part, or the place of the result: out (B, H, N, dv) and where its log-sum-exp is, save{lse} or save_log2{lse}; nothing for
// normalizers that keep no number of a row. The base is part of the type: parts of different bases do not merge.
template <class T, class Save = detail::no_save>
struct partial {
    tensor_view<T> out;
    Save saved = {};
};
template <class T>
partial(tensor_view<T>) -> partial<T>;
template <class T, class Save>
partial(tensor_view<T>, Save) -> partial<T, Save>;

// `count` parts at equal distances in memory: part s lies out_step and lse_step elements behind part s - 1.
template <class T, class Save = detail::no_save>
struct partials {
    partial<T, Save> first;
    extent_t count, out_step, lse_step;
};
template <class T, class Save>
partials(partial<T, Save>, extent_t, extent_t, extent_t) -> partials<T, Save>;

namespace detail {

template <class M>
HEED_HD constexpr auto const& normalizer_of(M const& m) {
    if constexpr (Pairwise<M>) {
        return m.normalizer;
    } else {
        return m;
    }
}

template <class N, class Save>
constexpr double saved_unit() {
    if constexpr (is_save<Save>) {
        return N::unit / (Save::natural ? 1.0 : math::log2e);
    } else {
        return 1.0;
    }
}
template <class N, class To, class T, class Save>
HEED_HD part_rows<To> rows_of(partial<T, Save> const& p) {
    part_rows<To> r{p.out, {}, saved_unit<N, Save>()};
    if constexpr (is_save<Save>) { r.lse = p.saved.lse; }
    return r;
}
template <class T>
HEED_HD tensor_view<T> moved(tensor_view<T> const& v, extent_t by) {
    return v.data_handle() == nullptr ? v : tensor_view<T>{v.data_handle() + by, v.shape(), v.strides(), v.offsets()};
}
// Part s of a list, for the engine.
template <class T>
struct stepped_parts {
    part_rows<T> first;
    extent_t out_step, lse_step;
    HEED_HD part_rows<T> operator()(extent_t s) const { return {moved(first.out, s * out_step), moved(first.lse, s * lse_step), first.unit}; }
};
template <class T>
struct two_parts {
    part_rows<T> a, b;
    HEED_HD part_rows<T> operator()(extent_t s) const { return s == 0 ? a : b; }
};
template <class N, class To, class T, class Save>
HEED_HD stepped_parts<To> list_of(partials<T, Save> const& p) {
    return {rows_of<N, To>(p.first), p.out_step, p.lse_step};
}

inline constexpr axis_rule part_rules[] = {
    {0, axis::batch, rule_kind::equal, 2, axis::batch}, {0, axis::head, rule_kind::equal, 2, axis::head},
    {0, axis::seq, rule_kind::equal, 2, axis::seq},     {0, axis::feature, rule_kind::equal, 2, axis::feature},
    {1, axis::batch, rule_kind::equal, 2, axis::batch}, {1, axis::head, rule_kind::equal, 2, axis::head},
    {1, axis::seq, rule_kind::equal, 2, axis::seq},     {3, axis::batch, rule_kind::equal, 2, axis::batch},
    {3, axis::head, rule_kind::equal, 2, axis::head},   {3, axis::seq, rule_kind::equal, 2, axis::seq},
};

// One part against the result (or, in backward, a tensor of a part against the merged one): shapes, offsets, aliases.
template <class A, class T, class U>
void check_part(part_rows<T> const& part, part_rows<U> const& whole, bool keeps) {
    using door = detail::door<A>;
    argument args[4] = {argument::of("a part's out", part.out), argument::of("a part's lse", part.lse), argument::of("out", whole.out), argument::of("lse", whole.lse)};
    bool const both = keeps && part.lse.data_handle() != nullptr, with_whole = keeps && whole.lse.data_handle() != nullptr;
    if (!both) { args[1] = {"a part's lse", {whole.out.extent(0), whole.out.extent(1), whole.out.extent(2), 1}, {}, 1, 1, whole.out.offsets(), false}; }
    if (!with_whole) { args[3] = {"lse", {whole.out.extent(0), whole.out.extent(1), whole.out.extent(2), 1}, {}, 1, 1, whole.out.offsets(), false}; }
    door::check_axes(args, 4, part_rules);
    for (int i : {1, 3}) {
        if (args[i].extents.feature != 1) {
            door::refuse(sentence<A>("heed: ", args[i].name, " has ", args[i].extents.feature, " features; it holds one number per row, lse.feature must be 1"));
        }
    }
    for (int i : {0, 1, 3}) { door::check_offsets(args[i], args[2]); }
    argument list[4];
    int count = 0;
    for (int i = 0; i < 4; ++i) {
        if ((i != 1 || both) && (i != 3 || with_whole)) { list[count++] = args[i]; }
    }
    door::check_outputs(list, count);
}

template <class N>
constexpr void require_mergeable() {
    static_assert(!requires(N const n, double x) { n.finish_slope(x); }, "heed: parts merge before the exit map: use heed::tropical<max_plus>, merge, then apply it");
    if constexpr (!is_idempotent<N>) {
        static_assert(MergeableNormalizer<N>, "heed: merge needs a normalizer with merge and log_sum_exp; this one's rows do not combine from parts");
        static_assert(DifferentiableNormalizer<N>, "heed: merge needs a normalizer with kept and resume, which give a row's state back from what was saved");
    }
}

template <class A, class N, class Parts, class T, class... Options>
void merge_parts(N const& normalizer, Parts const& part, extent_t count, part_rows<T> const& into, Options const&... options) {
    require_mergeable<N>();
    static_assert((is_backend<Options> && ...), "heed: the only option of merge is a backend, heed::cpu{...}");
    auto backend = pick_backend(cpu<serial, A>{}, options...);
    static_assert(is_cpu<decltype(backend)>, "heed: merge runs on the cpu backend");
    if (N::kept != 0 && count > 0 && part(0).lse.data_handle() == nullptr && into.out.shape().size() > 0) {
        door<A>::refuse("heed: merge needs the log-sum-exp of every part; give partial{out, save{lse}}");
    }
    for (extent_t s = 0; s < count; ++s) { check_part<A>(part(s), into, N::kept != 0); }
    if constexpr (requires { normalizer.views(call_sizes{}, [](auto const&...) {}); }) {
        shape const n = into.out.shape();
        normalizer.views(call_sizes{n.batch, n.head, n.seq, 0, 0}, [](char const* name, auto const& view, shape want, auto... exact) { door<A>::check_view(name, view.shape(), want, sizeof...(exact) > 0); });
    }
    if (into.out.extent(0) * into.out.extent(1) * into.out.extent(2) == 0) { return; }
    using engine = merge_partials<N, T, typename decltype(backend)::arch_type>;
    engine::run(normalizer, part, count, into, backend.executor, concurrency_of(backend.executor));
}

// Option of merge_backward: the gradient of what the normalizer holds, softmax_sink's sink_gradient.
template <class N, class O>
inline constexpr bool is_own_gradient = false;
template <class N, class O>
    requires requires { typename N::gradient; }
inline constexpr bool is_own_gradient<N, O> = std::is_same_v<O, typename N::gradient>;
struct no_own_gradient {};
template <class N>
constexpr no_own_gradient pick_own_gradient() { return {}; }
template <class N, class First, class... Rest>
constexpr auto pick_own_gradient(First const& first, Rest const&... rest) {
    if constexpr (is_own_gradient<N, First>) {
        return first;
    } else {
        return pick_own_gradient<N>(rest...);
    }
}

template <class A, class T, class N, class Parts, class Gradients, class... Options>
void split_parts(N const& normalizer, Parts const& part, extent_t count, part_rows<T const> const& merged, part_rows<T const> const& d, Gradients const& d_part,
                 Options const&... options) {
    require_mergeable<N>();
    static_assert(!is_idempotent<N>, "heed: merge_backward is of weighted sums; where values are gathered by a maximum, backward of the whole finds the winners");
    static_assert(N::centred != centre::mean, "heed: merge_backward is written for normalizers whose parts weigh e^(lse_s - lse), or 1");
    static_assert(((is_backend<Options> || is_own_gradient<N, Options>) && ...),
                  "heed: options of merge_backward are a backend, heed::cpu{...}, and the gradient of the normalizer's own numbers, heed::sink_gradient{dsinks}");
    auto backend = pick_backend(cpu<serial, A>{}, options...);
    static_assert(is_cpu<decltype(backend)>, "heed: merge_backward runs on the cpu backend");
    if (N::kept != 0 && merged.lse.data_handle() == nullptr && merged.out.shape().size() > 0) {
        door<A>::refuse("heed: merge_backward needs the log-sum-exp that merge saved; give partial{out, save{lse}}");
    }
    check_part<A>(d, merged, N::kept != 0);
    for (extent_t s = 0; s < count; ++s) {
        check_part<A>(part(s), merged, N::kept != 0);
        check_part<A>(d_part(s), merged, N::kept != 0);
        check_part<A>(d_part(s), d, N::kept != 0);
        for (extent_t t = 0; t < count; ++t) { check_part<A>(d_part(s), part(t), N::kept != 0); }
    }
    auto const own = pick_own_gradient<N>(options...);
    if constexpr (requires { own.d; }) {
        argument const given = argument::of(own.name, own.d), apart[] = {argument::of("out", merged.out), argument::of("dout", d.out), argument::of("lse", merged.lse)};
        door<A>::check_same(given, {"its data", normalizer.gradient_shape(), {}, 1, sizeof(T), {}, false});
        for (argument const& other : apart) { door<A>::check_apart(given, other); }
    }
    if (merged.out.extent(0) * merged.out.extent(1) * merged.out.extent(2) == 0) { return; }
    using engine = merge_partials<N, T, typename decltype(backend)::arch_type>;
    engine::run_backward(normalizer, part, count, merged, d, d_part, backend.executor, concurrency_of(backend.executor));
    if constexpr (requires { own.d; }) { engine::run_parameter(normalizer, merged, d, own.d, backend.executor, concurrency_of(backend.executor)); }
}

} // namespace detail

// Joins two parts, or a list of them, from left to right, into `into`. First argument: the mechanism or its normalizer. Last: a backend
// (default: the calling thread). Parts: float or double. Throws shape_error before anything is written. No allocation.
template <class A = native_arch, class M, class TA, class TB, class Save, class T, class Into, class... Options>
void merge(M const& mechanism, partial<TA, Save> const& a, partial<TB, Save> const& b, partial<T, Into> const& into, Options const&... options) {
    using N = std::remove_cvref_t<decltype(detail::normalizer_of(mechanism))>;
    detail::two_parts<T const> const parts{detail::rows_of<N, T const>(a), detail::rows_of<N, T const>(b)};
    detail::merge_parts<A>(detail::normalizer_of(mechanism), parts, extent_t(2), detail::rows_of<N, T>(into), options...);
}
template <class A = native_arch, class M, class TA, class Save, class T, class Into, class... Options>
void merge(M const& mechanism, partials<TA, Save> const& parts, partial<T, Into> const& into, Options const&... options) {
    using N = std::remove_cvref_t<decltype(detail::normalizer_of(mechanism))>;
    detail::merge_parts<A>(detail::normalizer_of(mechanism), detail::list_of<N, T const>(parts), parts.count, detail::rows_of<N, T>(into), options...);
}

// Gradients of every part's out and log-sum-exp from those of the merged ones. `merged` is what merge wrote; d_merged its gradients (no
// save: only out has one); d_a, d_b, d_parts are written, their log-sum-exp where they have one. Gradients of a base-2 log-sum-exp are per
// unit of base 2. Options: a backend; sink_gradient{dsinks} where the normalizer is softmax_sink, in the sinks' shape.
template <class A = native_arch, class M, class TA, class Save, class TM, class SM, class TD, class SD, class T, class Into, class... Options>
void merge_backward(M const& mechanism, partial<TA, Save> const& a, partial<TA, Save> const& b, partial<TM, SM> const& merged, partial<TD, SD> const& d_merged,
                    partial<T, Into> const& d_a, partial<T, Into> const& d_b, Options const&... options) {
    using N = std::remove_cvref_t<decltype(detail::normalizer_of(mechanism))>;
    detail::two_parts<T const> const parts{detail::rows_of<N, T const>(a), detail::rows_of<N, T const>(b)};
    detail::two_parts<T> const d_parts{detail::rows_of<N, T>(d_a), detail::rows_of<N, T>(d_b)};
    detail::split_parts<A, T>(detail::normalizer_of(mechanism), parts, extent_t(2), detail::rows_of<N, T const>(merged), detail::rows_of<N, T const>(d_merged), d_parts,
                              options...);
}
template <class A = native_arch, class M, class TA, class Save, class TM, class SM, class TD, class SD, class T, class Into, class... Options>
void merge_backward(M const& mechanism, partials<TA, Save> const& parts, partial<TM, SM> const& merged, partial<TD, SD> const& d_merged, partials<T, Into> const& d_parts,
                    Options const&... options) {
    using N = std::remove_cvref_t<decltype(detail::normalizer_of(mechanism))>;
    detail::split_parts<A, T>(detail::normalizer_of(mechanism), detail::list_of<N, T const>(parts), parts.count, detail::rows_of<N, T const>(merged),
                              detail::rows_of<N, T const>(d_merged), detail::list_of<N, T>(d_parts), options...);
}

} // namespace heed
