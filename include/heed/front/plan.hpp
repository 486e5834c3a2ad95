// SPDX-License-Identifier: BSD-3-Clause
// plan: what a call will do, before it does it: the engine, its tiles, the bytes of workspace. Printable, reusable, allocates nothing.
#pragma once

#include <heed/engine/engine_for.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace heed {

namespace detail {

// The rules of a forward call, for plans of any backend.
template <class M, class T, class A>
struct forward_door : door<A> {
    using door<A>::check_axes, door<A>::check_view, door<A>::check_offsets, door<A>::check_outputs, door<A>::check_apart, door<A>::refuse;
    static constexpr int kept = kept_of<decltype(M::normalizer)>(); // numbers of a row that can be saved

    static void check_shapes(M const& mechanism, shape q, shape k, shape v) {
        argument args[] = {{"q", q, {}, 1, sizeof(T), {}, false}, {"k", k, {}, 1, sizeof(T), {}, false}, {"v", v, {}, 1, sizeof(T), {}, false}};
        check_axes(args, 3, pairwise_rules);
        mechanism.views(call_sizes{q.batch, q.head, q.seq, k.seq, q.feature, k.head}, [](char const* name, auto const& view, shape want, auto... exact) { check_view(name, view.shape(), want, sizeof...(exact) > 0); });
    }
    template <class Q, class K, class V, class O, class Save>
    static pairwise_problem<T> problem(Q const& q_in, K const& k_in, V const& v_in, O const& out_in, Save const& saved) {
        tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
        tensor_view<T> const out = as_view(out_in);
        pairwise_problem<T> x{q, k, v, out, {}, 0};
        if constexpr (is_save<Save>) {
            static_assert(std::is_same_v<typename decltype(saved.lse)::value_type, compute_t<T>>, "heed: the log-sum-exp is of the type of computation: float for float, bf16 and fp16, double for double");
            static_assert(kept != 0, "heed: this normalizer keeps no number of a row (its weights do not depend on the other keys); there is nothing to save");
            x.lse = saved.lse;
            x.lse_unit = (Save::natural ? 1.0 : math::log2e) / decltype(M::normalizer)::unit;
        }
        return x;
    }
    // A call against the shapes of its plan.
    static void check(M const& mechanism, pairwise_problem<T> const& x, bool with_lse, shape q, shape k, shape v, std::size_t workspace, std::size_t needed) {
        argument args[pairwise_arguments] = {argument::of("q", x.q), argument::of("k", x.k), argument::of("v", x.v), argument::of("out", x.out), argument::of("lse", x.lse)};
        args[arg_q].made = makes_rows<decltype(decltype(M::load)::q)>;
        args[arg_k].made = makes_rows<decltype(decltype(M::load)::k)>;
        args[arg_v].made = makes_rows<decltype(decltype(M::load)::v)>;
        int const count = with_lse ? 5 : 4;
        check_axes(args, count, pairwise_rules);
        if (with_lse && x.lse.extent(3) != kept) {
            refuse(sentence<A>("heed: lse has ", x.lse.extent(3), " features; it holds ", kept == 1 ? "one number" : "two numbers", " per row, lse.feature must be ", kept));
        }
        if (!(x.q.shape() == q) || !(x.k.shape() == k) || !(x.v.shape() == v)) { refuse("heed: the plan was made for other shapes of q, k or v; make a new plan"); }
        check_offsets(args[arg_q], args[arg_out]);
        if (with_lse) { check_offsets(args[arg_q], args[arg_lse]); }
        check_offsets(args[arg_k], args[arg_v]);
        check_outputs(args, count);
        call_sizes const sizes{q.batch, q.head, q.seq, k.seq, q.feature, k.head};
        mechanism.views(sizes, [&](char const* name, auto const& view, shape, auto...) {
            for (int o = arg_out; o < count; ++o) { check_apart(args[o], argument::of(name, view)); }
        });
        if (workspace < needed) { refuse(sentence<A>("heed: the workspace has ", workspace, " bytes and the plan needs ", needed, "; see plan.workspace_bytes()")); }
    }
};

// The one allocation of a call through a door.
template <class B>
struct call_memory {
    std::unique_ptr<std::byte[]> memory;
    std::size_t bytes;
    call_memory(B const&, std::size_t n) : memory(n == 0 ? nullptr : new std::byte[n]), bytes(n) {}
    std::span<std::byte> span() const { return {memory.get(), bytes}; }
};

} // namespace detail

template <class M, class T, class B>
class forward_plan {
    using engine_type = forward_engine<M, T, B>;
    M mechanism_;
    shape q_, k_, v_;
    B backend_;

    static constexpr bool on_cpu = detail::is_cpu<B>;
    using A = typename B::arch_type;
    using door = detail::forward_door<M, T, A>;

public:
    forward_plan(M const& mechanism, shape q, shape k, shape v, B const& backend) : mechanism_(mechanism), q_(q), k_(k), v_(v), backend_(backend) {
        door::check_shapes(mechanism_, q, k, v);
    }

    static constexpr std::string_view engine() { return engine_type::name; }
    // Tiles of the engine: queries and keys of a tile, both 1 for the reference engine.
    static constexpr extent_t tile_queries() {
        if constexpr (on_cpu) { return engine_type::pitch; }
        return 1;
    }
    static constexpr extent_t tile_keys() {
        if constexpr (on_cpu) { return engine_type::C.keys; }
        return 1;
    }
    // How many items run at once.
    int slots() const {
        if constexpr (on_cpu) {
            extent_t const items = division().items;
            int const most = detail::concurrency_of(backend_.executor);
            return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
        }
        return 1;
    }
    std::size_t workspace_bytes() const {
        if constexpr (on_cpu) { return line_bytes - 1 + static_cast<std::size_t>(slots()) * engine_type::slot_bytes(mechanism_, q_, v_, division()); }
        if constexpr (!on_cpu) { return line_bytes - 1 + engine_type::slot_bytes(q_, v_); }
    }

    // Runs in the caller's memory (at least workspace_bytes(), any alignment). Shapes must be those of the plan.
    template <class Q, class K, class V, class O, class Save = detail::no_save>
    void run(Q const& q_in, K const& k_in, V const& v_in, O const& out_in, std::span<std::byte> workspace, Save const& saved = {}) {
        pairwise_problem<T> const problem = door::problem(q_in, k_in, v_in, out_in, saved);
        door::check(mechanism_, problem, detail::is_save<Save>, q_, k_, v_, workspace.size(), workspace_bytes());
        if (q_.batch * q_.head * q_.seq == 0) { return; }
        if constexpr (on_cpu) {
            engine_type::run(mechanism_, problem, backend_.executor, division(), slots(), workspace.data());
        } else {
            engine_type::run(mechanism_, problem, workspace.data());
        }
    }

    std::string describe() const {
        return sentence<A>(engine(), " on ", on_cpu ? arch_name<A>() : "any processor", ", tiles of ", tile_queries(), " queries x ", tile_keys(), " keys, ", slots(),
                           slots() == 1 ? " slot, " : " slots, ", workspace_bytes(), " workspace bytes");
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, forward_plan const& p) {
        s << p.describe();
        return s;
    }

private:
    auto division() const { return engine_type::divide(mechanism_, q_, detail::concurrency_of(backend_.executor)); }
};

// plan<float>(mechanism, q.shape(), k.shape(), v.shape(), backend)
template <class T = float, class A = native_arch, class M, class B = cpu<serial, A>>
forward_plan<M, T, B> plan(M const& mechanism, shape q, shape k, shape v, B const& backend = {}) {
    return {mechanism, q, k, v, backend};
}

} // namespace heed
