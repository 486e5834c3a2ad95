// SPDX-License-Identifier: BSD-3-Clause
// The wiring of the softmax cases: which tensor is which, and which ingredients a case name stands for. Sizes and numbers come
// from the file. Axis letters: B batch, H query heads, G key/value heads, N queries, M keys, d query width, e value width.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"
#include "softmax_kernels.hpp"
#include "softmax_problem.hpp"

#include <heed/front/merge.hpp>
#include <heed/front/rotate.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

namespace heed::tool {

namespace {

constexpr std::int64_t any_size = std::numeric_limits<std::int32_t>::max();

template <class T>
tensor_view<T const> as_view(loaded<T> const& source) {
    auto const& s = source.shape;
    return {source.data, {s[0], s[1], s[2], s[3]}};
}

// 1/sqrt(d) unless the file says otherwise. Without a width all scores are equal, whatever the scale.
template <class T>
T scale_of(case_io<T> const& io) {
    auto const stated = io.source().number_if("scale");
    return static_cast<T>(stated ? *stated : io['d'] > 0 ? 1 / std::sqrt(static_cast<double>(io['d'])) : 1.0);
}

template <class T>
T softcap_of(case_io<T> const& io) {
    double const cap = io.source().number("softcap");
    if (!(cap > 0)) { throw bad_file(io.source().path(), "metadata \"softcap\" must be above 0"); }
    return static_cast<T>(cap);
}

// A causal window of `keys` keys that ends at the query's own.
template <class T>
void set_window(softmax_problem<T>& problem, std::int64_t keys) {
    problem.mask = mask_kind::window;
    problem.left = keys - 1;
    problem.right = 0;
}

// Where 0 stands for no window: causal.
template <class T>
void set_optional_window(softmax_problem<T>& problem, std::int64_t keys) {
    set_window(problem, keys);
    if (keys == 0) { problem.mask = mask_kind::causal_bottom_right; }
}

template <class T>
void check_heads(case_io<T> const& io) {
    auto const q = io['H'], k = io['G'];
    if (k == 0 ? q != 0 : q % k != 0) {
        throw bad_tensor(io.source().path(), "k",
                         "has " + std::to_string(k) + " heads, which do not divide the " + std::to_string(q) + " of q");
    }
}

template <class T>
tensor_view<T> laid_out_as(tensor_view<T const> other, T* data) {
    return {data, other.shape(), other.strides(), other.offsets()};
}

// dout, and room for the gradients that the file expects; axes of q, k, v and out in the file.
template <class T>
void take_gradients(case_io<T>& io, softmax_problem<T>& problem, std::string_view q, std::string_view k, std::string_view v, std::string_view out) {
    if (!(io.wants("dq") || io.wants("dk") || io.wants("dv"))) { return; }
    auto const dout = io.reals("dout", out);
    problem.dout = {dout.data, problem.out.shape(), problem.out.strides(), problem.out.offsets()};
    problem.dq = laid_out_as(problem.q, io.make("dq", q));
    problem.dk = laid_out_as(problem.k, io.make("dk", k));
    problem.dv = laid_out_as(problem.v, io.make("dv", v));
}

template <class T>
void run_with_gradients(softmax_problem<T> const& problem) {
    attend(problem);
    if (problem.dout.data_handle()) { attend_gradients(problem); }
}

// q [B,H,N,d], k [B,G,M,d], v [B,G,M,e], out [B,H,N,e], lse [B,H,N]: the layout of most cases.
template <class T>
softmax_problem<T> plain_problem(case_io<T>& io) {
    softmax_problem<T> problem;
    problem.q = as_view(io.reals("q", "BHNd"));
    problem.k = as_view(io.reals("k", "BGMd"));
    problem.v = as_view(io.reals("v", "BGMe"));
    check_heads(io);
    problem.out = {io.make("out", "BHNe"), {io['B'], io['H'], io['N'], io['e']}};
    problem.lse = per_row(io.make("lse", "BHN"), io['B'], io['H'], io['N']);
    problem.scale = scale_of(io);
    take_gradients(io, problem, "BHNd", "BGMd", "BGMe", "BHNe");
    return problem;
}

template <mask_kind Mask>
struct plain {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.mask = Mask;
        run_with_gradients(problem);
    }
};

struct scaled {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.scale = static_cast<T>(io.source().number("scale"));
        run_with_gradients(problem);
    }
};

