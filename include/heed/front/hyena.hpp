// SPDX-License-Identifier: BSD-3-Clause
// The doors of the Hyena operator: forward(hyena(filters, skip), v, x, out, options...), its backward, and its stream.
#pragma once

#include <heed/engine/cpu/row_products.hpp>
#include <heed/front/convolution_stream.hpp>
#include <heed/front/spectral_backward.hpp>
#include <heed/mechanism/hyena.hpp>

#include <memory>
#include <vector>

namespace heed {

// Where backward puts the gradients by filters and skip; tensor_view<T>{} is not computed.
template <class T>
struct hyena_gradient {
    tensor_view<T> filters = {}, skip = {};
};
template <class T>
hyena_gradient(tensor_view<T>) -> hyena_gradient<T>;
template <class T>
hyena_gradient(tensor_view<T>, tensor_view<T>) -> hyena_gradient<T>;

namespace detail {

template <class A, HyenaOperator M>
void check_hyena(M const& m, argument const& v, argument const& x, argument const& out) {
    using door = detail::door<A>;
    argument const args[] = {v, x, argument::of("filters", m.filters), argument::of("skip", m.skip)};
    door::check_axes(args, 4, nullptr, 0);
    if (v.extents.head != 1) { door::refuse(sentence<A>("heed: ", v.name, " has ", v.extents.head, " heads; all channels of the operator are features, ", v.name, ".head must be 1")); }
    if (x.extents.head != m.order()) {
        door::refuse(sentence<A>("heed: ", x.name, " has ", x.extents.head, " heads and there are ", m.order() - 1, " filters; an operator of order n has n gates and n - 1 filters"));
    }
    argument of_values = x;
    of_values.extents.head = 1;
    door::check_same(of_values, v);
    door::check_same(out, v);
    door::check_offsets(x, v);
    door::check_offsets(out, v);
    extent_t const d = v.extents.feature;
    door::check_view("filters", m.filters.shape(), {1, m.order() - 1, m.filters.extent(2), d}, false);
    if (m.filters.extent(1) != m.order() - 1 || m.filters.is_ragged()) { door::refuse("heed: filters is ragged; all filters of an operator have one length"); }
    if (m.skip.data_handle() != nullptr) { door::check_same(args[3], {"an operator's skip", {1, m.order() - 1, 1, d}, {}, 1, 1, {}, false, true}); }
}

// Sequences of one length of a batch: entries first ... first + count - 1.
struct equal_lengths {
    extent_t first, count, length;
    template <class T>
    tensor_view<T> of(tensor_view<T> const& v) const {
        return {v.row(first, 0, 0), {count, v.extent(1), length, v.extent(3)}, v.strides()};
    }
};
template <class T, class F>
void each_length(tensor_view<T> const& v, F const& f) {
    if (v.extent(3) == 0) { return; }
    for (extent_t b = 0; v.is_ragged() && b < v.extent(0); ++b) {
        if (v.length(b) > 0) { f(equal_lengths{b, 1, v.length(b)}); }
    }
    if (!v.is_ragged() && v.extent(0) > 0 && v.extent(2) > 0) { f(equal_lengths{0, v.extent(0), v.extent(2)}); }
}
template <class T>
tensor_view<T> one_head(tensor_view<T> const& v, extent_t h) {
    return {v.row(0, h, 0), {v.extent(0), 1, v.extent(2), v.extent(3)}, v.strides()};
}
template <class T>
tensor_view<T> first_rows(tensor_view<T> const& v, extent_t count) {
    return {v.data_handle(), {v.extent(0), v.extent(1), v.extent(2) < count ? v.extent(2) : count, v.extent(3)}, v.strides()};
}
template <class T>
tensor_view<T> repeated_rows(tensor_view<T> const& v, shape s) {
    return {v.data_handle(), s, {0, v.stride(1), 0, v.stride(3)}};
}

// The operator over sequences of one length, in memory of bytes().
template <class T, class A, HyenaOperator M, class B>
class hyena_group {
    using mixing = decltype(std::declval<M const&>().mixing(0));
    M const& m_;
    B& backend_;
    shape rows_; // (count, 1, L, d)
    shape filter_;
    spectral_plan<mixing, T, B> forward_;
    spectral_backward_plan<mixing, T, B> backward_;
    bool gradient_;

