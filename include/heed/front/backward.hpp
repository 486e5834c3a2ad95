// SPDX-License-Identifier: BSD-3-Clause
// The door of gradients: backward(mechanism, q, k, v, out, saved, dout, dq, dk, dv, options...).
#pragma once

#include <heed/engine/engine_for.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/front/plan.hpp>

namespace heed {

namespace detail {
template <class O>
inline constexpr bool is_saved_gradient = false;
template <class T>
inline constexpr bool is_saved_gradient<saved_gradient<T>> = true;

template <class O>
inline constexpr bool is_backward_option = is_backend<O> || is_saved_gradient<O> || PolicyGradient<O>;

// For a plan that is only asked for its bytes: tensors of null address among q, k and v get their memory later.
struct unplaced {};

// How engines of other backends than the CPU are asked; their headers say.
template <class Engines>
struct gradient_engine;

template <class G, class M>
constexpr int takers_in_mechanism() {
    return takers_of<G, decltype(M::score)> + takers_of<G, decltype(M::normalizer)>;
}
} // namespace detail

// What a backward call will do, before it does it: engine, workspace. Reusable, allocates nothing. Made from the checked arguments of a call, since
// gradients of broadcast data decide how work is cut.
template <class M, class E, class B>
class backward_plan {
    using T = compute_t<E>;
    using engine_type = backward_engine<M, E, B>;
    using A = typename B::arch_type;
    using door = detail::door<A>;
    using problem = pairwise_gradient_problem<M, E>;
    static constexpr int kept = detail::kept_of<decltype(M::normalizer)>();
    static constexpr bool on_cpu = detail::is_cpu<B>;

    M mechanism_;
    problem problem_;
    B backend_;

public:
    template <class Saved, class... Options>
    backward_plan(M const& mechanism, tensor_view<E const> q, tensor_view<E const> k, tensor_view<E const> v, tensor_view<E const> out, Saved const& saved,
                  tensor_view<E const> dout, tensor_view<E> dq, tensor_view<E> dk, tensor_view<E> dv, B const& backend, Options const&... options)
        : mechanism_(mechanism), problem_{mechanism_, q, k, v, out, dout, {}, {}, 1, 1, dq, dk, dv, {}, {}, false}, backend_(backend) {
        if constexpr (detail::is_save<Saved>) {
            static_assert(kept > 0, "heed: this normalizer keeps nothing of a row; pass heed::nothing_saved{}");
            problem_.saved = saved.lse;
            problem_.saved_unit = decltype(M::normalizer)::unit / (Saved::natural ? 1.0 : math::log2e);
            problem_.dsaved_unit = Saved::natural ? 1.0 : math::log2e;
        } else {
            static_assert(kept == 0, "heed: backward of this normalizer needs what forward saved: pass the result of forward(..., heed::save{lse})");
        }
        (take(options, options...), ...);
        check(detail::is_save<Saved>, (std::is_same_v<Options, detail::unplaced> || ...));
    }
    backward_plan(backward_plan const& other) : mechanism_(other.mechanism_), problem_(rebound(other)), backend_(other.backend_) {}