template <mask_kind Mask>
struct alibi {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.mask = Mask;
        problem.slopes = per_head(io.reals("slopes", "H").data, io['H']);
        run_with_gradients(problem);
    }
};

struct biased {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.bias = as_view(io.reals("bias", "B?H?N?M?"));
        if (io.wants("dbias")) {
            io.reals("bias", "bhnm"); // its own extents, broadcast or not
            problem.dbias = laid_out_as(problem.bias, io.make("dbias", "bhnm"));
        }
        run_with_gradients(problem);
    }
};

struct capped {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.softcap = softcap_of(io);
        run_with_gradients(problem);
    }
};

struct capped_window {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.softcap = softcap_of(io);
        set_window(problem, io.source().integer("window", 1, any_size));
        run_with_gradients(problem);
    }
};

struct causal_window {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        set_window(problem, io.source().integer("window", 1, any_size));
        run_with_gradients(problem);
    }
};

struct two_sided_window {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.mask = mask_kind::window;
        problem.left = io.source().integer("left", 0, any_size);
        problem.right = io.source().integer("right", 0, any_size);
        run_with_gradients(problem);
    }
};

struct boolean_mask {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.keep = as_view(io.booleans("mask", "B?H?N?M?"));
        run_with_gradients(problem);
    }
};

struct key_padding {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.key_lengths = per_batch(io.integers("kv_len", "B", 0, io['M']).data, io['B']);
        run_with_gradients(problem);
    }
};

struct prefix_causal {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.prefix = per_batch(io.integers("prefix", "B", 0, io['M']).data, io['B']);
        run_with_gradients(problem);
    }
};

struct documents_causal {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.mask = mask_kind::causal_bottom_right;
        auto const ids = [&](std::string_view axes, extent_t count) {
            constexpr std::int64_t lowest = std::numeric_limits<std::int32_t>::min();
            return per_row(io.integers("doc_id", axes, lowest, any_size).data, 1, 1, count);
        };
        problem.query_ids = ids("N", io['N']);
        problem.key_ids = ids("M", io['M']);
        run_with_gradients(problem);
    }
};

// Sequence major: q [B,N,H,d], k and v [B,N,G,...]; the logarithms of the gates g [B,N,H] are summed here, in double.
struct forgetting_gate {
    template <class T>
    static void run(case_io<T>& io) {
        softmax_problem<T> problem;
        auto const q = io.reals("q", "BNHd"), k = io.reals("k", "BNGd"), v = io.reals("v", "BNGe");
        check_heads(io);
        auto const B = io['B'], H = io['H'], G = io['G'], N = io['N'];
        problem.q = sequence_major(q.data, {B, H, N, io['d']});
        problem.k = sequence_major(k.data, {B, G, N, io['d']});
        problem.v = sequence_major(v.data, {B, G, N, io['e']});
        problem.out = sequence_major(io.make("out", "BNHe"), {B, H, N, io['e']});
        problem.lse = per_row(io.make("lse", "BHN"), B, H, N);
        problem.scale = scale_of(io);
        set_optional_window(problem, io.source().integer("window", 0, any_size));

        // From the file, not from the rounded copy: in float the sum would otherwise carry the rounding of every gate.
        auto const& stored = require(io.source().file(), "g");
        auto const gates = io.reals("g", "BNH"); // checks the shape
        auto const exact = read_reals<double>(io.source().file(), "g", stored);
        T* const sums = io.scratch(static_cast<std::int64_t>(exact.size()));
        for (extent_t b = 0; b < B; ++b) {
            for (extent_t h = 0; h < H; ++h) {
                double sum = 0;
                for (extent_t n = 0; n < N; ++n) {
                    sum += exact[static_cast<std::size_t>((b * N + n) * H + h)];
                    sums[(b * H + h) * N + n] = static_cast<T>(sum);
                }
            }
        }
        problem.log_gates = per_row<T const>(sums, B, H, N);
        take_gradients(io, problem, "BNHd", "BNGd", "BNGe", "BNHe");
        if (io.wants("dg")) { problem.dgates = per_row(io.scratch(B * H * N), B, H, N); }
        run_with_gradients(problem);
        if (!io.wants("dg")) { return; }
        // Gate n is in every sum from n on.
        T* const dg = io.make("dg", "BNH");
        for (extent_t b = 0; b < B; ++b) {
            for (extent_t h = 0; h < H; ++h) {
                double sum = 0;
                for (extent_t n = N - 1; n >= 0; --n) {
                    sum += static_cast<double>(problem.dgates(b, h, n, 0));
                    dg[(b * N + n) * H + h] = static_cast<T>(sum);
                }
            }
        }
    }
};

