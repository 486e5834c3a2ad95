// SPDX-License-Identifier: BSD-3-Clause
// Gradients of attention on factors: heed::backward where q, k or v is a heed::factored or heed::third_order instead of a tensor.
//
// One KV head, and the queries of its group, after another: that head's rows of q, k and v and their gradients are the workspace beside that of a head's
// backward, 2 B (N d g + M (d + dv)) numbers whatever H is. What they send to the factors is added in the order of the heads. Where policies hold data per
// head, or their gradient is wanted, all heads are taken at once, and the workspace is H times as large.
#pragma once

#include <heed/engine/cpu/factored_rows.hpp>
#include <heed/front/backward.hpp>
#include <heed/front/factored.hpp>
#include <heed/front/mixture.hpp>

#include <tuple>

namespace heed {

namespace detail {
template <class T, class X>
auto operand_of(X const& x) {
    if constexpr (FactoredOperand<X>) { return x; } else { return tensor_view<T const>(as_view(x)); }
}
// Where the gradient of an operand X goes, given as D.
template <class T, class X, class D>
auto gradient_view(D const& d) {
    if constexpr (FactoredOperand<X>) {
        using wanted = std::conditional_t<is_third_order<X>, third_order_gradient<T>, factored_gradient<T>>;
        static_assert(std::is_same_v<D, wanted>, "heed: the gradient of a factored operand is a heed::factored_gradient{da, db}, of third_order a third_order_gradient{da, db, dc}");
        return d;
    } else {
        return tensor_view<T>(as_view(d));
    }
}
} // namespace detail

// What backward on factors will do, before it does it: its workspace. Made from the checked arguments of a call; reusable, allocates nothing.
// Q, K, V: a tensor_view or an operand of factors; DQ, DK, DV: where their gradients go.
template <class M, class T, class B, class Q, class K, class V, class Saved, class DQ, class DK, class DV, class... More>
class factored_backward_plan {
    using A = typename B::arch_type;
    using door = detail::door<A>;
    using argument = detail::argument;
    using made_type = std::remove_const_t<decltype(detail::with_operands<true>(std::declval<M const&>(), std::declval<Q const&>(), std::declval<K const&>(), std::declval<V const&>()))>;
    static_assert(detail::is_cpu<B>, "heed: backward runs on the cpu backend");

    made_type made_;
    Q q_;
    K k_;
    V v_;
    tensor_view<T const> out_, dout_;
    Saved saved_;
    DQ dq_;
    DK dk_;
    DV dv_;
    B backend_;
    std::tuple<More...> more_; // options
    extent_t turn_ = 1;        // KV heads taken at once
    std::size_t head_bytes_ = 0;

    tensor_view<T const> rows_of_q() const { return detail::operand_view<T>(q_); }
    tensor_view<T const> rows_of_k() const { return detail::operand_view<T>(k_); }
    extent_t heads() const { return rows_of_k().extent(1); }
    extent_t group() const { return heads() > 0 ? rows_of_q().extent(1) / heads() : 0; }

