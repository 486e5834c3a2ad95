// SPDX-License-Identifier: BSD-3-Clause
// `heed run` of what keys and values are made of, tensors named and laid out as in the golden files:
//   tensor_product   aq [B, N, H, q], bq [B, N, q, d], or q [B, N, H, d]; ak [B|1, M|1, G, r], bk [B|1, M|1, r, d], av, bv of rank s and width e; out [B, N, H, e]
//   latent           q_nope [B, N, H, n], q_pe [B, N, H, p], c_kv [B, M, c] or [B, M, G, c], k_pe [B, M, p], w_uk [H, n, c], w_uv [H, e, c]; out [B, N, H, e]
//   merged           q [B, H, N, d], k [B, G, M, d], v [B, G, M, e], multiplicity [B, M]; v the means of an entry's values; out [B, H, N, e]
#include "failure.hpp"
#include "inputs.hpp"
#include "runnable.hpp"

#include <heed/front/grouped_decode.hpp>
#include <heed/front/latent.hpp>
#include <heed/front/rotate.hpp>
#include <heed/mechanism/latent.hpp>
#include <heed/mechanism/merged.hpp>
#include <heed/mechanism/tensor_product.hpp>

#include <array>
#include <cmath>
#include <deque>

namespace heed::tool {

namespace {

constexpr option_row mask_option{"mask", "full|causal", "which keys a query sees; causal is aligned bottom right (default full)"};
constexpr option_row scale_option{"scale", "number", "factor of the scores (default 1/sqrt(width))"};
constexpr option_row lse_option{"lse", "0|1", "also write lse, the natural log-sum-exp [B, H, N] (default 0)"};

// What the three have in common: typed inputs, the mechanism, results.
template <class T>
class factored_run {
protected:
    safetensors_file const& input_;
    settings const& set_;
    axis_lengths axes_;
    std::deque<std::vector<T>> stored_;
    std::vector<output_tensor> results_;

    T* reals(std::string_view name, std::string_view axes) {
        auto const& stored = require(input_, name);
        axes_.match(input_.path(), name, stored.shape, axes);
        return stored_.emplace_back(read_reals<T>(input_, name, stored)).data();
    }
    T* room(extent_t count) { return stored_.emplace_back(static_cast<std::size_t>(count)).data(); }
    // As the file has it, in the axes' order; or positions before heads.
    tensor_view<T> tensor_of(std::string_view name, std::string_view axes) {
        T* const data = reals(name, axes);
        auto const& s = require(input_, name).shape;
        return s.size() == 4 ? tensor_view<T>{data, {s[0], s[1], s[2], s[3]}} : tensor_view<T>{data, {1, s[0], s[1], s[2]}};
    }
    tensor_view<T> positions_first(std::string_view name, std::string_view axes) {
        T* const data = reals(name, axes);
        auto const& s = require(input_, name).shape;
        return s.size() == 4 ? sequence_major(data, {s[0], s[2], s[1], s[3]}) : tensor_view<T>{data, {s[0], 1, s[1], s[2]}};
    }
    auto mechanism(extent_t width) const {
        static constexpr std::string_view masks[] = {"full", "causal"};
        extent_t const all = axes_['N'] + axes_['M'];
        return attention{dot{} | constant_scale{set_.number("scale").value_or(width > 0 ? 1 / std::sqrt(static_cast<double>(width)) : 1.0)}, window{all, set_.choice("mask", "full", masks) == "causal" ? 0 : all}, softmax{}};
    }
    T* make(std::string name, std::string_view axes) {
        auto const shape = axes_.shape_of(axes);
        results_.push_back({std::move(name), sizeof(T) == 4 ? dtype::f32 : dtype::f64, shape, std::vector<std::byte>(static_cast<std::size_t>(element_count(shape)) * sizeof(T))});
        return reinterpret_cast<T*>(results_.back().bytes.data());
    }
    tensor_view<T> make_out(bool heads_first) {
        shape const s{axes_['B'], axes_['H'], axes_['N'], axes_['e']};
        T* const data = make("out", heads_first ? "BHNe" : "BNHe");
        return heads_first ? tensor_view<T>{data, s} : sequence_major(data, s);
    }
    save<T> make_lse() { return {{make("lse", "BHN"), {axes_['B'], axes_['H'], axes_['N'], 1}}}; }
    std::vector<output_tensor> finish() {
        if (!set_.flag("lse", false)) { results_.pop_back(); }
        return std::move(results_);
    }

public:
    factored_run(safetensors_file const& input, settings const& set) : input_(input), set_(set) {}
};

constexpr std::array tensor_product_options{
    mask_option,
    scale_option,
    option_row{"rope", "none|half|interleaved", "turns the factors of features of q and k, in these pairs (default none)"},
    option_row{"rope_base", "number", "base of its frequencies (default 10000)"},
    option_row{"rope_width", "integer", "turns the first so many features only (default all)"},
    option_row{"factor_q", "number", "instead of 1/rank; factor_k and factor_v alike"},
    option_row{"factor_k", "number", ""},
    option_row{"factor_v", "number", ""},
    option_row{"step", "0|1", "through a cache of factors (default 0)"},
    lse_option,
};

template <class T>
struct tensor_product_run : factored_run<T> {
    using base = factored_run<T>;
    using base::axes_, base::set_, base::input_;
    using base::base;