template <class Pairs>
struct rotary_causal {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        if (io['d'] % 2) { throw bad_tensor(io.source().path(), "q", "has an odd width, rotary pairs need an even one"); }
        io.set('r', io['d'] / 2, "half the width of q");
        auto const cosines = io.reals("cos", "Nr"), sines = io.reals("sin", "Nr");
        io.reals("cos", "Mr"); // one table for both: as many keys as queries
        rotary rope{Pairs{}, geometric{io.source().number_if("rope_base").value_or(10000)}};
        rope.offset = io.source().number_if("first_position") ? io.source().integer("first_position", 0, any_size) : 0;
        bool const usual = stands_for(rope, cosines.data, sines.data, io['N'], io['d']);

        auto const rotated = [&](std::string_view name, std::string_view axes, tensor_view<T const> x) {
            T* const result = io.make(name, axes);
            if (usual) {
                std::copy_n(x.data_handle(), x.shape().size(), result);
                rotate(tensor_view<T>(result, x.shape()), rope);
            } else {
                rotate_by_tables<Pairs>(x.data_handle(), result, x.extent(0) * x.extent(1), x.extent(2), x.extent(3), cosines.data, sines.data, x.extent(3) / 2);
            }
            return tensor_view<T const>(result, x.shape());
        };
        auto const q = rotated("q_rot", "BHNd", problem.q), k = rotated("k_rot", "BGMd", problem.k);
        problem.mask = mask_kind::causal_bottom_right;
        if (usual && problem.out.shape().size() > 0) { return kernels::rotary_causal(problem, rope); }
        problem.q = q;
        problem.k = k;
        run_with_gradients(problem);
        if (!problem.dout.data_handle()) { return; }
        for (auto const& d : {problem.dq, problem.dk}) { // the gradient of a rotation turns back
            rotate_by_tables<Pairs>(d.data_handle(), d.data_handle(), d.extent(0) * d.extent(1), d.extent(2), d.extent(3), cosines.data, sines.data, d.extent(3) / 2, T(-1));
        }
    }

private:
    // The tables [rows, width / 2] hold the rotation's own angles.
    template <class T>
    static bool stands_for(rotary<Pairs> const& rope, T const* cosines, T const* sines, extent_t rows, extent_t width) {
        double const near = sizeof(T) == 4 ? 1e-6 : 1e-12 * (1 + static_cast<double>(rope.offset + rows));
        for (extent_t n = 0; n < rows; ++n) {
            for (extent_t m = 0; m < width / 2; ++m) {
                double const angle = static_cast<double>(rope.offset + n) * rope.frequencies.frequency(m, width);
                double const c = static_cast<double>(cosines[n * (width / 2) + m]) - std::cos(angle), s = static_cast<double>(sines[n * (width / 2) + m]) - std::sin(angle);
                if (!(std::fabs(c) <= near && std::fabs(s) <= near)) { return false; }
            }
        }
        return true;
    }
};

struct sink {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        problem.sinks = per_head(io.reals("sinks", "H").data, io['H']);
        if (io.wants("dsinks")) { problem.dsinks = per_head(io.make("dsinks", "H"), io['H']); }
        run_with_gradients(problem);
    }
};

// One sequence, heads inside: q [N,G,R,d] with query head g R + r, k and v [M,G,...], out [N, G R e].
struct sink_grouped {
    template <class T>
    static void run(case_io<T>& io) {
        softmax_problem<T> problem;
        auto const q = io.reals("q", "NGRd"), k = io.reals("k", "MGd"), v = io.reals("v", "MGe");
        auto const N = io['N'], M = io['M'], G = io['G'], H = G * io['R'];
        io.set('H', H, "the heads of q");
        io.set('F', H * io['e'], "the heads of q and the width of v");
        problem.q = sequence_major(q.data, {1, H, N, io['d']});
        problem.k = sequence_major(k.data, {1, G, M, io['d']});
        problem.v = sequence_major(v.data, {1, G, M, io['e']});
        problem.sinks = per_head(io.reals("sinks", "H").data, H);
        problem.out = sequence_major(io.make("out", "NF"), {1, H, N, io['e']});
        problem.lse = per_row(io.make("lse", "HN"), 1, H, N);
        problem.scale = scale_of(io);
        set_optional_window(problem, io.source().integer("window", 0, any_size));
        take_gradients(io, problem, "NGRd", "MGd", "MGe", "NF");
        if (io.wants("dsinks")) { problem.dsinks = per_head(io.make("dsinks", "H"), H); }
        run_with_gradients(problem);
    }
};

