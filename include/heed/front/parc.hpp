// SPDX-License-Identifier: BSD-3-Clause
// The doors of ParCNetV2's gate: forward(parc(down, across, added), a, b, out, options...) and its backward.
#pragma once

#include <heed/engine/cpu/row_products.hpp>
#include <heed/front/spectral_backward.hpp>
#include <heed/mechanism/parc.hpp>

#include <memory>

namespace heed {

// Where backward puts the gradients by the kernels and by what was added; tensor_view<T>{} is not computed.
template <class T>
struct oversized_gate_gradient {
    tensor_view<T> down = {}, across = {}, added = {};
};
template <class T>
oversized_gate_gradient(tensor_view<T>, tensor_view<T>) -> oversized_gate_gradient<T>;
template <class T>
oversized_gate_gradient(tensor_view<T>, tensor_view<T>, tensor_view<T>) -> oversized_gate_gradient<T>;

namespace detail {

template <class A, OversizedGate M>
void check_oversized_gate(M const& m, argument const* x, int count) { // a and what has its shape
    using door = detail::door<A>;
    door::check_axes(x, count, nullptr, 0);
    for (int i = 0; i < count; ++i) {
        door::check_same(x[i], x[0]);
        if (x[i].offsets) { door::refuse(sentence<A>("heed: ", x[i].name, " is ragged; images of different sizes have different kernels, call once for each")); }
    }
    shape const s = x[0].extents;
    auto const kernel = [&](char const* name, auto const& k, extent_t n, char const* unit) {
        argument const one = argument::of(name, k);
        door::check_axes(&one, 1, nullptr, 0);
        extent_t const want = n == 0 ? k.extent(2) : 2 * n - 1;
        if (k.extent(2) != want) { door::refuse(sentence<A>("heed: ", name, " has ", k.extent(2), " taps and there are ", n, unit, "; an oversized kernel has 2 n - 1 = ", want)); }
        if (k.extent(0) != 1 || k.extent(1) != 1 || k.is_ragged()) { door::refuse(sentence<A>("heed: ", name, " must be (1, 1, 2 n - 1, d), one kernel for the batch")); }
        door::check_view(name, k.shape(), {1, 1, k.extent(2), s.feature}, false);
    };
    if (m.down.data_handle() != nullptr) { kernel("down", m.down, s.head, " rows"); }
    kernel("across", m.across, s.seq, " columns");
    if (m.added.data_handle() != nullptr) { door::check_same(argument::of("added", m.added), x[0]); }
}

// An image with rows and columns exchanged, as it lies.
template <class T>
tensor_view<T> exchanged(tensor_view<T> const& v) {
    shape const s = v.shape();
    strides const t = v.strides();
    return {v.data_handle(), {s.batch, s.seq, s.head, s.feature}, {t.batch, t.seq, t.head, t.feature}};
}

template <class T, class A, class B>
class oversized_run {
    using mixing = decltype(oversized_convolution(1));
    oversized_gate<T> const& m_;
    B& backend_;
    shape s_;
    bool gradient_;
    spectral_plan<mixing, T, B> across_, down_;
    spectral_backward_plan<mixing, T, B> back_across_, back_down_;

    struct places {
        T *gated, *tall, *context, *d; // gelu(b), down of it, the context; gradients go back and forth between d and context
        T *ddown, *dacross;
        std::byte* work;
        std::size_t work_bytes;
    };
    bool has_down() const { return m_.down.data_handle() != nullptr; }
    static shape turned(shape s) { return {s.batch, s.seq, s.head, s.feature}; }
    places lay(arena& a) const {
        places w{};
        w.gated = a.take<T>(s_.size());
        w.tall = a.take<T>(has_down() ? s_.size() : 0);
        w.context = a.take<T>(s_.size());
        w.d = a.take<T>(gradient_ ? s_.size() : 0);
        w.ddown = a.take<T>(gradient_ && has_down() ? m_.down.shape().size() : 0);
        w.dacross = a.take<T>(gradient_ ? m_.across.shape().size() : 0);
        for (std::size_t const n : {across_.workspace_bytes(), has_down() ? down_.workspace_bytes() : 0, gradient_ ? back_across_.workspace_bytes() : 0, gradient_ && has_down() ? back_down_.workspace_bytes() : 0}) {
            w.work_bytes = n > w.work_bytes ? n : w.work_bytes;
        }
        w.work = a.take<std::byte>(static_cast<extent_t>(w.work_bytes));
        return w;
    }
    auto walk() { return walk_rows<A>(backend_.executor, concurrency_of(backend_.executor)); }
    tensor_view<T> at(T* p) const { return {p, s_}; }
    std::span<std::byte> work(places const& w) const { return {w.work, w.work_bytes}; }

