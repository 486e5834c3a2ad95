// SPDX-License-Identifier: BSD-3-Clause
// Every rule on shapes, strides and aliases, and every sentence. Rules are data; nothing below the door checks again.
#pragma once

#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed::detail {

enum class axis { batch, head, seq, feature };
enum class rule_kind { equal, multiple };

// "a.axis must equal (or be a multiple of) b.axis"
struct axis_rule {
    int a;
    axis a_axis;
    rule_kind kind;
    int b;
    axis b_axis;
};

// A tensor of a call as the rules see it.
struct argument {
    char const* name;
    shape extents;
    strides steps;
    std::uintptr_t address;
    std::size_t element;
    ragged_offsets offsets;
    bool written;
    bool made = false; // its rows come from a loader's own views: it has a shape and no memory

    template <class T>
    HEED_HD static argument of(char const* name, tensor_view<T> const& v) {
        return {name, v.shape(), v.strides(), reinterpret_cast<std::uintptr_t>(v.data_handle()), sizeof(T), v.offsets(), !std::is_const_v<T>};
    }
    HEED_HD bool empty() const { return extents.batch <= 0 || extents.head <= 0 || extents.seq <= 0 || extents.feature <= 0; }
    // memory as one box: the rows of a ragged view stand one after another
    HEED_HD shape box() const { return offsets ? shape{1, extents.head, offsets[offsets.count()], extents.feature} : extents; }
};

// Arguments of the pairwise family, in this order.
enum pairwise_argument { arg_q, arg_k, arg_v, arg_out, arg_lse, pairwise_arguments };
// Arguments of its backward.
enum gradient_argument { arg_dout = pairwise_arguments, arg_dlse, arg_dq, arg_dk, arg_dv, gradient_arguments };
inline constexpr axis_rule pairwise_rules[] = {
    {arg_k, axis::batch, rule_kind::equal, arg_q, axis::batch},    {arg_v, axis::batch, rule_kind::equal, arg_k, axis::batch},
    {arg_q, axis::head, rule_kind::multiple, arg_k, axis::head},   {arg_v, axis::head, rule_kind::equal, arg_k, axis::head},
    {arg_k, axis::feature, rule_kind::equal, arg_q, axis::feature}, {arg_v, axis::seq, rule_kind::equal, arg_k, axis::seq},
    {arg_out, axis::batch, rule_kind::equal, arg_q, axis::batch},  {arg_out, axis::head, rule_kind::equal, arg_q, axis::head},
    {arg_out, axis::seq, rule_kind::equal, arg_q, axis::seq},      {arg_out, axis::feature, rule_kind::equal, arg_v, axis::feature},
    {arg_lse, axis::batch, rule_kind::equal, arg_q, axis::batch},  {arg_lse, axis::head, rule_kind::equal, arg_q, axis::head},
    {arg_lse, axis::seq, rule_kind::equal, arg_q, axis::seq},
};

constexpr char const* axis_name(axis a) { return a == axis::batch ? "batch" : a == axis::head ? "head" : a == axis::seq ? "seq" : "feature"; }
constexpr char const* axis_unit(axis a) { return a == axis::batch ? " batch entries" : a == axis::head ? " heads" : a == axis::seq ? " positions" : " features"; }

// A gradient has the shape of what it belongs to.
inline constexpr int gradient_of[gradient_arguments] = {-1, -1, -1, -1, -1, arg_out, arg_lse, arg_q, arg_k, arg_v};

// A template on the architecture: objects with other flags keep their own copy.
template <class A>
struct door {
    HEED_COLD static void refuse(std::string const& text) { HEED_THROW(shape_error(text)); }