// Starts of packed sequences that fill `rows` rows.
template <class T>
ragged_offsets starts(case_io<T>& io, std::string_view name, std::string_view axes, extent_t rows) {
    auto const list = io.integers(name, axes, 0, rows);
    std::span<std::int32_t const> const values(list.data, static_cast<std::size_t>(list.shape[0]));
    try {
        ragged_offsets const offsets(values);
        if (values.back() == rows) { return offsets; }
    } catch (shape_error const& error) { throw bad_tensor(io.source().path(), name, error.what()); }
    throw bad_tensor(io.source().path(), name,
                     "ends at " + std::to_string(values.back()) + ", there are " + std::to_string(rows) + " rows");
}

// Packed sequences: q [N,H,d], k [M,G,d], v [M,G,e] with N and M rows over all of them; lse [H,N].
template <mask_kind Mask>
struct packed {
    template <class T>
    static void run(case_io<T>& io) {
        softmax_problem<T> problem;
        auto const q = io.reals("q", "NHd"), k = io.reals("k", "MGd"), v = io.reals("v", "MGe");
        check_heads(io);
        auto const N = io['N'], M = io['M'], H = io['H'], G = io['G'];
        auto const q_starts = starts(io, "cu_seqlens_q", "S", N), k_starts = starts(io, "cu_seqlens_k", "S", M);
        problem.q = ragged(sequence_major(q.data, {1, H, N, io['d']}), q_starts);
        problem.k = ragged(sequence_major(k.data, {1, G, M, io['d']}), k_starts);
        problem.v = ragged(sequence_major(v.data, {1, G, M, io['e']}), k_starts);
        problem.out = ragged(sequence_major(io.make("out", "NHe"), {1, H, N, io['e']}), q_starts);
        problem.lse = ragged(per_row(io.make("lse", "HN"), 1, H, N), q_starts);
        problem.scale = scale_of(io);
        problem.mask = Mask;
        take_gradients(io, problem, "NHd", "MGd", "MGe", "NHe");
        run_with_gradients(problem);
    }
};

// One query per sequence against a cache.
struct one_query {
    template <class T>
    static void run(case_io<T>& io) {
        auto const problem = plain_problem(io);
        kernels::decode(problem);
        if (problem.dout.data_handle()) { attend_gradients(problem); } // a step of decoding is attention
    }
};

// One query per sequence, q [1,S,H,d], against packed keys [1,M,G,d]; with sinks and without.
struct packed_decode {
    template <class T>
    static void run(case_io<T>& io) {
        softmax_problem<T> problem;
        io.set('u', 1, "the layout");
        auto const q = io.reals("q", "uSHd"), k = io.reals("k", "uMGd"), v = io.reals("v", "uMGe");
        check_heads(io);
        auto const S = io['S'], H = io['H'], G = io['G'], M = io['M'];
        io.set('C', S + 1, "the sequences of q");
        auto const k_starts = starts(io, "cu_seqlens", "C", M);
        problem.q = {q.data, {S, H, 1, io['d']}};
        problem.k = ragged(sequence_major(k.data, {1, G, M, io['d']}), k_starts);
        problem.v = ragged(sequence_major(v.data, {1, G, M, io['e']}), k_starts);
        problem.lse = per_row(io.scratch(S * H), S, H, 1);
        problem.scale = scale_of(io);
        problem.out = {io.make("out_nosink", "uSHe"), {S, H, 1, io['e']}};
        kernels::decode(problem);
        problem.out = {io.make("out", "uSHe"), {S, H, 1, io['e']}};
        problem.sinks = per_head(io.reals("sinks", "H").data, H);
        kernels::decode(problem);
    }
};

// The keys before and from `cut` on, apart and then merged by their log-sum-exp.
struct merge_states {
    template <class T>
    static void run(case_io<T>& io) {
        auto const whole = plain_problem(io);
        auto const cut = io.source().integer("cut", 0, io['M']);
        auto const part = [&](extent_t begin, extent_t end, std::string_view out, std::string_view lse) {
            auto const rows = [&](tensor_view<T const> x) {
                return tensor_view<T const>(x.data_handle() + begin * x.stride(2), {x.extent(0), x.extent(1), end - begin, x.extent(3)},
                                            x.strides());
            };
            auto problem = whole;
            problem.k = rows(whole.k);
            problem.v = rows(whole.v);
            problem.out = {io.make(out, "BHNe"), whole.out.shape()};
            problem.lse = {io.make(lse, "BHN"), whole.lse.shape()};
            attend(problem);
            return problem;
        };
        auto const a = part(0, cut, "out_a", "lse_a"), b = part(cut, io['M'], "out_b", "lse_b");

        merge(softmax{}, partial{a.out, save{a.lse}}, partial{b.out, save{b.lse}}, partial{whole.out, save{whole.lse}});
    }
};

