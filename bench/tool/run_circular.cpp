// SPDX-License-Identifier: BSD-3-Clause
// `heed run` of mixing by distance: scores z [B|1, H|1, N] and values v [B, H, M, e] of circular and causal_circular, filters z [1, H|1, K] of
// causal_convolution, and q, k, v of averaged_key. Results out [B, H, N, e].
#include "failure.hpp"
#include "inputs.hpp"
#include "runnable.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/averaged_key.hpp>
#include <heed/mechanism/long_convolution.hpp>

#include <array>

namespace heed::tool {

namespace {

constexpr std::array orientations{option_row{"orientation", "correlation|convolution", "row i takes values i + t or i - t (default correlation)"}};

template <class T>
class mixing_run {
    safetensors_file const& input_;
    axis_lengths axes_;
    std::vector<std::vector<T>> read_;

    tensor_view<T const> operand(std::string_view name, std::string_view axes) {
        auto const& stored = require(input_, name);
        axes_.match(input_.path(), name, stored.shape, axes);
        read_.push_back(read_reals<T>(input_, name, stored));
        auto const& s = stored.shape;
        return {read_.back().data(), {s[0], s[1], s[2], s.size() == 4 ? s[3] : 1}};
    }
    template <class F>
    std::vector<output_tensor> result(std::string_view axes, F const& f) {
        auto const shape = axes_.shape_of(axes);
        output_tensor out{"out", sizeof(T) == 4 ? dtype::f32 : dtype::f64, shape, std::vector<std::byte>(static_cast<std::size_t>(element_count(shape)) * sizeof(T))};
        f(tensor_view<T>(reinterpret_cast<T*>(out.bytes.data()), {shape[0], shape[1], shape[2], shape[3]}));
        std::vector<output_tensor> all;
        all.push_back(std::move(out));
        return all;
    }
    // Both orientations of what `run` takes one of.
    template <class F>
    static void oriented(settings const& set, F const& run) {
        static constexpr std::string_view names[] = {"correlation", "convolution"};
        set.choice("orientation", "correlation", names) == "convolution" ? run(convolution{}) : run(correlation{});
    }

public:
    explicit mixing_run(safetensors_file const& input) : input_(input) { read_.reserve(4); }

    std::vector<output_tensor> circular(settings const& set) {
        auto const v = operand("v", "BHMe"), z = operand("z", "B?H?N");
        return result("BHNe", [&](auto const& out) { oriented(set, [&](auto o) { forward(circular_attention(o), z, v, out); }); });
    }
    std::vector<output_tensor> causal(settings const&) {
        auto const v = operand("v", "BHNe"), z = operand("z", "B?H?N");
        return result("BHNe", [&](auto const& out) { forward(causal_circular_attention(), z, v, out); });
    }
    std::vector<output_tensor> causal_filter(settings const&) {
        auto const v = operand("v", "BHNe"), z = operand("z", "B?H?K");
        return result("BHNe", [&](auto const& out) { forward(causal_long_convolution(), z, v, out); });
    }
    std::vector<output_tensor> averaged(settings const& set) {
        auto const q = operand("q", "BHNd"), k = operand("k", "BGMd"), v = operand("v", "BGMe");
        return result("BHNe", [&](auto const& out) { oriented(set, [&](auto o) { forward(averaged_key_attention(o), q, k, v, out); }); });
    }
};

using member = std::vector<output_tensor> (mixing_run<float>::*)(settings const&);
using wide_member = std::vector<output_tensor> (mixing_run<double>::*)(settings const&);

template <member F, wide_member G>
std::vector<output_tensor> run(safetensors_file const& input, settings const& set) {
    auto const type = require(input, "v").type;
    if (type == dtype::f32) { return (mixing_run<float>(input).*F)(set); }
    if (type == dtype::f64) { return (mixing_run<double>(input).*G)(set); }
    throw not_supported(input.path() + ": tensor \"v\": dtype " + std::string(name_of(type)) + " is not supported, F32 and F64 are");
}

#define HEED_MIXING(name) &run<&mixing_run<float>::name, &mixing_run<double>::name>
run_registration const circular("circular", {orientations, HEED_MIXING(circular)}), causal_circular("causal_circular", {{}, HEED_MIXING(causal)}),
    causal_convolution("causal_convolution", {{}, HEED_MIXING(causal_filter)}), averaged_key("averaged_key", {orientations, HEED_MIXING(averaged)});
#undef HEED_MIXING

} // namespace

} // namespace heed::tool