    static void check_axes(argument const* args, int count, axis_rule const* rules, int rule_count) {
        for (int i = 0; i < count; ++i) {
            for (int r = 0; r < 4; ++r) {
                axis const x = static_cast<axis>(r);
                if (args[i].extents[r] < 0) {
                    refuse(sentence<A>("heed: ", args[i].name, ".", axis_name(x), " is ", args[i].extents[r], "; extents must not be negative"));
                }
            }
            if (args[i].extents.seq > longest_sequence) {
                refuse(sentence<A>("heed: ", args[i].name, " has ", args[i].extents.seq, " positions; sequences of at most ", longest_sequence, " are supported"));
            }
            if (args[i].address == 0 && !args[i].made && !args[i].empty()) { refuse(sentence<A>("heed: ", args[i].name, " has no data; its pointer is null and its shape is not empty")); }
        }
        for (int i = 0; i < rule_count; ++i) {
            axis_rule const& r = rules[i];
            if (r.a >= count || r.b >= count) { continue; }
            extent_t const x = args[r.a].extents[static_cast<int>(r.a_axis)], y = args[r.b].extents[static_cast<int>(r.b_axis)];
            bool const holds = r.kind == rule_kind::equal ? x == y : (x == y || (y > 0 && x % y == 0));
            if (!holds) {
                refuse(sentence<A>("heed: ", args[r.a].name, " has ", x, axis_unit(r.a_axis), " and ", args[r.b].name, " has ", y, axis_unit(r.b_axis), "; ",
                                   args[r.a].name, ".", axis_name(r.a_axis), r.kind == rule_kind::equal ? " must equal " : " must be a multiple of ",
                                   args[r.b].name, ".", axis_name(r.b_axis)));
            }
        }
    }

    template <int N>
    static void check_axes(argument const* args, int count, axis_rule const (&rules)[N]) {
        check_axes(args, count, rules, N);
    }

    // The arguments of a pairwise call from q to out.
    template <class Q, class K, class V, class O>
    static void check_pairwise(Q const& q, K const& k, V const& v, O const& out) {
        argument const given[] = {argument::of("q", q), argument::of("k", k), argument::of("v", v), argument::of("out", out)};
        check_axes(given, 4, pairwise_rules);
        check_outputs(given, 4);
    }

    // a has the shape of b, axis by axis
    static void check_same(argument const& a, argument const& b) {
        axis_rule const same[] = {{0, axis::batch, rule_kind::equal, 1, axis::batch},
                                  {0, axis::head, rule_kind::equal, 1, axis::head},
                                  {0, axis::seq, rule_kind::equal, 1, axis::seq},
                                  {0, axis::feature, rule_kind::equal, 1, axis::feature}};
        argument const both[] = {a, b};
        check_axes(both, 2, same, 4);
    }

    // A ragged argument and the one whose rows it shares must be cut at the same places.
    static void check_offsets(argument const& a, argument const& b) {
        if (!a.offsets && !b.offsets) { return; }
        if (static_cast<bool>(a.offsets) != static_cast<bool>(b.offsets)) {
            refuse(sentence<A>("heed: ", a.offsets ? a.name : b.name, " is ragged and ", a.offsets ? b.name : a.name, " is not; both need the same offsets"));
        }
        for (extent_t i = 0; i <= a.offsets.count(); ++i) {
            if (a.offsets[i] != b.offsets[i]) {
                refuse(sentence<A>("heed: ragged offsets of ", a.name, " and ", b.name, " differ at position ", i, " (", a.offsets[i], " and ", b.offsets[i], "); they must be equal"));
            }
        }
    }

    static void check_outputs(argument const* args, int count) {
        for (int o = 0; o < count; ++o) {
            if (!args[o].written || args[o].empty()) { continue; }
            for (int r = 0; r < 4; ++r) {
                if (args[o].steps[r] == 0 && args[o].box()[r] > 1) {
                    refuse(sentence<A>("heed: ", args[o].name, ".", axis_name(static_cast<axis>(r)), " has stride 0 and extent ", args[o].box()[r],
                                       "; an output must not write one element twice"));
                }
            }
            for (int i = 0; i < count; ++i) {
                if (i != o && (i < o || !args[i].written)) { check_apart(args[o], args[i]); }
            }
        }
    }