// The weights p [B,H,N,M] are the output for v = identity.
struct weights {
    template <class T>
    static void run(case_io<T>& io) {
        auto problem = plain_problem(io);
        run_with_gradients(problem);
        if (io.wants("dlse_q") || io.wants("dlse_k")) { // of the sum of all lse
            T* const one = io.scratch(2);
            one[1] = 1;
            auto of_lse = problem;
            of_lse.dout = {one, problem.out.shape(), {0, 0, 0, 0}};
            of_lse.dlse = {one + 1, problem.lse.shape(), {0, 0, 0, 0}};
            of_lse.dq = {io.make("dlse_q", "BHNd"), problem.q.shape()};
            of_lse.dk = {io.make("dlse_k", "BGMd"), problem.k.shape()};
            attend_gradients(of_lse);
        }
        // Element (m, c) of the identity lies at M - 1 - m + c of zeros with a single one: M x M in the memory of 2 M.
        extent_t const M = io['M'];
        T* const ones = io.scratch(std::max<extent_t>(2 * M - 1, 1));
        ones[std::max<extent_t>(M - 1, 0)] = 1;
        problem.v = {ones + std::max<extent_t>(M - 1, 0), {io['B'], io['G'], M, M}, {0, 0, -1, 1}};
        problem.out = {io.make("p", "BHNM"), {io['B'], io['H'], io['N'], M}};
        attend(problem);
    }
};

constexpr auto full = mask_kind::full, causal = mask_kind::causal_bottom_right;

constexpr std::array softmax_cases{
    wire<alibi<causal>>("alibi_causal"),
    wire<alibi<full>>("alibi_symmetric_cross"),
    wire<biased>("bias_broadcast"),
    wire<biased>("bias_full"),
    wire<biased>("bias_neg_inf"),
    wire<plain<causal>>("causal_bottom_right"),
    wire<plain<causal>>("causal_long"),
    wire<plain<causal>>("causal_more_queries"),
    wire<plain<causal>>("causal_square"),
    wire<plain<mask_kind::causal_top_left>>("causal_top_left"),
    wire<one_query>("decode_one_query"),
    wire<packed_decode>("decode_packed_sink"),
    wire<documents_causal>("document_mask"),
    wire<forgetting_gate>("forgetting_gate"),
    wire<plain<full>>("gqa_8_2"),
    wire<plain<causal>>("gqa_causal_6_3"),
    wire<plain<full>>("large_logits"),
    wire<boolean_mask>("mask_bool_empty_rows"),
    wire<key_padding>("mask_key_padding"),
    wire<merge_states>("merge_states"),
    wire<plain<full>>("mqa_5_1"),
    wire<plain<full>>("plain_cross_dv"),
    wire<plain<full>>("plain_long"),
    wire<plain<full>>("plain_odd_tiny"),
    wire<plain<full>>("plain_one_key"),
    wire<plain<full>>("plain_pow2"),
    wire<plain<full>>("plain_self"),
    wire<plain<full>>("plain_wide_head"),
    wire<prefix_causal>("prefix_lm"),
    wire<rotary_causal<half_pairs>>("rope_half_causal"),
    wire<rotary_causal<interleaved_pairs>>("rope_interleaved_causal"),
    wire<scaled>("scale_explicit"),
    wire<sink_grouped>("sink_causal"),
    wire<sink_grouped>("sink_causal_window"),
    wire<sink>("sink_cross"),
    wire<capped>("softcap"),
    wire<capped_window>("softcap_causal_window_gqa"),
    wire<plain<causal>>("tiles_d64"),
    wire<packed<full>>("varlen"),
    wire<packed<causal>>("varlen_causal"),
    wire<weights>("weights_and_lse"),
    wire<causal_window>("window_bottom_right"),
    wire<causal_window>("window_causal"),
    wire<two_sided_window>("window_two_sided"),
};

check_registration const registration("softmax", softmax_cases);

} // namespace

} // namespace heed::tool