    // Rows and gradients of a turn's operand, where it is factored.
    struct buffer {
        tensor_view<T> x, d;
    };
    struct buffers {
        buffer q, k, v;
        buffers(arena& a, factored_backward_plan const& p)
            : q(lay(a, p.q_, p.group() * p.turn_, p.dq_)), k(lay(a, p.k_, p.turn_, p.dk_)), v(lay(a, p.v_, p.turn_, p.dv_)) {}
    };
    template <class X, class D>
    static buffer lay(arena& a, X const& operand, extent_t heads, D const& gradient) {
        if constexpr (detail::FactoredOperand<X>) {
            auto const rows = operand.rows_view();
            tensor_view<T const> const turn(nullptr, {rows.extent(0), heads, rows.extent(2), rows.extent(3)}, rows.strides(), rows.offsets());
            extent_t const room = (rows.is_ragged() ? rows.offsets()[rows.offsets().count()] : rows.extent(0) * rows.extent(2)) * heads * rows.extent(3);
            bool wanted = false;
            gradient.each([&](char const*, auto const& d) { wanted = wanted || d.data_handle() != nullptr; });
            T* const x = a.template take<T>(room);
            T* const d = a.template take<T>(wanted ? room : 0);
            return {detail::like(x, turn), wanted ? detail::like(d, turn) : tensor_view<T>{}};
        } else {
            return {};
        }
    }
    // The view of a turn's heads: the buffer's, or the caller's.
    template <class X, class Y>
    static auto part(X const&, tensor_view<T> const& buffered, Y const& given, extent_t first, extent_t count) {
        if constexpr (detail::FactoredOperand<X>) { return buffered; } else { return detail::heads_of(given, first, count); }
    }
    // use(plan of the KV heads from h on); more: options besides the call's own.
    template <class F, class... Also>
    void plan_of(extent_t h, buffers const& b, F const& use, Also const&... also) const {
        extent_t const first = h * group(), queries = turn_ * group();
        auto const state = [&] {
            if constexpr (detail::is_save<Saved>) { return Saved{detail::heads_of(saved_.lse, first, queries)}; } else { return saved_; }
        }();
        auto const option = [&](auto const& o) {
            if constexpr (detail::is_saved_gradient<std::remove_cvref_t<decltype(o)>>) { return saved_gradient<T>{detail::heads_of(o.d, first, queries)}; } else { return o; }
        };
        std::apply(
            [&](auto const&... o) {
                backward_plan<made_type, T, B> p(made_, part(q_, b.q.x, q_, first, queries), part(k_, b.k.x, k_, h, turn_), part(v_, b.v.x, v_, h, turn_), detail::heads_of(out_, first, queries), state,
                                                 detail::heads_of(dout_, first, queries), part(q_, b.q.d, dq_, first, queries), part(k_, b.k.d, dk_, h, turn_), part(v_, b.v.d, dv_, h, turn_), backend_,
                                                 option(o)..., also...);
                use(p);
            },
            more_);
    }
    // f(rows of an operand, its gradient, its buffer, heads of a turn) for those that are factored.
    template <class F>
    void each_factored(tensor_view<T const> const& keys, buffers const& b, F const& f) const {
        auto const one = [&](auto const& x, auto const& d, tensor_view<T const> const* of, buffer const& mine, extent_t heads) {
            using X = std::remove_cvref_t<decltype(x)>;
            if constexpr (detail::FactoredOperand<X>) { f(factored_rows<X, A>{x, of}, d, mine, heads); }
        };
        one(q_, dq_, &keys, b.q, group() * turn_);
        one(k_, dk_, nullptr, b.k, turn_);
        one(v_, dv_, nullptr, b.v, turn_);
    }

public:
    factored_backward_plan(M const& mechanism, Q const& q, K const& k, V const& v, tensor_view<T const> out, Saved const& saved, tensor_view<T const> dout, DQ const& dq, DK const& dk, DV const& dv,
                           B const& backend, More const&... more)
        : made_(detail::with_operands<true>(mechanism, q, k, v)), q_(q), k_(k), v_(v), out_(out), dout_(dout), saved_(saved), dq_(dq), dk_(dk), dv_(dv), backend_(backend), more_(more...) {
        check(mechanism);
        if (heads() * group() == 0) { return; }
        arena none(nullptr);
        plan_of(0, buffers(none, *this), [&](auto const& p) { head_bytes_ = p.workspace_bytes(); }, detail::unplaced{});
    }