    struct places {
        T *gated, *mixed, *dmixed, *dgated, *dfilter; // gated and mixed: one for each convolution where there is a backward, else one
        std::byte *tables, *scratch, *backward;
    };
    extent_t kept() const { return m_.order() > 1 ? (gradient_ ? m_.order() - 1 : 1) : 0; }
    places lay(arena& a) const {
        places w{};
        w.gated = a.take<T>(kept() * rows_.size());
        w.mixed = a.take<T>(kept() * rows_.size());
        w.tables = a.take<std::byte>(kept() > 0 ? static_cast<extent_t>(forward_.tables_bytes()) : 0);
        w.scratch = a.take<std::byte>(kept() > 0 ? static_cast<extent_t>(forward_.scratch_bytes()) : 0);
        bool const back = gradient_ && kept() > 0;
        w.dmixed = a.take<T>(back ? rows_.size() : 0);
        w.dgated = a.take<T>(back ? rows_.size() : 0);
        w.dfilter = a.take<T>(back ? filter_.size() : 0);
        w.backward = a.take<std::byte>(back ? static_cast<extent_t>(backward_.workspace_bytes()) : 0);
        return w;
    }
    tensor_view<T> at(T* p, extent_t i = 0) const { return {p + (gradient_ ? i : 0) * rows_.size(), rows_}; }
    tensor_view<T const> filter(extent_t m) const { return first_rows(one_head(m_.filters, m - 1), rows_.seq); }
    tensor_view<T const> skip(extent_t m) const { return repeated_rows(one_head(m_.skip, m - 1), rows_); }
    bool has_skip() const { return m_.skip.data_handle() != nullptr; }
    auto walk() { return walk_rows<A>(backend_.executor, most_slots()); }
    int most_slots() const { return concurrency_of(backend_.executor); }
    static shape filter_shape(M const& m, extent_t length) { return {1, 1, m.filters.extent(2) < length ? m.filters.extent(2) : length, m.filters.extent(3)}; }

    // v_1, or v itself of order 1.
    tensor_view<T const> convolve(tensor_view<T const> v, tensor_view<T const> const& gates, places const& w) {
        if (kept() > 0) { forward_.make_tables({w.tables, forward_.tables_bytes()}); }
        for (extent_t m = m_.order() - 1; m >= 1; --m) {
            tensor_view<T> const gated = at(w.gated, m - 1), mixed = at(w.mixed, m - 1);
            walk().multiply(gated, v, one_head(gates, m));
            forward_.run(filter(m), gated, mixed, std::span<std::byte const>(w.tables, forward_.tables_bytes()), std::span<std::byte>(w.scratch, forward_.scratch_bytes()));
            if (has_skip()) { walk().multiply_add(mixed, tensor_view<T const>(gated), skip(m)); }
            v = mixed;
        }
        return v;
    }

public:
    hyena_group(M const& m, shape rows, B& backend, bool gradient)
        : m_(m), backend_(backend), rows_(rows), filter_(filter_shape(m, rows.seq)), forward_(m.mixing(rows.seq), filter_, rows, rows, backend),
          backward_(m.mixing(rows.seq), filter_, rows, rows, backend), gradient_(gradient) {}