    // On a GPU the engine depends on the call.
    static constexpr std::string_view engine() requires on_cpu { return engine_type::name; }
    std::string_view engine() const requires(!on_cpu) { return detail::gradient_engine<engine_type>::name(problem_); }
    std::size_t workspace_bytes() const {
        if constexpr (on_cpu) { return line_bytes - 1 + engine_type::workspace_bytes(problem_, detail::concurrency_of(backend_.executor)); }
        if constexpr (!on_cpu) { return line_bytes - 1 + detail::gradient_engine<engine_type>::workspace_bytes(problem_); }
    }
    std::string describe() const {
        if constexpr (on_cpu) {
            return sentence<A>(engine(), " on ", arch_name<A>(), ", tiles of ", engine_type::pitch, " queries x ", extent_t(engine_type::C.keys), " keys, ", workspace_bytes(), " workspace bytes");
        } else {
            return sentence<A>(engine(), detail::gradient_engine<engine_type>::manner(problem_, backend_), ", ", workspace_bytes(), " workspace bytes");
        }
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, backward_plan const& p) {
        s << p.describe();
        return s;
    }
    // Runs in the caller's memory (at least workspace_bytes(), any alignment).
    void run(std::span<std::byte> workspace) {
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        if constexpr (on_cpu) {
            engine_type::run(problem_, backend_.executor, detail::concurrency_of(backend_.executor), workspace.data());
        } else {
            detail::gradient_engine<engine_type>::run(problem_, backend_, workspace.data());
        }
    }

private:
    problem rebound(backward_plan const& o) const {
        problem const& x = o.problem_;
        return {mechanism_, x.q, x.k, x.v, x.out, x.dout, x.saved, x.dsaved, x.saved_unit, x.dsaved_unit, x.dq, x.dk, x.dv, x.score_gradients, x.normalizer_gradient, x.wants_leading_factor};
    }
    // One option; its number among the options of its type decides which stage it belongs to.
    template <class O, class... All>
    void take(O const& option, All const&... all) {
        if constexpr (detail::is_saved_gradient<O>) {
            static_assert(MergeableNormalizer<decltype(M::normalizer)> && decltype(M::normalizer)::centred == centre::output,
                          "heed: saved_gradient is the gradient of a log-sum-exp of the weights; this normalizer saves something else");
            problem_.dsaved = option.d;
        } else if constexpr (PolicyGradient<O>) {
            static_assert(!requires { requires engine_type::tensors_only; }, "heed: on the GPU backward gives dq, dk and dv; gradients of policies' data are made by heed::cpu");
            static_assert(!detail::is_idempotent<decltype(M::normalizer)>, "heed: where values are gathered by a maximum, backward gives dq, dk and dv only; policies' data have no gradient");
            static_assert(detail::takers_in_mechanism<O, M>() > 0, "heed: no policy of this mechanism takes this gradient; its element type must be that of the policy's data");
            int nth = 0;
            bool before = true;
            auto const count = [&](auto const& other) {
                before = before && static_cast<void const*>(&other) != static_cast<void const*>(&option);
                if constexpr (std::is_same_v<std::remove_cvref_t<decltype(other)>, O>) { nth += before ? 1 : 0; }
            };
            (count(all), ...);
            detail::give(problem_.score_gradients, option, nth);
            detail::give(problem_.normalizer_gradient, option, nth);
            if (nth >= 0) { door::refuse(sentence<A>("heed: more options '", O::name, "' than policies that take one")); }
        }
    }
    void check(bool with_saved, bool unplaced) {
        using detail::argument;
        problem const& x = problem_;
        argument args[detail::gradient_arguments] = {
            argument::of("q", x.q),       argument::of("k", x.k),         argument::of("v", x.v),   argument::of("out", x.out), argument::of("lse", x.saved),
            argument::of("dout", x.dout), argument::of("dlse", x.dsaved), argument::of("dq", x.dq), argument::of("dk", x.dk),   argument::of("dv", x.dv)};
        for (int const i : {detail::arg_q, detail::arg_k, detail::arg_v}) { args[i].made = unplaced && args[i].address == 0; }
        door::check_axes(args, with_saved ? 5 : 4, detail::pairwise_rules);
        if (with_saved && x.saved.extent(3) != kept) {
            door::refuse(sentence<A>("heed: lse has ", x.saved.extent(3), " features; it holds what forward saved of a row, lse.feature must be ", kept));
        }
        argument given[detail::gradient_arguments + 16];
        int count = 0;
        for (int i = 0; i < detail::gradient_arguments; ++i) {
            bool const wanted = i <= detail::arg_out || i == detail::arg_dout || (i == detail::arg_lse ? with_saved : args[i].address != 0);
            if (!wanted) { continue; }
            if (int const of = detail::gradient_of[i]; of >= 0) {
                door::check_same(args[i], args[of]);
                door::check_offsets(args[i], args[of]);
            }
            given[count++] = args[i];
        }
        door::check_offsets(args[detail::arg_q], args[detail::arg_out]);
        if (with_saved) { door::check_offsets(args[detail::arg_q], args[detail::arg_lse]); }
        door::check_offsets(args[detail::arg_k], args[detail::arg_v]);
        call_sizes const sizes{x.q.extent(0), x.q.extent(1), x.q.extent(2), x.k.extent(2), x.q.extent(3), x.k.extent(1)};
        auto const gradient = [&](auto const& stage, auto const& option) {
            if (option.d.data_handle() == nullptr) { return; }
            argument const a = argument::of(option.name, option.d), want = {"its data", stage.gradient_shape(), {}, 1, sizeof(T), {}, false};
            door::check_same(a, want);
            given[count++] = a;
        };
        for_each_option(problem_.m.score, problem_.score_gradients, gradient);
        if constexpr (requires { typename decltype(M::normalizer)::gradient; }) { gradient(problem_.m.normalizer, problem_.normalizer_gradient.own); }
        problem_.wants_leading_factor = false;
        detail::for_each_gradient(problem_.m.score, problem_.score_gradients, [&](auto, auto, bool leading, auto const&, auto const& d) { problem_.wants_leading_factor = problem_.wants_leading_factor || (leading && d.data_handle() != nullptr); });
        door::check_outputs(given, count);
        mechanism_.views(sizes, [&](char const* name, auto const& view, shape want, auto... exact) {
            door::check_view(name, view.shape(), want, sizeof...(exact) > 0);
            for (int i = 0; i < count; ++i) {
                if (given[i].written) { door::check_apart(given[i], argument::of(name, view)); }
            }
        });
    }
    template <class S, class F>
    static void for_each_option(S const& s, detail::mirror<S> const& m, F const& f) {
        if constexpr (requires { m.own; }) { f(s, m.own); }
    }
    template <class S1, class S2, class F>
    static void for_each_option(then<S1, S2> const& s, detail::mirror<then<S1, S2>> const& m, F const& f) {
        for_each_option(s.first, m.first, f);
        for_each_option(s.second, m.second, f);
    }
};

// Gradients of a loss by q, k and v (and by data of the policies), from its derivative dout by out. out and saved are what forward wrote:
//   saved     the result of forward(..., save{lse}) or save_log2{lse}; nothing_saved{} for normalizers that keep nothing
//   dq dk dv  shaped as q, k, v; a default-constructed tensor_view<T>{} is not computed
// Options in any order: a backend; saved_gradient{dlse}; gradients of policies' data, by name, in the shape of the data: bias_gradient{view},
// alibi_gradient, relative_bias_gradient, forgetting_gradient, scale_gradient, softcap_gradient, sink_gradient; the n-th of a name goes to the n-th
// such stage of the chain. Everything is written, nothing accumulated. Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, class M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
void backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, Saved const& saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert((detail::is_backward_option<Options> && ...),
                  "heed: options of backward are a backend (heed::cpu{...}), heed::saved_gradient{dlse} and gradients of policies such as heed::bias_gradient{dbias}");
    static_assert(detail::is_save<Saved> || std::is_same_v<Saved, nothing_saved>, "heed: saved is the result of forward(..., heed::save{lse}), or heed::nothing_saved{}");
    using E = typename decltype(as_view(dout))::value_type;
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    backward_plan<M, E, std::remove_const_t<decltype(backend)>> p(mechanism, as_view(q), as_view(k), as_view(v), as_view(out), saved, as_view(dout), as_view(dq), as_view(dk), as_view(dv),
                                                                  backend, options...);
    detail::call_memory<std::remove_const_t<decltype(backend)>> const memory(backend, p.workspace_bytes());
    p.run(memory.span());
}

} // namespace heed
