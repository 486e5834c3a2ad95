// SPDX-License-Identifier: BSD-3-Clause
// The doors of the spectral family: forward(mechanism, z, v, out, options...), its plan, and the plain convolutions.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/spectral_prefix.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace heed {

template <class M, class T, class B>
struct spectral_engine_for {
    static_assert(sizeof(M) == 0, "heed: spectral mechanisms run on the cpu backend, heed::cpu{...}");
};
template <Spectral M, class T, class E, class A>
struct spectral_engine_for<M, T, cpu<E, A>> {
    using type = std::conditional_t<M::by_prefix, spectral_prefix<T, A>, spectral_forward<T, A>>;
    using gradient_type = std::conditional_t<M::by_prefix, spectral_prefix<T, A, true>, spectral_backward<T, A>>;
};

namespace detail {

enum spectral_argument { arg_weights, arg_values, arg_mixed, spectral_arguments };

// z, v and out of a call of a spectral mechanism.
template <Spectral M, class A>
void check_spectral(M const&, argument const (&x)[spectral_arguments]) {
    using door = detail::door<A>;
    static constexpr axis_rule same_features[] = {{arg_mixed, axis::feature, rule_kind::equal, arg_values, axis::feature}};
    static constexpr axis_rule same_rows[] = {{arg_mixed, axis::seq, rule_kind::equal, arg_weights, axis::seq}};
    static constexpr axis_rule same_values[] = {{arg_mixed, axis::seq, rule_kind::equal, arg_values, axis::seq}};
    door::check_axes(x, 3, same_features, 1);
    if constexpr (M::circular || M::by_prefix) { door::check_axes(x, 3, same_rows, 1); }
    if constexpr (!M::circular) { door::check_axes(x, 3, same_values, 1); }
    for (int i = 0; i < 2; ++i) {
        for (int r = 0; r < 2; ++r) {
            extent_t const have = x[i].extents[r], want = x[arg_mixed].extents[r];
            if (have != want && have != 1 && (r == 0 || have == 0 || want % have != 0)) {
                door::refuse(sentence<A>("heed: ", x[i].name, ".", axis_name(static_cast<axis>(r)), " is ", have, " and out has ", want, axis_unit(static_cast<axis>(r)),
                                         r == 0 ? "; it must be equal or 1 (shared)" : "; it must divide them (consecutive heads share)"));
            }
        }
    }
    extent_t const wide = x[arg_weights].extents.feature, d = x[arg_mixed].extents.feature;
    if (wide != 1 && (M::by_prefix || wide != d)) {
        door::refuse(sentence<A>("heed: z has ", wide, " features and out has ", d, M::by_prefix ? "; scores are one number a token, z.feature must be 1" : "; z.feature must be 1 or equal out.feature"));
    }
    if (wide != 1 && !std::is_same_v<decltype(M::normalizer), as_given>) { door::refuse("heed: weights of each channel are taken as they are; a softmax over tokens needs one score a token, z.feature must be 1"); }
    for (auto const& one : x) {
        if (one.offsets) { door::refuse(sentence<A>("heed: ", one.name, " is ragged; sequences of different lengths have different transforms, call once for each")); }
    }
}

} // namespace detail

namespace detail {

// The bytes and the tables of a forward or backward call.
template <class Engine, class B>
class spectral_plan_base {
protected:
    using A = typename B::arch_type;
    using door = detail::door<A>;
    B backend_;
    Engine engine_;

    spectral_plan_base(B const& backend, Engine const& engine) : backend_(backend), engine_(engine) {}
    static void short_of(char const* what, std::size_t have, std::size_t need) {
        if (have < need) { door::refuse(sentence<A>("heed: the ", what, have, " bytes and the plan needs ", need)); }
    }
    template <class Problem>
    void run_in(Problem const& x, std::span<std::byte const> tables, std::span<std::byte> workspace) {
        short_of("tables have ", tables.size(), tables_bytes());
        short_of("workspace has ", workspace.size(), scratch_bytes());
        engine_.run(x, backend_.executor, slots(), aligned(const_cast<std::byte*>(tables.data())), aligned(workspace.data()));
    }
    template <class Problem>
    void run_with_tables(Problem const& x, std::span<std::byte> workspace) {
        short_of("workspace has ", workspace.size(), workspace_bytes());
        make_tables(workspace.first(tables_bytes()));
        run_in(x, workspace.first(tables_bytes()), workspace.subspan(tables_bytes()));
    }

public:
    static constexpr std::string_view engine() { return Engine::name; }
    // Rows of the (longest) transform; 0: this short, products are faster.
    extent_t transform_length() const { return engine_.transform_length(); }
    int slots() const {
        extent_t const items = engine_.items();
        int const most = concurrency_of(backend_.executor);
        return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
    std::size_t tables_bytes() const { return line_bytes - 1 + engine_.tables_bytes(); }
    std::size_t scratch_bytes() const { return line_bytes - 1 + engine_.workspace_bytes(slots()); } // of run() with tables
    std::size_t workspace_bytes() const { return tables_bytes() + scratch_bytes(); }                // of run() without: they are made in it each time

    // Makes the tables in memory of tables_bytes() that the caller keeps; they are right for every call of this plan, on any number of threads.
    void make_tables(std::span<std::byte> tables) const {
        short_of("tables have ", tables.size(), tables_bytes());
        engine_.prepare(aligned(tables.data()));
    }
    std::string describe() const {
        std::string const how = transform_length() == 0 ? std::string("by products") : sentence<A>("transforms of ", transform_length(), " rows");
        return sentence<A>(engine(), " on ", arch_name<A>(), ", ", how, ", ", slots(), slots() == 1 ? " slot, " : " slots, ", tables_bytes(), " bytes of tables, ", workspace_bytes(), " workspace bytes");
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, spectral_plan_base const& p) {
        s << p.describe();
        return s;
    }
};

template <class T, class A, Spectral M>
void check_spectral_shapes(M const& m, shape z, shape v, shape out) {
    argument const x[] = {{"z", z, {}, 1, sizeof(T), {}, false}, {"v", v, {}, 1, sizeof(T), {}, false}, {"out", out, {}, 1, sizeof(T), {}, false}};
    check_spectral<M, A>(m, x);
}

} // namespace detail

// What a forward call will do. Tables depend on the lengths only; they are the caller's to keep, and threads may share them.
template <Spectral M, class T, class B>
class spectral_plan : public detail::spectral_plan_base<typename spectral_engine_for<M, T, B>::type, B> {
    using base = detail::spectral_plan_base<typename spectral_engine_for<M, T, B>::type, B>;
    using typename base::A;
    using typename base::door;
    M mechanism_;
    shape z_, v_, out_;

public:
    spectral_plan(M const& mechanism, shape z, shape v, shape out, B const& backend)
        : base(backend, (detail::check_spectral_shapes<T, A>(mechanism, z, v, out), spectral_engine_for<M, T, B>::type::of(detail::slots_of(mechanism), z, v, out))), mechanism_(mechanism), z_(z), v_(v), out_(out) {}

