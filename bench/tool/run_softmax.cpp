// SPDX-License-Identifier: BSD-3-Clause
// `heed run --mechanism softmax`: options and tensors by name into one softmax problem.
#include "failure.hpp"
#include "inputs.hpp"
#include "runnable.hpp"
#include "softmax_problem.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace heed::tool {

namespace {

constexpr std::array softmax_options{
    option_row{"mask", "full|causal|causal_top_left|window|document",
               "which keys a query sees; causal and window are aligned bottom right (default full)"},
    option_row{"window", "integer", "with mask=window: the last so many keys, the query's own included"},
    option_row{"left", "integer", "with mask=window: keys before the query's own"},
    option_row{"right", "integer", "with mask=window: keys behind the query's own"},
    option_row{"scale", "number", "factor of the scores (default 1/sqrt(width))"},
    option_row{"softcap", "number", "cap * tanh(score / cap) before bias and mask"},
    option_row{"bias", "none|tensor", "additive tensor bias [B|1, H|1, N|1, M|1] (default: if the file has one)"},
    option_row{"alibi", "0|1", "-slope * distance, tensor slopes [H] or 2^(-8 (h+1) / H) (default: if the file has slopes)"},
    option_row{"lse", "0|1", "also write lse, the natural log-sum-exp [B, H, N] (default 0)"},
};

template <class T>
output_tensor make_output(std::string name, tensor_shape shape) {
    auto const bytes = static_cast<std::size_t>(element_count(shape)) * sizeof(T);
    return {std::move(name), sizeof(T) == 4 ? dtype::f32 : dtype::f64, std::move(shape), std::vector<std::byte>(bytes)};
}

// Everything that one run reads and writes; the problem holds views into it.
template <class T>
class softmax_run {
    safetensors_file const& input_;
    settings const& set_;
    axis_lengths axes_;
    std::vector<T> q_, k_, v_, bias_, slopes_, sinks_;
    std::vector<std::int32_t> query_ids_, key_ids_, key_lengths_;
    std::vector<std::uint8_t> keep_;
    softmax_problem<T> problem_;

public:
    softmax_run(safetensors_file const& input, settings const& set) : input_(input), set_(set) {}

    std::vector<output_tensor> run() {
        problem_.q = operand("q", "BHNd", q_);
        problem_.k = operand("k", "BGMd", k_);
        problem_.v = operand("v", "BGMe", v_);
        auto const B = axes_['B'], H = axes_['H'], N = axes_['N'];
        set_scores();
        set_pattern();
        if (input_.find("sinks")) { problem_.sinks = per_head(reals("sinks", "H", sinks_), H); }

        std::vector<output_tensor> results;
        results.push_back(make_output<T>("out", axes_.shape_of("BHNe")));
        results.push_back(make_output<T>("lse", axes_.shape_of("BHN")));
        problem_.out = {reinterpret_cast<T*>(results[0].bytes.data()), {B, H, N, axes_['e']}};
        problem_.lse = per_row(reinterpret_cast<T*>(results[1].bytes.data()), B, H, N);
        attend(problem_);
        if (!set_.flag("lse", false)) { results.pop_back(); }
        return results;
    }

private:
    T const* reals(std::string_view name, std::string_view axes, std::vector<T>& store) {
        auto const& stored = require(input_, name);
        axes_.match(input_.path(), name, stored.shape, axes);
        store = read_reals<T>(input_, name, stored);
        return store.data();
    }

    tensor_view<T const> operand(std::string_view name, std::string_view axes, std::vector<T>& store) {
        auto const* data = reals(name, axes, store);
        auto const& s = require(input_, name).shape;
        return {data, {s[0], s[1], s[2], s[3]}};
    }

    std::int32_t const* integers(std::string_view name, std::string_view axes, std::int64_t least, std::int64_t most,
                                 std::vector<std::int32_t>& store) {
        auto const& stored = require(input_, name);
        axes_.match(input_.path(), name, stored.shape, axes);
        store = read_integers(input_, name, stored, least, most);
        return store.data();
    }

