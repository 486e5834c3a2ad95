// SPDX-License-Identifier: BSD-3-Clause
// Decoding of causal circular attention: a stream holds the scores and values that came; step takes the next ones and gives their results.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/prefix_stream.hpp>
#include <heed/front/check.hpp>
#include <heed/front/spectral.hpp>
#include <heed/view/adapt.hpp>

#include <memory>
#include <string>
#include <string_view>

namespace heed {

// The history of a batch of sequences, in one allocation of bytes(). One sequence of calls at a time; different streams are independent.
template <class T, class A = native_arch>
class prefix_stream {
    using engine_type = prefix_stream_engine<T, A>;
    using door = detail::door<A>;
    std::unique_ptr<std::byte[]> memory_;
    engine_type engine_;
    extent_t tokens_ = 0;

public:
    // values (B, H, tokens at most, d). Throws shape_error.
    explicit prefix_stream(shape values) : engine_(engine_type::of(values)) {
        detail::argument const all{"the stream", values, {}, 1, sizeof(T), {}, false};
        door::check_axes(&all, 1, nullptr, 0);
        memory_.reset(new std::byte[bytes()]);
        engine_.make(aligned(memory_.get()));
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

    // The next tokens: z (B or 1, H or fewer, n, 1), v and out (B, H, n, d). Allocates nothing.
    template <class B>
    void step(tensor_view<T const> const& z, tensor_view<T const> const& v, tensor_view<T> const& out, B const& backend) {
        using detail::argument;
        argument const args[] = {argument::of("z", z), argument::of("v", v), argument::of("out", out)};
        shape want = engine_.v;
        want.seq = v.extent(2);
        argument const stream{"the stream", want, {}, 1, sizeof(T), {}, false, true};
        door::check_same(args[1], stream);
        door::check_same(args[2], args[1]);
        static constexpr detail::axis_rule rows[] = {{0, detail::axis::seq, detail::rule_kind::equal, 1, detail::axis::seq}};
        door::check_axes(args, 3, rows, 1);
        for (int r : {0, 1, 3}) {
            extent_t const have = z.extent(r), most = r == 3 ? 1 : want[r];
            if (have != most && have != 1 && (r != 1 || have == 0 || most % have != 0)) {
                door::refuse(sentence<A>("heed: z.", detail::axis_name(static_cast<detail::axis>(r)), " is ", have, " and the stream has ", most,
                                         r == 3 ? " score a token" : r == 1 ? "; it must divide them (consecutive heads share)" : "; it must be equal or 1 (shared)"));
            }
        }
        for (argument const& a : args) {
            if (a.offsets) { door::refuse(sentence<A>("heed: ", a.name, " is ragged; sequences of a stream go on together")); }
        }
        if (v.extent(2) > engine_.v.seq - tokens_) {
            door::refuse(sentence<A>("heed: ", v.extent(2), " more tokens after ", tokens_, "; the stream was made for ", engine_.v.seq));
        }
        door::check_outputs(args, 3);
        extent_t const items = engine_.items();
        int const most = detail::concurrency_of(backend.executor);
        engine_.step(z, v, out, tokens_, const_cast<std::remove_const_t<decltype(backend.executor)>&>(backend.executor), items < 1 ? 1 : items < most ? static_cast<int>(items) : most);
        tokens_ += v.extent(2);
    }
};

// make_stream<float>(causal_circular_attention(), values): a stream for sequences of at most values.seq tokens.
template <class T, class A = native_arch, Spectral M>
prefix_stream<T, A> make_stream(M const&, shape values) {
    static_assert(M::by_prefix, "heed: a stream without filters is of causal_circular_attention(); that of a causal convolution is given its filters");
    detail::check_spectral_elements<T>();
    return prefix_stream<T, A>(values);
}

// out = the results of the next tokens, whatever their number n: those of forward on all tokens so far, to rounding. Amortised O(log^2 N) a token and
// channel. Option: a backend heed::cpu{...}. Throws shape_error before anything is written.
template <class T, class A, class Z, class V, class O, class... Options>
void step(prefix_stream<T, A>& stream, Z const& z, V const& v, O&& out, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the option of a step is a backend, heed::cpu{...}");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    static_assert(detail::is_cpu<std::remove_const_t<decltype(backend)>>, "heed: streams run on the cpu backend");
    stream.step(as_view(z), as_view(v), as_view(out), backend);
}

} // namespace heed