    // Runs with tables made before, in scratch_bytes() of workspace.
    template <class Z, class V, class O>
    void run(Z const& z, V const& v, O const& out, std::span<std::byte const> tables, std::span<std::byte> workspace) {
        this->run_in(checked({as_view(z), as_view(v), as_view(out)}), tables, workspace);
    }
    // Runs in workspace_bytes(), tables included.
    template <class Z, class V, class O>
    void run(Z const& z, V const& v, O const& out, std::span<std::byte> workspace) {
        this->run_with_tables(checked({as_view(z), as_view(v), as_view(out)}), workspace);
    }

private:
    spectral_problem<T> const& checked(spectral_problem<T> const& x) const {
        using detail::argument;
        argument const args[] = {argument::of("z", x.z), argument::of("v", x.v), argument::of("out", x.out)};
        detail::check_spectral<M, A>(mechanism_, args);
        if (!(x.z.shape() == z_) || !(x.v.shape() == v_) || !(x.out.shape() == out_)) { door::refuse("heed: the plan was made for other shapes of z, v or out; make a new plan"); }
        door::check_outputs(args, detail::spectral_arguments);
        return x;
    }
};

// plan<float>(mechanism, z.shape(), v.shape(), out.shape(), backend)
template <class T = float, class A = native_arch, Spectral M, class B = cpu<serial, A>>
spectral_plan<M, T, B> plan(M const& mechanism, shape z, shape v, shape out, B const& backend = {}) {
    return {mechanism, z, v, out, backend};
}

namespace detail {
template <class T>
constexpr void check_spectral_elements() {
    static_assert(!std::is_const_v<T>, "heed: out is written; it must not be a view of const");
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: spectral mechanisms take float or double");
}
} // namespace detail

// out = v mixed by the weights that z gives. z (B, H, K, 1) or (B, H, K, d), v (B, H, M, d), out (B, H, N, d); z and v may have batch 1
// (shared) and fewer heads, which divide those of out (consecutive ones share). K = N but for an unwrapped border without prefix_softmax; M = N but for a wrapped one. Option: a backend heed::cpu{...}.
// Throws shape_error before out is written. Makes one allocation of plan.workspace_bytes(); tables are made in each call: keep a plan to save them.
// The form with a backend is written as the door of attention is, so that the family decides which of the two is meant.
template <class A = native_arch, class M, class Z, class V, class O, class B, class... Options>
    requires Spectral<M>
void forward(M const& mechanism, Z const& z, V const& v, O const& out, B&& backend, Options const&...) {
    static_assert(detail::is_backend<std::remove_cvref_t<B>> && sizeof...(Options) == 0, "heed: the option of a spectral forward is a backend, heed::cpu{...}");
    tensor_view const out_view = as_view(out);
    using T = typename decltype(out_view)::element_type;
    detail::check_spectral_elements<T>();
    auto p = plan<T, A>(mechanism, as_view(z).shape(), as_view(v).shape(), out_view.shape(), std::remove_cvref_t<B>(backend));
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(z, v, out_view, std::span<std::byte>(memory.get(), bytes));
}

template <class A = native_arch, Spectral M, class Z, class V, class O>
void forward(M const& mechanism, Z const& z, V const& v, O&& out) {
    forward<A>(mechanism, z, v, as_view(out), cpu<serial, A>{});
}

// out_i = sum_t w_t v_((i - t) mod N). w (B, H, N, 1), one for all channels of a head, or (B, H, N, d).
template <class W, class V, class O, class... Options>
void circular_convolve(W const& w, V const& v, O&& out, Options const&... options) {
    forward(spectral{wrapped{}, convolution{}}, w, v, out, options...);
}
// out_i = sum_(t <= i) w_t v_(i - t). w (B, H, K, 1) or (B, H, K, d) of any length K.
template <class W, class V, class O, class... Options>
void causal_convolve(W const& w, V const& v, O&& out, Options const&... options) {
    forward(spectral{unwrapped{}, convolution{}}, w, v, out, options...);
}

} // namespace heed