    // a [B, N, H, R], b [B, N, R, d]; extents of 1 stand for all.
    factored<T> operand(char const* a, std::string_view a_axes, char const* b, std::string_view b_axes, char const* factor) {
        tensor_view<T const> const x = this->positions_first(a, a_axes), y = this->positions_first(b, b_axes);
        return {x, y, plain{}, set_.number(factor).value_or(0)};
    }
    void turn(tensor_view<T const> const& x, extent_t offset) {
        static constexpr std::string_view ropes[] = {"none", "half", "interleaved"};
        auto const kind = set_.choice("rope", "none", ropes);
        geometric const frequencies{set_.number("rope_base").value_or(10000)};
        extent_t const width = set_.integer("rope_width", 0).value_or(0);
        tensor_view<T> const to(const_cast<T*>(x.data_handle()), x.shape(), x.strides()); // an array of ours
        if (kind != "none" && x.extent(2) == 1 && axes_['M'] > 1) { throw bad_usage("--set rope: a factor of features that is one for all positions cannot be turned"); }
        if (kind == "half") { rotate(to, rotary{half_pairs{}, frequencies, width, offset}); }
        if (kind == "interleaved") { rotate(to, rotary{interleaved_pairs{}, frequencies, width, offset}); }
    }
    std::vector<output_tensor> run() {
        if (input_.find("q")) {
            tensor_view<T const> const q = this->positions_first("q", "BNHd");
            return attend(q, q);
        }
        auto const q = operand("aq", "BNHq", "bq", "BNqd", "factor_q");
        return attend(q, q.b);
    }
    template <class Q>
    std::vector<output_tensor> attend(Q const& q, tensor_view<T const> const& queries) {
        std::int64_t most = 1;
        for (auto const* name : {"ak", "bk", "av", "bv"}) {
            auto const& shape = require(input_, name).shape;
            if (shape.size() == 4) { most = std::max(most, shape[1]); }
        }
        axes_.set('M', most, "the longest factor");
        auto const k = operand("ak", "B?M?Gr", "bk", "B?M?rd", "factor_k"), v = operand("av", "B?M?Gs", "bv", "B?M?se", "factor_v");
        extent_t const B = axes_['B'], N = axes_['N'], M = axes_['M'], G = axes_['G'], d = axes_['d'], e = axes_['e'];
        turn(queries, M - N), turn(k.b, 0);
        auto const m = this->mechanism(d);
        auto const out = this->make_out(false);
        auto const saved = this->make_lse();
        // constant factors of both may hide how many sequences and positions there are
        auto const whole = [&](factored<T> const& f) {
            auto const wide = [&](tensor_view<T const> const& x) { return tensor_view<T const>{x.data_handle(), {B, x.extent(1), M, x.extent(3)}, {x.extent(0) == 1 ? 0 : x.stride(0), x.stride(1), x.extent(2) == 1 ? 0 : x.stride(2), x.stride(3)}}; };
            return factored<T>{wide(f.a), wide(f.b), plain{}, f.factor};
        };
        if (set_.flag("step", false)) {
            auto cache = make_factor_cache<T>({B, G, M, d, e, k.rank(), v.rank()});
            append(cache, whole(k), whole(v));
            auto view = cache.grouped();
            view.of.factor_k = k.factor, view.of.factor_v = v.factor;
            decode(m, q, view, out, saved);
        } else {
            forward(m, q, whole(k), whole(v), out, saved);
        }
        return this->finish();
    }
};

constexpr std::array latent_options{
    mask_option,
    option_row{"scale", "number", "factor of the scores (default 1/sqrt(width of a query before absorption))"},
    option_row{"absorbed", "0|1", "absorb the maps into queries and attend over a cache of latents (default 0)"},
    lse_option,
};

template <class T>
struct latent_run : factored_run<T> {
    using base = factored_run<T>;
    using base::axes_, base::set_, base::input_;
    using base::base;