    std::size_t workspace_bytes() const {
        arena count(nullptr);
        buffers(count, *this);
        return line_bytes - 1 + count.bytes() + head_bytes_;
    }
    // KV heads whose rows lie in the workspace at once.
    extent_t heads_at_once() const { return turn_; }
    std::string describe() const { return sentence<A>(backward_plan<made_type, T, B>::engine(), " on rows of ", turn_, turn_ == 1 ? " KV head" : " KV heads", " at once, ", workspace_bytes(), " workspace bytes"); }
    template <class Stream>
    friend Stream& operator<<(Stream& s, factored_backward_plan const& p) {
        s << p.describe();
        return s;
    }
    // Runs in the caller's memory (at least workspace_bytes(), any alignment).
    void run(std::span<std::byte> workspace) {
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        int const slots = detail::concurrency_of(backend_.executor);
        tensor_view<T const> const keys = rows_of_k();
        arena memory(aligned(workspace.data()));
        buffers const b(memory, *this);
        std::byte* const rest = aligned(workspace.data()) + memory.bytes();
        std::span<std::byte> const left(rest, static_cast<std::size_t>(workspace.data() + workspace.size() - rest));
        each_factored(keys, b, [&](auto const& rows, auto const& d, buffer const&, extent_t) { rows.clear(d); });
        for (extent_t h = 0; h < heads() && group() > 0; h += turn_) {
            each_factored(keys, b, [&](auto const& rows, auto const&, buffer const& mine, extent_t own) { rows.make(mine.x, h / turn_ * own, backend_.executor, slots); });
            plan_of(h, b, [&](auto& p) { p.run(left); });
            each_factored(keys, b, [&](auto const& rows, auto const& d, buffer const& mine, extent_t own) {
                if (mine.d.data_handle() != nullptr) { rows.contract(mine.d, h / turn_ * own, d, backend_.executor, slots); }
            });
        }
    }

private:
    void check(M const& mechanism) {
        tensor_view<T const> const q = rows_of_q(), k = rows_of_k(), v = detail::operand_view<T>(v_);
        detail::check_factors<A>(q_, q);
        detail::check_factors<A>(k_, k);
        detail::check_factors<A>(v_, v);
        auto const loaded = detail::with_operands<false>(mechanism, q_, k_, v_);
        detail::forward_door<std::remove_const_t<decltype(loaded)>, T, A>::check_shapes(loaded, q.shape(), k.shape(), v.shape());
        call_sizes const sizes{q.extent(0), q.extent(1), q.extent(2), k.extent(2), q.extent(3), k.extent(1)};
        bool per_head = (PolicyGradient<More> || ...);
        mechanism.views(sizes, [&](char const*, auto const& view, shape, auto...) { per_head = per_head || view.extent(1) != 1; });
        turn_ = per_head ? heads() : 1;

        // Every output against every tensor of the call.
        argument args[24 + 2 * sizeof...(More)];
        int count = 0;
        auto const put = [&](char const* name, auto const& view) {
            if (view.data_handle() != nullptr) { args[count++] = argument::of(name, view); }
        };
        auto const put_operand = [&](auto const& x, auto const& d, char const* name) {
            if constexpr (detail::FactoredOperand<decltype(x)>) {
                argument of[3];
                int known = 0, nth = 0;
                x.each_factor([&](char const* factor, auto const& f) { put(factor, f), of[known++] = argument::of(factor, f); });
                d.each([&](char const* of_factor, auto const& f) {
                    put(of_factor, f);
                    if (f.data_handle() != nullptr) { door::check_same(argument::of(of_factor, f), of[nth]); }
                    ++nth;
                });
            } else {
                put(name, x);
                put("its gradient", d);
                if (d.data_handle() != nullptr) { door::check_same(argument::of("a gradient", d), argument::of(name, x)); }
            }
        };
        put_operand(q_, dq_, "q"), put_operand(k_, dk_, "k"), put_operand(v_, dv_, "v");
        put("out", out_), put("dout", dout_);
        if constexpr (detail::is_save<Saved>) { put("lse", tensor_view<T const>(saved_.lse)); }
        std::apply([&](auto const&... o) { (put("an option's tensor", o.d), ...); }, more_);
        door::check_outputs(args, count);
        mechanism.views(sizes, [&](char const* name, auto const& view, shape, auto...) {
            for (int i = 0; i < count; ++i) {
                if (args[i].written) { door::check_apart(args[i], argument::of(name, view)); }
            }
        });
        shape const want{q.extent(0), q.extent(1), q.extent(2), v.extent(3)};
        for (auto const& x : {argument::of("out", out_), argument::of("dout", dout_)}) {
            argument const rows{"the result of this call", want, {}, 1, sizeof(T), {}, false, true};
            door::check_same(x, rows);
        }
    }
};

// The plan of a call of backward with these arguments.
template <class A = native_arch, class M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
    requires(Pairwise<M> && detail::any_factored<Q, K, V>)
auto plan_backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, Saved const& saved, DO const& dout, DQ const& dq, DK const& dk, DV const& dv, Options const&... options) {
    static_assert((detail::is_backward_option<Options> && ...), "heed: options of backward are a backend (heed::cpu{...}), heed::saved_gradient{dlse} and gradients of policies such as heed::bias_gradient{dbias}");
    using T = typename decltype(as_view(dout))::value_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: backward on factors takes float or double");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const with = [&](auto const&... more) {
        auto const x = detail::operand_of<T>(q);
        auto const y = detail::operand_of<T>(k);
        auto const z = detail::operand_of<T>(v);
        auto const dx = detail::gradient_view<T, Q>(dq);
        auto const dy = detail::gradient_view<T, K>(dk);
        auto const dz = detail::gradient_view<T, V>(dv);
        return factored_backward_plan<M, T, std::remove_const_t<decltype(backend)>, std::remove_const_t<decltype(x)>, std::remove_const_t<decltype(y)>, std::remove_const_t<decltype(z)>, Saved,
                                      std::remove_const_t<decltype(dx)>, std::remove_const_t<decltype(dy)>, std::remove_const_t<decltype(dz)>, std::remove_cvref_t<decltype(more)>...>(
            mechanism, x, y, z, as_view(out), saved, as_view(dout), dx, dy, dz, backend, more...);
    };
    return std::apply(with, std::tuple_cat([](auto const& o) {
                          if constexpr (detail::is_backend<std::remove_cvref_t<decltype(o)>>) { return std::tuple<>{}; } else { return std::make_tuple(o); }
                      }(options)...));
}

// As heed::backward of tensors; dq, dk, dv of a factored operand is a heed::factored_gradient{da, db}, shaped as the factors, of which each may be a null
// view. Options: those of backward. Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, class M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
    requires(Pairwise<M> && detail::any_factored<Q, K, V>)
void backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, Saved const& saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    auto p = plan_backward<A>(mechanism, q, k, v, out, saved, dout, dq, dk, dv, options...);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(std::span<std::byte>(memory.get(), bytes));
}

} // namespace heed