    void find_context(tensor_view<T const> const& b, places const& w) {
        walk().map_lanes(at(w.gated), b, b, [](auto x, auto) HEED_INLINE_LAMBDA { return gelu(x); });
        if (has_down()) { down_.run(m_.down, exchanged(tensor_view<T const>(at(w.gated))), exchanged(at(w.tall)), work(w)); }
        across_.run(m_.across, at(has_down() ? w.tall : w.gated), at(w.context), work(w));
        if (m_.added.data_handle() != nullptr) {
            walk().map(at(w.context), m_.added, m_.added, [](T& x, T y, T) HEED_INLINE_LAMBDA { x += y; });
        }
    }
    static void copy(tensor_view<T> const& to, T const* from) {
        for (extent_t t = 0; to.data_handle() != nullptr && t < to.extent(2); ++t)
            for (extent_t c = 0; c < to.extent(3); ++c) { to(0, 0, t, c) = from[t * to.extent(3) + c]; }
    }

public:
    oversized_run(oversized_gate<T> const& m, shape s, B& backend, bool gradient)
        : m_(m), backend_(backend), s_(s), gradient_(gradient), across_(oversized_convolution(s.seq), m.across.shape(), s, s, backend),
          down_(oversized_convolution(s.head), has_down() ? m.down.shape() : shape{1, 1, 1, 1}, turned(s), turned(s), backend), back_across_(oversized_convolution(s.seq), m.across.shape(), s, s, backend),
          back_down_(oversized_convolution(s.head), has_down() ? m.down.shape() : shape{1, 1, 1, 1}, turned(s), turned(s), backend) {}