    static void check_apart(argument const& output, argument const& other) {
        if (!output.empty() && !other.empty() && !other.made && meet(output, other)) {
            refuse(sentence<A>("heed: ", output.name, " overlaps ", other.name, " in memory; an output must not share elements with another argument"));
        }
    }

    static void check_view(char const* name, shape have, shape want, bool exact_features) {
        for (int r = 0; r < 4; ++r) {
            bool const exact = exact_features && r == 3;
            if (have[r] != want[r] && (exact || have[r] != 1)) {
                axis const x = static_cast<axis>(r);
                refuse(sentence<A>("heed: ", name, ".", axis_name(x), " is ", have[r], " and the call needs ", want[r],
                                   exact ? "; this extent must be equal" : "; each extent must be equal or 1 (broadcast)"));
            }
        }
    }

private:
    struct bytes {
        std::intptr_t low, high; // first byte, one past the last
    };
    static bytes extent_bytes(argument const& a) {
        std::intptr_t low = static_cast<std::intptr_t>(a.address), high = low + static_cast<std::intptr_t>(a.element);
        shape const n = a.box();
        for (int r = 0; r < 4; ++r) {
            std::intptr_t const reach = static_cast<std::intptr_t>((n[r] - 1) * a.steps[r]) * static_cast<std::intptr_t>(a.element);
            (reach < 0 ? low : high) += reach;
        }
        return {low, high};
    }
    // Two boxes meet unless their address ranges are apart, or equal strides and base offsets prove that no element is in both.
    static bool meet(argument const& a, argument const& b) {
        bytes const x = extent_bytes(a), y = extent_bytes(b);
        if (x.high <= y.low || y.high <= x.low) { return false; }
        if (!(a.steps == b.steps) || a.element != b.element) { return true; }
        std::intptr_t const apart = static_cast<std::intptr_t>(b.address) - static_cast<std::intptr_t>(a.address);
        if (apart % static_cast<std::intptr_t>(a.element) != 0) { return true; }
        int order[4] = {0, 1, 2, 3};
        auto const size = [&](int r) { return a.steps[r] < 0 ? -a.steps[r] : a.steps[r]; };
        for (int i = 0; i < 3; ++i) {
            for (int j = i + 1; j < 4; ++j) {
                if (size(order[j]) > size(order[i])) {
                    int const t = order[i];
                    order[i] = order[j];
                    order[j] = t;
                }
            }
        }
        int budget = 4096;
        return reachable(a, b, order, 0, apart / static_cast<std::intptr_t>(a.element), budget);
    }
    // Is `apart` a sum of t_r * step_r with -(b_r - 1) <= t_r <= a_r - 1? Largest strides first; gives up (true) when the search grows.
    static bool reachable(argument const& a, argument const& b, int const* order, int depth, extent_t apart, int& budget) {
        if (--budget < 0) { return true; }
        if (depth == 4) { return apart == 0; }
        int const r = order[depth];
        extent_t const step = a.steps[r], high = a.box()[r] - 1, low = -(b.box()[r] - 1);
        if (step == 0) { return reachable(a, b, order, depth + 1, apart, budget); }
        extent_t rest = 0; // reach of the smaller strides, either way
        for (int d = depth + 1; d < 4; ++d) {
            extent_t const s = a.steps[order[d]] < 0 ? -a.steps[order[d]] : a.steps[order[d]];
            rest += s * (a.box()[order[d]] - 1 + b.box()[order[d]] - 1);
        }
        extent_t const size = step < 0 ? -step : step, target = step < 0 ? -apart : apart;
        extent_t first = floor_div(target - rest, size), last = floor_div(target + rest, size) + 1;
        first = first < low ? low : first;
        last = last > high ? high : last;
        for (extent_t t = first; t <= last; ++t) {
            if (reachable(a, b, order, depth + 1, apart - t * step, budget)) { return true; }
        }
        return false;
    }
    static constexpr extent_t floor_div(extent_t a, extent_t b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0) ? 1 : 0); }
};

} // namespace heed::detail
