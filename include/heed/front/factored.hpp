// SPDX-License-Identifier: BSD-3-Clause
// The doors of attention on factors: forward and backward where q, k or v is a heed::factored{a, b} instead of a tensor.
//
// Forward makes rows when a tile is packed: nothing of size N H d is kept. Backward takes one KV head (and the queries of its group) after another: that
// head's rows of q, k and v and their gradients are the workspace, 2 B (N (d + dv) g + M (d + dv)) numbers whatever H is; what they send to the
// factors is added in the order of the heads.
#pragma once

#include <heed/engine/cpu/factored_rows.hpp>
#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/front/mixture.hpp>

namespace heed {

namespace detail {

template <class X>
concept FactoredOperand = is_factored<std::remove_cvref_t<X>> || is_third_order<std::remove_cvref_t<X>>;
template <class Q, class K, class V>
inline constexpr bool any_factored = FactoredOperand<Q> || FactoredOperand<K> || FactoredOperand<V>;

template <class T, class X>
tensor_view<T const> operand_view(X const& x) {
    if constexpr (FactoredOperand<X>) {
        static_assert(std::is_same_v<T, typename X::element_type>, "heed: factors have the element type of the tensors of their call");
        return x.rows_view();
    } else {
        return as_view(x);
    }
}
// The loader of an operand: the operand itself if it is factored (Made: rows of its head will lie in a tensor), else the mechanism's.
template <bool Made, class X, class L>
auto loader_of(X const& x, L const& loader) {
    if constexpr (FactoredOperand<X>) {
        static_assert(is_plain<L>, "heed: a factored operand has no other loader; what turns its rows is its own, heed::factored{a, b, rotary}");
        if constexpr (Made) { return plain{}; } else { return x; }
    } else {
        return loader;
    }
}
template <bool Made, class M, class Q, class K, class V>
auto with_operands(M const& m, Q const& q, K const& k, V const& v) {
    auto const lq = loader_of<Made>(q, m.load.q);
    auto const lk = loader_of<Made>(k, m.load.k);
    auto const lv = loader_of<Made>(v, m.load.v);
    return with_load(m, load<std::remove_const_t<decltype(lq)>, std::remove_const_t<decltype(lk)>, std::remove_const_t<decltype(lv)>>{lq, lk, lv});
}
// Heads first ... first + count of a view.
template <class T>
tensor_view<T> heads_of(tensor_view<T> const& v, extent_t first, extent_t count) {
    if (v.data_handle() == nullptr) { return v; }
    return {v.data_handle() + first * v.stride(1), {v.extent(0), count, v.extent(2), v.extent(3)}, v.strides(), v.offsets()};
}
template <class A, class X, class T>
void check_factors(X const& x, tensor_view<T const> const& rows) {
    if constexpr (FactoredOperand<X>) {
        using door = detail::door<A>;
        ragged_offsets offsets;
        char const* ragged = nullptr;
        x.each_factor([&](char const* name, auto const& f) {
            argument const own = argument::of(name, f);
            door::check_axes(&own, 1, nullptr, 0);
            if (!f.is_ragged()) { return; }
            argument before = own;
            if (ragged != nullptr) {
                before.name = ragged, before.offsets = offsets;
                door::check_offsets(own, before);
            }
            ragged = name, offsets = f.offsets();
        });
        if (ragged == nullptr || rows.extent(0) == 1) { return; }
        x.each_factor([&](char const* name, auto const& f) {
            if (!f.is_ragged() && f.extent(2) != 1) { door::refuse(sentence<A>("heed: ", ragged, " is ragged and ", name, " has ", f.extent(2), " positions; both need the same offsets, or one row for all")); }
        });
    }
}

HEED_HD constexpr no_save pick_saved_gradient() { return {}; }
template <class First, class... Rest>
HEED_HD constexpr auto pick_saved_gradient(First const& first, Rest const&... rest) {
    if constexpr (is_saved_gradient<First>) {
        return first;
    } else {
        return pick_saved_gradient(rest...);
    }
}

} // namespace detail

// As heed::forward of tensors. q, k, v: tensors or heed::factored; shapes are those that the factors stand for.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires(Pairwise<M> && detail::any_factored<Q, K, V>)
auto forward(M const& mechanism, Q const& q_in, K const& k_in, V const& v_in, O&& out, Options const&... options) {
    using T = typename decltype(as_view(out))::element_type;
    static_assert(!std::is_const_v<T>, "heed: out is written; it must not be a view of const");
    tensor_view<T const> const q = detail::operand_view<T>(q_in), k = detail::operand_view<T>(k_in), v = detail::operand_view<T>(v_in);
    detail::check_factors<A>(q_in, q);
    detail::check_factors<A>(k_in, k);
    detail::check_factors<A>(v_in, v);
    return heed::forward<A>(detail::with_operands<false>(mechanism, q_in, k_in, v_in), q, k, v, out, options...);
}

// As heed::backward of tensors; dq, dk, dv of a factored operand is a heed::factored_gradient{da, db}, shaped as the factors, of which each may be a null
// view. Options: a backend, saved_gradient{dlse}. Policies that hold data per head are refused: heads are taken one after another. Throws shape_error before
// anything is written. Makes two allocations: rows and gradients of a head, and the workspace of its plan.
template <class A = native_arch, class M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
    requires(Pairwise<M> && detail::any_factored<Q, K, V>)
void backward(M const& mechanism, Q const& q_in, K const& k_in, V const& v_in, O const& out_in, Saved const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in,
              Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_saved_gradient<Options>)&&...), "heed: options of backward on factors are a backend (heed::cpu{...}) and heed::saved_gradient{dlse}");
    using T = typename decltype(as_view(dout_in))::value_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: backward on factors takes float or double");
    using detail::argument;
    using door = detail::door<A>;
    tensor_view<T const> const q = detail::operand_view<T>(q_in), k = detail::operand_view<T>(k_in), v = detail::operand_view<T>(v_in), out = as_view(out_in), dout = as_view(dout_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const dlse = detail::pick_saved_gradient(options...);
    static_assert(detail::is_cpu<decltype(backend)>, "heed: backward runs on the cpu backend");
    detail::check_factors<A>(q_in, q);
    detail::check_factors<A>(k_in, k);
    detail::check_factors<A>(v_in, v);
    auto const loaded = detail::with_operands<false>(mechanism, q_in, k_in, v_in);
    auto const made = detail::with_operands<true>(mechanism, q_in, k_in, v_in);
    forward_plan<std::remove_const_t<decltype(loaded)>, T, decltype(backend)>(loaded, q.shape(), k.shape(), v.shape(), backend); // the rules on shapes
    mechanism.views(call_sizes{q.extent(0), q.extent(1), q.extent(2), k.extent(2), q.extent(3), k.extent(1)}, [&](char const* name, auto const& view, shape, auto...) {
        if (view.extent(1) != 1) { door::refuse(sentence<A>("heed: ", name, " has ", view.extent(1), " heads; backward on factors takes heads one after another and needs data that all share")); }
    });

    // Every output against every tensor of the call.
    argument args[24];
    int count = 0;
    auto const put = [&](char const* name, auto const& view) {
        if (view.data_handle() != nullptr) { args[count++] = argument::of(name, view); }
    };
    auto const put_operand = [&](auto const& x, auto const& d, char const* name) {
        if constexpr (detail::FactoredOperand<decltype(x)>) {
            using gradient = std::conditional_t<detail::is_third_order<std::remove_cvref_t<decltype(x)>>, third_order_gradient<T>, factored_gradient<T>>;
            static_assert(std::is_same_v<std::remove_cvref_t<decltype(d)>, gradient>, "heed: the gradient of a factored operand is a heed::factored_gradient{da, db}, of third_order a third_order_gradient{da, db, dc}");
            argument of[3];
            int known = 0, nth = 0;
            x.each_factor([&](char const* factor, auto const& f) { put(factor, f), of[known++] = argument::of(factor, f); });
            d.each([&](char const* of_factor, auto const& f) {
                put(of_factor, f);
                if (f.data_handle() != nullptr) { door::check_same(argument::of(of_factor, f), of[nth]); }
                ++nth;
            });
        } else {
            put(name, tensor_view<T const>(as_view(x)));
            put("its gradient", as_view(d));
            if (as_view(d).data_handle() != nullptr) { door::check_same(argument::of("a gradient", as_view(d)), argument::of(name, as_view(x))); }
        }
    };
    put_operand(q_in, dq_in, "q"), put_operand(k_in, dk_in, "k"), put_operand(v_in, dv_in, "v");
    put("out", out), put("dout", dout);
    if constexpr (detail::is_save<Saved>) { put("lse", tensor_view<T const>(saved.lse)); }
    door::check_outputs(args, count);
    argument const results[] = {argument::of("q", q), argument::of("out", out), argument::of("dout", dout)};
    door::check_same(results[2], results[1]);
    if (k.extent(1) == 0 || q.extent(1) == 0) { return; }

    extent_t const heads = k.extent(1), group = q.extent(1) / heads;
    int const slots = detail::concurrency_of(backend.executor);
    // Rows and gradients of one head's operand, where it is factored: in memory of the call's own.
    struct buffer {
        tensor_view<T> x, d;
    };
    auto const lay = [&](arena& a, auto const& operand, tensor_view<T const> const& rows, extent_t own, auto const& gradient) -> buffer {
        if constexpr (detail::FactoredOperand<decltype(operand)>) {
            shape const s{rows.extent(0), own, rows.extent(2), rows.extent(3)};
            tensor_view<T const> const like(nullptr, s, rows.strides(), rows.offsets());
            bool wanted = false;
            gradient.each([&](char const*, auto const& d) { wanted = wanted || d.data_handle() != nullptr; });
            extent_t const room = (rows.is_ragged() ? rows.offsets()[rows.offsets().count()] : s.batch * s.seq) * own * s.feature;
            tensor_view<T> const x = detail::like(a.template take<T>(room), like);
            T* const d = a.template take<T>(wanted ? room : 0);
            return {x, wanted ? detail::like(d, like) : tensor_view<T>{}};
        } else {
            return {};
        }
    };
    auto const each_buffer = [&](arena& a, buffer (&all)[3]) {
        all[0] = lay(a, q_in, q, group, dq_in);
        all[1] = lay(a, k_in, k, 1, dk_in);
        all[2] = lay(a, v_in, v, 1, dv_in);
    };
    // The view of the heads at hand: the buffer's, or the caller's.
    auto const part = [&](auto const& operand, tensor_view<T> const& buffered, auto const& given, extent_t first, extent_t own) {
        if constexpr (detail::FactoredOperand<decltype(operand)>) {
            return buffered;
        } else {
            return detail::heads_of(as_view(given), first, own);
        }
    };
    using made_type = std::remove_const_t<decltype(made)>;
    auto const plan_of = [&](extent_t h, buffer const (&b)[3], auto const& use) {
        tensor_view<T const> const qh = part(q_in, b[0].x, q_in, h * group, group), kh = part(k_in, b[1].x, k_in, h, 1), vh = part(v_in, b[2].x, v_in, h, 1);
        tensor_view<T> const dqh = part(q_in, b[0].d, dq_in, h * group, group), dkh = part(k_in, b[1].d, dk_in, h, 1), dvh = part(v_in, b[2].d, dv_in, h, 1);
        auto const with = [&](auto const& state, auto const&... more) {
            backward_plan<made_type, T, decltype(backend)> p(made, qh, kh, vh, detail::heads_of(out, h * group, group), state, detail::heads_of(dout, h * group, group), dqh, dkh, dvh, backend, more...);
            use(p);
        };
        auto const with_state = [&](auto const&... more) {
            if constexpr (detail::is_save<Saved>) {
                with(Saved{detail::heads_of(saved.lse, h * group, group)}, more...);
            } else {
                with(saved, more...);
            }
        };
        if constexpr (detail::is_saved_gradient<std::remove_const_t<decltype(dlse)>>) {
            with_state(saved_gradient<T>{detail::heads_of(dlse.d, h * group, group)});
        } else {
            with_state();
        }
    };
    // Counted, and checked, with stand-ins that nobody reads; nothing is written yet.
    buffer b[3];
    arena counted(nullptr);
    each_buffer(counted, b);
    std::unique_ptr<std::byte[]> memory(new std::byte[line_bytes + counted.bytes()]);
    arena placed(aligned(memory.get()));
    each_buffer(placed, b);
    std::size_t most = 0;
    plan_of(0, b, [&](auto& p) { most = p.workspace_bytes(); });
    std::unique_ptr<std::byte[]> const scratch(new std::byte[most]);

    auto const of_factors = [&](auto const& operand, auto const& gradient, tensor_view<T const> const* keys, auto const& f) {
        if constexpr (detail::FactoredOperand<decltype(operand)>) { f(factored_rows<std::remove_cvref_t<decltype(operand)>, A>{operand, keys}, gradient); }
    };
    auto const for_all = [&](auto const& f) {
        of_factors(q_in, dq_in, &k, [&](auto const& rows, auto const& d) { f(rows, d, b[0], group); });
        of_factors(k_in, dk_in, nullptr, [&](auto const& rows, auto const& d) { f(rows, d, b[1], extent_t(1)); });
        of_factors(v_in, dv_in, nullptr, [&](auto const& rows, auto const& d) { f(rows, d, b[2], extent_t(1)); });
    };
    for_all([&](auto const& rows, auto const& d, buffer const&, extent_t) { rows.clear(d); });
    for (extent_t h = 0; h < heads; ++h) {
        for_all([&](auto const& rows, auto const&, buffer const& of, extent_t own) { rows.make(of.x, h * own, backend.executor, slots); });
        plan_of(h, b, [&](auto& p) { p.run(std::span<std::byte>(scratch.get(), most)); });
        for_all([&](auto const& rows, auto const& d, buffer const& of, extent_t own) {
            if (of.d.data_handle() != nullptr) { rows.contract(of.d, h * own, d, backend.executor, slots); }
        });
    }
}

} // namespace heed