    std::size_t bytes() const {
        arena count(nullptr);
        lay(count);
        return count.bytes();
    }
    void forward(tensor_view<T const> const& v, tensor_view<T const> const& gates, tensor_view<T> const& out, std::byte* memory) {
        arena a(memory);
        walk().multiply(out, convolve(v, gates, lay(a)), one_head(gates, 0));
    }
    // dfilters and dskip are added to; (n - 1) d numbers of dskip.
    void backward(tensor_view<T const> const& v, tensor_view<T const> const& gates, tensor_view<T const> const& dout, tensor_view<T> const& dv, tensor_view<T> const& dgates, tensor_view<T> const& dfilters,
                  double* dskip, std::byte* memory) {
        arena a(memory);
        auto const w = lay(a);
        tensor_view<T const> const last = convolve(v, gates, w);
        extent_t const n = m_.order();
        tensor_view<T> const dmixed = at(w.dmixed), dgated = at(w.dgated);
        walk().multiply(one_head(dgates, 0), dout, last);
        walk().multiply(n == 1 ? dv : dmixed, dout, one_head(gates, 0));
        for (extent_t m = 1; m < n; ++m) {
            tensor_view<T const> const gated = at(w.gated, m - 1), before = m + 1 == n ? v : tensor_view<T const>(at(w.mixed, m)), d = dmixed;
            tensor_view<T> const dfilter(w.dfilter, filter_);
            backward_.run({filter(m), gated, at(w.mixed, m - 1), d, dfilter, dgated}, std::span<std::byte>(w.backward, backward_.workspace_bytes()));
            if (dfilters.data_handle() != nullptr) {
                tensor_view<T> const to = one_head(dfilters, m - 1);
                for (extent_t t = 0; t < filter_.seq; ++t)
                    for (extent_t c = 0; c < filter_.feature; ++c) { to(0, 0, t, c) += dfilter(0, 0, t, c); }
            }
            if (has_skip()) {
                walk().add_products(dskip + (m - 1) * rows_.feature, d, gated);
                walk().multiply_add(dgated, d, skip(m));
            }
            walk().multiply(one_head(dgates, m), tensor_view<T const>(dgated), before);
            walk().multiply(m + 1 == n ? dv : dmixed, tensor_view<T const>(dgated), one_head(gates, m));
        }
    }
};

} // namespace detail

// v, out (B, 1, N, d), x (B, n, N, d); of centred_hyena, ragged batches have sequences of different lengths. Option: a backend heed::cpu{...}. Throws
// shape_error before out is written. Makes one allocation.
template <class A = native_arch, class M, class V, class X, class O, class B, class... Options>
    requires HyenaOperator<M>
void forward(M const& mechanism, V const& v_in, X const& x_in, O const& out_in, B&& given, Options const&...) {
    using backend_type = std::remove_cvref_t<B>;
    static_assert(detail::is_backend<backend_type> && sizeof...(Options) == 0, "heed: the option of the Hyena operator is a backend, heed::cpu{...}");
    tensor_view const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    detail::check_spectral_elements<T>();
    tensor_view<T const> const v = as_view(v_in), x = as_view(x_in);
    using detail::argument;
    argument const args[] = {argument::of("v", v), argument::of("x", x), argument::of("out", out), argument::of("filters", mechanism.filters), argument::of("skip", mechanism.skip)};
    detail::check_hyena<A>(mechanism, args[0], args[1], args[2]);
    detail::door<A>::check_outputs(args, 5);
    backend_type backend = given;
    using group = detail::hyena_group<T, A, M, backend_type>;
    std::size_t bytes = 0;
    auto const each = [&](auto const& f) {
        detail::each_length(v, [&](detail::equal_lengths const& part) {
            group g(mechanism, {part.count, 1, part.length, v.extent(3)}, backend, false);
            f(g, part);
        });
    };
    each([&](group& g, auto const&) { bytes = g.bytes() > bytes ? g.bytes() : bytes; });
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes + line_bytes]);
    each([&](group& g, auto const& part) { g.forward(part.of(v), part.of(x), part.of(out), aligned(memory.get())); });
}
template <class A = native_arch, HyenaOperator M, class V, class X, class O>
void forward(M const& mechanism, V const& v, X const& x, O&& out) {
    forward<A>(mechanism, v, x, as_view(out), cpu<serial, A>{});
}