    std::size_t bytes() const {
        arena count(nullptr);
        lay(count);
        return count.bytes() + line_bytes;
    }
    void forward(tensor_view<T const> const& a, tensor_view<T const> const& b, tensor_view<T> const& out, std::byte* memory) {
        arena place(aligned(memory));
        auto const w = lay(place);
        find_context(b, w);
        walk().multiply(out, a, tensor_view<T const>(at(w.context)));
    }
    void backward(tensor_view<T const> const& a, tensor_view<T const> const& b, tensor_view<T const> const& dout, tensor_view<T> const& da, tensor_view<T> const& db, oversized_gate_gradient<T> const& to,
                  std::byte* memory) {
        arena place(aligned(memory));
        auto const w = lay(place);
        find_context(b, w);
        auto const context = at(w.context), d = at(w.d);
        walk().multiply(da, dout, tensor_view<T const>(context));
        walk().multiply(d, dout, a);
        if (to.added.data_handle() != nullptr) {
            walk().map(to.added, tensor_view<T const>(d), tensor_view<T const>(d), [](T& x, T y, T) HEED_INLINE_LAMBDA { x = y; });
        }
        tensor_view<T const> const down_of(at(has_down() ? w.tall : w.gated));
        back_across_.run({m_.across, down_of, down_of, d, tensor_view<T>(w.dacross, m_.across.shape()), context}, work(w));
        copy(to.across, w.dacross);
        tensor_view<T> dgated = context;
        if (has_down()) {
            tensor_view<T const> const gated = exchanged(tensor_view<T const>(at(w.gated)));
            back_down_.run({m_.down, gated, gated, exchanged(tensor_view<T const>(context)), tensor_view<T>(w.ddown, m_.down.shape()), exchanged(d)}, work(w));
            copy(to.down, w.ddown);
            dgated = d;
        }
        walk().map_lanes(db, b, tensor_view<T const>(dgated), [](auto x, auto g) HEED_INLINE_LAMBDA { return gelu_slope(x) * g; });
    }
};

} // namespace detail

// a, b, out (B, rows, columns, d). Option: a backend heed::cpu{...}. Throws shape_error before out is written. Makes one allocation.
template <class A = native_arch, class M, class X, class Y, class O, class B, class... Options>
    requires OversizedGate<M>
void forward(M const& mechanism, X const& a_in, Y const& b_in, O const& out_in, B&& given, Options const&...) {
    using backend_type = std::remove_cvref_t<B>;
    static_assert(detail::is_backend<backend_type> && sizeof...(Options) == 0, "heed: the option of an oversized gate is a backend, heed::cpu{...}");
    tensor_view const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    detail::check_spectral_elements<T>();
    tensor_view<T const> const a = as_view(a_in), b = as_view(b_in);
    using detail::argument;
    argument const args[] = {argument::of("a", a), argument::of("b", b), argument::of("out", out), argument::of("down", mechanism.down), argument::of("across", mechanism.across), argument::of("added", mechanism.added)};
    detail::check_oversized_gate<A>(mechanism, args, 3);
    detail::door<A>::check_outputs(args, 6);
    if (out.shape().size() == 0) { return; }
    backend_type backend = given;
    detail::oversized_run<T, A, backend_type> run(mechanism, out.shape(), backend, false);
    std::unique_ptr<std::byte[]> const memory(new std::byte[run.bytes()]);
    run.forward(a, b, out, memory.get());
}
template <class A = native_arch, OversizedGate M, class X, class Y, class O>
void forward(M const& mechanism, X const& a, Y const& b, O&& out) {
    forward<A>(mechanism, a, b, as_view(out), cpu<serial, A>{});
}

// The gradients of sum(out dout); out is what forward gave (only its shape is read: the context is computed again). Everything is written, nothing
// accumulated. Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, OversizedGate M, class X, class Y, class O, class DO, class DX, class DY, class T, class B = cpu<serial, A>>
void backward(M const& mechanism, X const& a_in, Y const& b_in, O const& out_in, DO const& dout_in, DX&& da_in, DY&& db_in, oversized_gate_gradient<T> const& parameters, B const& given = {}) {
    static_assert(detail::is_backend<B>, "heed: the option of an oversized gate is a backend, heed::cpu{...}");
    detail::check_spectral_elements<T>();
    tensor_view<T const> const a = as_view(a_in), b = as_view(b_in), out = as_view(out_in), dout = as_view(dout_in);
    tensor_view<T> const da = as_view(da_in), db = as_view(db_in);
    using detail::argument;
    using door = detail::door<A>;
    argument const args[] = {argument::of("a", a), argument::of("b", b), argument::of("dout", dout), argument::of("da", da), argument::of("db", db), argument::of("down", mechanism.down),
                             argument::of("across", mechanism.across), argument::of("added", mechanism.added), argument::of("gradient of down", parameters.down),
                             argument::of("gradient of across", parameters.across), argument::of("gradient of added", parameters.added)};
    detail::check_oversized_gate<A>(mechanism, args, 5);
    door::check_same(argument::of("out", out), args[0]);
    for (int i = 8; i < 11; ++i) {
        if (args[i].address != 0) { door::check_same(args[i], args[i - 3]); }
    }
    door::check_outputs(args, 11);
    if (a.shape().size() == 0) {
        for (auto const& empty : {parameters.down, parameters.across}) {
            for (extent_t t = 0; empty.data_handle() != nullptr && t < empty.extent(2); ++t)
                for (extent_t c = 0; c < empty.extent(3); ++c) { empty(0, 0, t, c) = T(0); }
        }
        return;
    }
    B backend = given;
    detail::oversized_run<T, A, B> run(mechanism, a.shape(), backend, true);
    std::unique_ptr<std::byte[]> const memory(new std::byte[run.bytes()]);
    run.backward(a, b, dout, da, db, parameters, memory.get());
}

} // namespace heed