    void set_scores() {
        auto const d = axes_['d'], H = axes_['H'];
        problem_.scale = static_cast<T>(set_.number("scale").value_or(d > 0 ? 1 / std::sqrt(static_cast<double>(d)) : 1.0));
        if (auto const cap = set_.number("softcap")) {
            if (!(*cap > 0)) { throw bad_usage("--set softcap: must be above 0"); }
            problem_.softcap = static_cast<T>(*cap);
        }
        static constexpr std::string_view bias_choices[] = {"none", "tensor"};
        if (set_.choice("bias", input_.find("bias") ? "tensor" : "none", bias_choices) == "tensor") {
            problem_.bias = operand("bias", "B?H?N?M?", bias_);
        }
        if (!set_.flag("alibi", input_.find("slopes") != nullptr)) { return; }
        if (input_.find("slopes")) {
            reals("slopes", "H", slopes_);
        } else {
            for (extent_t h = 0; h < H; ++h) {
                slopes_.push_back(static_cast<T>(std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(H))));
            }
        }
        problem_.slopes = per_head<T const>(slopes_.data(), H);
    }

    void set_pattern() {
        static constexpr std::string_view masks[] = {"full", "causal", "causal_top_left", "window", "document"};
        auto const mask = set_.choice("mask", "full", masks);
        auto const window = set_.integer("window", 1), left = set_.integer("left", 0), right = set_.integer("right", 0);
        if (mask == "window") {
            if (window ? left || right : !left && !right) { throw bad_usage("--set mask=window: give either window, or left and right"); }
            problem_.mask = mask_kind::window;
            problem_.left = window ? *window - 1 : left.value_or(0);
            problem_.right = right.value_or(0);
        } else if (window || left || right) {
            throw bad_usage("--set window, left and right go with mask=window");
        }
        if (mask == "causal") { problem_.mask = mask_kind::causal_bottom_right; }
        if (mask == "causal_top_left") { problem_.mask = mask_kind::causal_top_left; }
        if (mask == "document") { set_documents(); }
        if (input_.find("kv_len")) { problem_.key_lengths = per_batch(integers("kv_len", "B", 0, axes_['M'], key_lengths_), axes_['B']); }
        if (auto const* keep = input_.find("mask")) {
            axes_.match(input_.path(), "mask", keep->shape, "B?H?N?M?");
            keep_ = read_booleans(input_, "mask", *keep);
            problem_.keep = {keep_.data(), {keep->shape[0], keep->shape[1], keep->shape[2], keep->shape[3]}};
        }
    }

    // doc_id [N] when queries and keys are the same positions, else query_doc_id [N] and key_doc_id [M].
    void set_documents() {
        constexpr std::int64_t lowest = std::numeric_limits<std::int32_t>::min(), highest = std::numeric_limits<std::int32_t>::max();
        bool const apart = input_.find("query_doc_id") || input_.find("key_doc_id");
        auto const* queries = integers(apart ? "query_doc_id" : "doc_id", "N", lowest, highest, query_ids_);
        auto const* keys = integers(apart ? "key_doc_id" : "doc_id", "M", lowest, highest, key_ids_);
        problem_.query_ids = per_row(queries, 1, 1, axes_['N']);
        problem_.key_ids = per_row(keys, 1, 1, axes_['M']);
    }
};

std::vector<output_tensor> run_softmax(safetensors_file const& input, settings const& set) {
    auto const type = require(input, "q").type;
    for (auto const* name : {"k", "v"}) {
        if (require(input, name).type != type) {
            throw bad_tensor(input.path(), name,
                             "has dtype " + std::string(name_of(require(input, name).type)) + ", q has " + std::string(name_of(type)));
        }
    }
    if (type == dtype::f32) { return softmax_run<float>(input, set).run(); }
    if (type == dtype::f64) { return softmax_run<double>(input, set).run(); }
    if (type == dtype::f16 || type == dtype::bf16) {
        throw not_supported(input.path() + ": tensor \"q\": dtype " + std::string(name_of(type)) + " is not supported, F32 and F64 are");
    }
    throw bad_tensor(input.path(), "q", "has dtype " + std::string(name_of(type)) + ", needed is F32 or F64");
}

run_registration const registration("softmax", {softmax_options, &run_softmax});

} // namespace

} // namespace heed::tool