// The gradients of sum(out dout); out is what forward gave (only its shape is read: values are computed again). Everything is written, nothing accumulated.
// Throws shape_error before anything is written. Makes one allocation: 2 n tensors of v's size beside what transforms need.
template <class A = native_arch, HyenaOperator M, class V, class X, class O, class DO, class DV, class DX, class T, class B = cpu<serial, A>>
void backward(M const& mechanism, V const& v_in, X const& x_in, O const& out_in, DO const& dout_in, DV&& dv_in, DX&& dx_in, hyena_gradient<T> const& parameters, B const& given = {}) {
    static_assert(detail::is_backend<B>, "heed: the option of the Hyena operator is a backend, heed::cpu{...}");
    detail::check_spectral_elements<T>();
    tensor_view<T const> const v = as_view(v_in), x = as_view(x_in), out = as_view(out_in), dout = as_view(dout_in);
    tensor_view<T> const dv = as_view(dv_in), dx = as_view(dx_in);
    using detail::argument;
    using door = detail::door<A>;
    argument const args[] = {argument::of("v", v),   argument::of("x", x),   argument::of("dout", dout), argument::of("filters", mechanism.filters), argument::of("skip", mechanism.skip),
                             argument::of("dv", dv), argument::of("dx", dx), argument::of("gradient of filters", parameters.filters), argument::of("gradient of skip", parameters.skip)};
    detail::check_hyena<A>(mechanism, args[0], args[1], argument::of("out", out));
    detail::check_hyena<A>(mechanism, args[5], args[6], args[2]);
    door::check_offsets(args[5], args[0]);
    if (parameters.filters.data_handle() != nullptr) { door::check_same(args[7], args[3]); }
    if (parameters.skip.data_handle() != nullptr) { door::check_same(args[8], args[4]); }
    door::check_outputs(args, 9);
    B backend = given;
    using group = detail::hyena_group<T, A, M, B>;
    std::size_t bytes = 0;
    auto const each = [&](auto const& f) {
        detail::each_length(v, [&](detail::equal_lengths const& part) {
            group g(mechanism, {part.count, 1, part.length, v.extent(3)}, backend, true);
            f(g, part);
        });
    };
    each([&](group& g, auto const&) { bytes = g.bytes() > bytes ? g.bytes() : bytes; });
    arena count(nullptr);
    extent_t const filters = mechanism.order() - 1, d = v.extent(3);
    count.take<double>(filters * d);
    std::unique_ptr<std::byte[]> const memory(new std::byte[count.bytes() + bytes + line_bytes]);
    arena own(aligned(memory.get()));
    double* const dskip = own.take<double>(filters * d);
    for (extent_t i = 0; i < filters * d; ++i) { dskip[i] = 0; }
    auto const fill = [](tensor_view<T> const& to, auto const& f) {
        for (extent_t m = 0; to.data_handle() != nullptr && m < to.extent(1); ++m)
            for (extent_t t = 0; t < to.extent(2); ++t)
                for (extent_t c = 0; c < to.extent(3); ++c) { to(0, m, t, c) = f(m, c); }
    };
    fill(parameters.filters, [](extent_t, extent_t) { return T(0); });
    each([&](group& g, auto const& part) { g.backward(part.of(v), part.of(x), part.of(dout), part.of(dv), part.of(dx), parameters.filters, dskip, aligned(memory.get()) + own.bytes()); });
    fill(parameters.skip, [&](extent_t m, extent_t c) { return static_cast<T>(dskip[m * d + c]); });
}

