// SPDX-License-Identifier: BSD-3-Clause
// Decoding of causal convolutions: a stream holds the filters and what came before; step takes the next tokens and gives their results.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/convolution_stream.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <memory>
#include <string>
#include <string_view>

namespace heed {

// Filters and history of a batch of sequences, in one allocation of bytes(). One sequence of calls at a time; different streams are independent.
template <class T, class A = native_arch>
class convolution_stream {
    using engine_type = convolution_stream_engine<T, A>;
    using door = detail::door<A>;
    std::unique_ptr<std::byte[]> memory_;
    engine_type engine_;
    extent_t tokens_ = 0;

public:
    // w (B or 1, H or fewer, K, 1 or d), copied; values (B, H, tokens at most, d). Throws shape_error.
    convolution_stream(tensor_view<T const> const& w, shape values) : engine_(engine_type::of(w.shape(), values)) {
        using detail::argument;
        argument const args[] = {argument::of("w", w), {"the stream", values, {}, 1, sizeof(T), {}, false}};
        door::check_axes(args, 2, nullptr, 0);
        for (int r = 0; r < 4; ++r) {
            extent_t const have = w.extent(r), want = values[r];
            if (r != 2 && have != want && have != 1 && (r != 1 || have == 0 || want % have != 0)) {
                door::refuse(sentence<A>("heed: w.", detail::axis_name(static_cast<detail::axis>(r)), " is ", have, " and the stream has ", want,
                                         r == 1 ? "; it must divide them (consecutive heads share)" : "; it must be equal or 1 (shared)"));
            }
        }
        if (w.is_ragged()) { door::refuse("heed: w is ragged; the filters of a stream have one length"); }
        memory_.reset(new std::byte[engine_.bytes() + line_bytes - 1]);
        engine_.make(aligned(memory_.get()), w);
    }
    static constexpr std::string_view engine() { return engine_type::name; }
    extent_t tokens() const { return tokens_; } // so far
    extent_t most_tokens() const { return engine_.v.seq; }
    std::size_t bytes() const { return engine_.bytes() + line_bytes - 1; }
    // Back to before the first token.
    void reset() {
        engine_.reset();
        tokens_ = 0;
    }

    // The next tokens: v and out (B, H, n, d). Allocates nothing.
    template <class B>
    void step(tensor_view<T const> const& v, tensor_view<T> const& out, B const& backend) {
        using detail::argument;
        argument const args[] = {argument::of("v", v), argument::of("out", out)};
        shape want = engine_.v;
        want.seq = v.extent(2);
        argument const stream{"the stream", want, {}, 1, sizeof(T), {}, false, true};
        door::check_same(args[0], stream);
        door::check_same(args[1], args[0]);
        for (argument const& a : args) {
            if (a.offsets) { door::refuse(sentence<A>("heed: ", a.name, " is ragged; sequences of a stream go on together")); }
        }
        if (v.extent(2) > engine_.v.seq - tokens_) {
            door::refuse(sentence<A>("heed: ", v.extent(2), " more tokens after ", tokens_, "; the stream was made for ", engine_.v.seq));
        }
        door::check_outputs(args, 2);
        extent_t const items = engine_.items();
        int const most = detail::concurrency_of(backend.executor);
        engine_.step(v, out, tokens_, const_cast<std::remove_const_t<decltype(backend.executor)>&>(backend.executor), items < 1 ? 1 : items < most ? static_cast<int>(items) : most);
        tokens_ += v.extent(2);
    }
};

// A stream of causal_long_convolution() with filters w, for sequences of at most values.seq tokens.
template <class A = native_arch, Spectral M, class W>
auto make_stream(M const& mechanism, W const& w, shape values) {
    static_assert(!M::circular && !M::reversed && std::is_same_v<decltype(M::normalizer), as_given>,
                  "heed: a stream is of a causal convolution, spectral{unwrapped{}, convolution{}} with weights as given: other forms read tokens that are not there yet, or weights that change");
    auto const view = as_view(w);
    using T = typename decltype(view)::value_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: spectral mechanisms take float or double");
    if (mechanism.border.shift != 0) { detail::door<A>::refuse(sentence<A>("heed: a convolution shifted by ", mechanism.border.shift, " is no stream; its shift must be 0")); }
    return convolution_stream<T, A>(view, values);
}

// out = the results of the next tokens v, (B, H, n, d) both, n usually 1: those of forward on all tokens so far, whatever the n. Amortised O(log^2 N) a token and channel;
// a token whose number is a multiple of a great power of two takes longer. Option: a backend heed::cpu{...}. Throws shape_error before anything is written.
template <class T, class A, class V, class O, class... Options>
void step(convolution_stream<T, A>& stream, V const& v, O&& out, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the option of a step is a backend, heed::cpu{...}");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    static_assert(detail::is_cpu<std::remove_const_t<decltype(backend)>>, "heed: streams run on the cpu backend");
    stream.step(as_view(v), as_view(out), backend);
}

} // namespace heed