    std::vector<output_tensor> run() {
        bool const grouped = require(input_, "c_kv").shape.size() == 4;
        if (!grouped) { axes_.set('G', 1, "c_kv"); }
        auto const q_nope = this->positions_first("q_nope", "BNHn"), q_rope = this->positions_first("q_pe", "BNHp"), c = this->positions_first("c_kv", grouped ? "BMGc" : "BMc"), r = this->positions_first("k_pe", "BMp");
        auto const w_uk = this->tensor_of("w_uk", "Hnc"), w_uv = this->tensor_of("w_uv", "Hec");
        extent_t const B = axes_['B'], H = axes_['H'], N = axes_['N'], M = axes_['M'], G = axes_['G'], w = axes_['c'], n = axes_['n'], p = axes_['p'];
        auto const m = this->mechanism(n + p);
        auto const out = this->make_out(false);
        auto const saved = this->make_lse();
        auto const put = [](tensor_view<T> const& from, tensor_view<T> const& to, extent_t first) {
            for (extent_t b = 0; b < to.extent(0); ++b) {
                for (extent_t h = 0; h < to.extent(1); ++h) {
                    for (extent_t i = 0; i < to.extent(2); ++i) {
                        for (extent_t e = 0; e < from.extent(3); ++e) { to(b, h, i, first + e) = from(b, from.extent(1) == 1 ? 0 : h, i, e); }
                    }
                }
            }
        };
        if (!set_.flag("absorbed", false)) {
            tensor_view<T> const q(this->room(B * H * N * (n + p)), {B, H, N, n + p});
            put(q_nope, q, 0), put(q_rope, q, n);
            latent_forward(m, q, c, r, w_uk, w_uv, out, saved);
            return this->finish();
        }
        tensor_view<T> const rows(this->room(B * G * M * (w + p)), {B, G, M, w + p}), absorbed(this->room(B * H * N * (w + p)), {B, H, N, w + p}), mixed(this->room(B * H * N * w), {B, H, N, w});
        put(c, rows, 0), put(r, rows, w);
        absorb_queries(q_nope, q_rope, w_uk, absorbed);
        auto cache = make_latent_cache<T>({B, G, M, w + p, w});
        append(cache, rows);
        decode(m, absorbed, cache, mixed, saved);
        expand_values(mixed, w_uv, out);
        return this->finish();
    }
};

constexpr std::array merged_options{mask_option, scale_option, lse_option};

template <class T>
struct merged_run : factored_run<T> {
    using base = factored_run<T>;
    using base::axes_, base::input_;
    using base::base;

    std::vector<output_tensor> run() {
        auto const q = this->tensor_of("q", "BHNd"), k = this->tensor_of("k", "BGMd"), v = this->tensor_of("v", "BGMe");
        auto const& stored = require(input_, "multiplicity");
        axes_.match(input_.path(), "multiplicity", stored.shape, "BM");
        auto const l = read_integers(input_, "multiplicity", stored, 1, std::int64_t{1} << 30);
        T* const log_l = this->room(axes_['B'] * axes_['M']);
        std::transform(l.begin(), l.end(), log_l, [](std::int32_t x) { return static_cast<T>(std::log(static_cast<double>(x))); });
        auto const m = this->mechanism(axes_['d']);
        auto const out = this->make_out(true);
        auto const saved = this->make_lse();
        forward(attention{m.score | bias{tensor_view<T const>(log_l, {axes_['B'], 1, 1, axes_['M']})}, m.pattern, m.normalizer}, q, k, v, out, saved);
        return this->finish();
    }
};

template <template <class> class R>
std::vector<output_tensor> run_as(safetensors_file const& input, settings const& set, char const* first) {
    auto const type = require(input, first).type;
    if (type == dtype::f32) { return R<float>(input, set).run(); }
    if (type == dtype::f64) { return R<double>(input, set).run(); }
    throw bad_tensor(input.path(), first, "has dtype " + std::string(name_of(type)) + ", needed is F32 or F64");
}

run_registration const tensor_product("tensor_product", {tensor_product_options, [](safetensors_file const& input, settings const& set) { return run_as<tensor_product_run>(input, set, "bk"); }});
run_registration const latent("latent", {latent_options, [](safetensors_file const& input, settings const& set) { return run_as<latent_run>(input, set, "c_kv"); }});
run_registration const merged("merged", {merged_options, [](safetensors_file const& input, settings const& set) { return run_as<merged_run>(input, set, "k"); }});

} // namespace

} // namespace heed::tool