// Token by token, hyena(...) only: a stream of each convolution. The gates have no history.
template <class T, class A = native_arch>
class hyena_stream {
    std::vector<convolution_stream<T, A>> convolutions_; // of h_(n-1) first
    std::vector<T> skip_, gated_, mixed_;                // of one token
    extent_t order_, batch_, d_, most_, tokens_ = 0;

public:
    // values (B, 1, tokens at most, d). Throws shape_error.
    hyena_stream(hyena_operator<T, causal_taps> const& m, shape values) : order_(m.order()), batch_(values.batch), d_(values.feature), most_(values.seq) {
        using detail::argument;
        shape gates = values;
        gates.head = order_;
        argument const v{"the stream", values, {}, 1, sizeof(T), {}, false, true}, x{"x", gates, {}, 1, sizeof(T), {}, false, true};
        detail::check_hyena<A>(m, v, x, v);
        for (extent_t i = order_ - 1; i >= 1; --i) { convolutions_.emplace_back(detail::one_head(m.filters, i - 1), values); }
        skip_.resize(static_cast<std::size_t>((order_ - 1) * d_));
        for (extent_t i = 0; m.skip.data_handle() != nullptr && i < order_ - 1; ++i)
            for (extent_t c = 0; c < d_; ++c) { skip_[static_cast<std::size_t>(i * d_ + c)] = m.skip(0, i, 0, c); }
        gated_.resize(static_cast<std::size_t>(batch_ * d_));
        mixed_.resize(gated_.size());
    }
    extent_t tokens() const { return tokens_; } // so far
    extent_t most_tokens() const { return most_; }
    // Back to before the first token.
    void reset() {
        for (auto& c : convolutions_) { c.reset(); }
        tokens_ = 0;
    }
    // The next tokens: v and out (B, 1, n, d), x (B, order, n, d). Allocates nothing.
    template <class B>
    void step(tensor_view<T const> const& v, tensor_view<T const> const& x, tensor_view<T> const& out, B const& backend) {
        using detail::argument;
        using door = detail::door<A>;
        argument const args[] = {argument::of("v", v), argument::of("x", x), argument::of("out", out)};
        shape want{batch_, 1, v.extent(2), d_}, gates{batch_, order_, v.extent(2), d_};
        door::check_same(args[0], {"the stream", want, {}, 1, sizeof(T), {}, false, true});
        door::check_same(args[1], {"the stream", gates, {}, 1, sizeof(T), {}, false, true});
        door::check_same(args[2], args[0]);
        for (argument const& a : args) {
            if (a.offsets) { door::refuse(sentence<A>("heed: ", a.name, " is ragged; sequences of a stream go on together")); }
        }
        if (v.extent(2) > most_ - tokens_) { door::refuse(sentence<A>("heed: ", v.extent(2), " more tokens after ", tokens_, "; the stream was made for ", most_)); }
        door::check_outputs(args, 3);
        shape const token{batch_, 1, 1, d_};
        tensor_view<T> const gated(gated_.data(), token), mixed(mixed_.data(), token);
        for (extent_t i = 0; i < v.extent(2); ++i, ++tokens_) {
            auto const one = [&](auto const& view, extent_t h) { return tensor_view(view.row(0, h, i), token, view.strides()); };
            tensor_view<T const> now = one(v, 0);
            for (extent_t m = order_ - 1; m >= 1; --m) {
                each(gated, now, one(x, m), [](T& to, T a, T b) { to = a * b; });
                convolutions_[static_cast<std::size_t>(order_ - 1 - m)].step(gated, mixed, backend);
                T const* const b = skip_.data() + (m - 1) * d_;
                each(mixed, gated, tensor_view<T const>(b, token, {0, 0, 0, 1}), [](T& to, T a, T f) { to += a * f; });
                now = mixed;
            }
            each(one(out, 0), now, one(x, 0), [](T& to, T a, T b) { to = a * b; });
        }
    }

private:
    template <class F>
    void each(tensor_view<T> const& to, tensor_view<T const> const& a, tensor_view<T const> const& b, F const& f) const {
        for (extent_t n = 0; n < batch_; ++n)
            for (extent_t c = 0; c < d_; ++c) { f(to(n, 0, 0, c), a(n, 0, 0, c), b(n, 0, 0, c)); }
    }
};

// A stream of hyena(filters, skip), for sequences of at most values.seq tokens.
template <class A = native_arch, class T>
hyena_stream<T, A> make_stream(hyena_operator<T, causal_taps> const& m, shape values) {
    return hyena_stream<T, A>(m, values);
}
template <class T, class A, class V, class X, class O, class... Options>
void step(hyena_stream<T, A>& stream, V const& v, X const& x, O&& out, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the option of a step is a backend, heed::cpu{...}");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    static_assert(detail::is_cpu<std::remove_const_t<decltype(backend)>>, "heed: streams run on the cpu backend");
    stream.step(as_view(v), as_view(x), as_view(out), backend);
}

} // namespace heed
