// SPDX-License-Identifier: BSD-3-Clause
// The memory of a row whose queries and keys are nodes (points of a sphere, nodes of a graph): heads of a node side by side, filled when the row is prepared
// and given back when its group is done.
#pragma once

#include "operands.hpp"
#include "problem.hpp"

#include <heed/view/tensor_view.hpp>

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace heed::bench {
namespace {

struct node_arrays {
    problem p;
    std::vector<float> q, k, v, out, dout, dq, dk, dv, lse;

    shape queries(extent_t d) const { return {1, p.heads, p.queries, d}; }
    shape keys(extent_t d) const { return {1, p.heads, p.keys, d}; }
    template <class X>
    static tensor_view<X> view(std::vector<X>& data, shape s) {
        return sequence_major(data.data(), s);
    }
    void fill(std::uint64_t seed) {
        std::vector<float>* const inputs[] = {&q, &k, &v, &dout};
        shape const of[] = {queries(p.dim), keys(p.dim), keys(p.dim_v), queries(p.dim_v)};
        for (std::size_t i = 0; i < 4; ++i) {
            reserve(*inputs[i], of[i]);
            inputs[i]->resize(static_cast<std::size_t>(of[i].size()));
            fill_normal(*inputs[i], seed, i);
        }
        std::vector<float>* const results[] = {&out, &dq, &dk, &dv, &lse};
        shape const shapes[] = {queries(p.dim_v), queries(p.dim), keys(p.dim), keys(p.dim_v), queries(1)};
        for (std::size_t i = 0; i < 5; ++i) {
            reserve(*results[i], shapes[i]);
            results[i]->assign(static_cast<std::size_t>(shapes[i].size()), std::numeric_limits<float>::quiet_NaN());
        }
    }
    static void reserve(std::vector<float>& x, shape s) {
        x.reserve(static_cast<std::size_t>(s.size()));
        prefer_huge_pages(x.data(), x.capacity() * sizeof(float));
    }
    void release() {
        for (std::vector<float>* x : {&q, &k, &v, &out, &dout, &dq, &dk, &dv, &lse}) { std::vector<float>().swap(*x); }
    }

    // Row (h, i) of the result again in double: weight(j) of every key that `each` names. Empty when right.
    template <class Each>
    std::string check_forward(extent_t h, extent_t i, Each const& each) {
        auto const row = [](std::vector<float>& x, shape s, extent_t head, extent_t n, extent_t e) { return static_cast<double>(view(x, s)(0, head, n, e)); };
        std::vector<double> sum(static_cast<std::size_t>(p.dim_v)), size(sum.size());
        double total = 0;
        each([&](extent_t j, double weight) {
            double s = 0;
            for (extent_t e = 0; e < p.dim; ++e) { s += row(q, queries(p.dim), h, i, e) * row(k, keys(p.dim), h, j, e); }
            double const w = weight * std::exp(s / std::sqrt(static_cast<double>(p.dim)));
            total += w;
            for (extent_t e = 0; e < p.dim_v; ++e) {
                sum[static_cast<std::size_t>(e)] += w * row(v, keys(p.dim_v), h, j, e);
                size[static_cast<std::size_t>(e)] += w * std::abs(row(v, keys(p.dim_v), h, j, e));
            }
        });
        for (extent_t e = 0; e < p.dim_v; ++e) {
            std::size_t const at = static_cast<std::size_t>(e);
            double const got = row(out, queries(p.dim_v), h, i, e), want = total > 0 ? sum[at] / total : 0, allowed = total > 0 ? 2e-5 * size[at] / total : 0;
            if (std::abs(got - want) <= allowed) { continue; }
            std::ostringstream text;
            text << "row " << i << " of head " << h << ", feature " << e << ": got " << got << ", expected " << want << " within " << allowed;
            return text.str();
        }
        return {};
    }
    // The sum of dv over all keys is the sum of dout over all queries that see a key: weights of a row sum to 1.
    template <class Sees>
    std::string check_backward(Sees const& sees) {
        for (extent_t h = 0; h < p.heads; ++h) {
            for (extent_t e = 0; e < p.dim_v; ++e) {
                double got = 0, want = 0, size = 0;
                for (extent_t j = 0; j < p.keys; ++j) { got += static_cast<double>(view(dv, keys(p.dim_v))(0, h, j, e)); }
                for (extent_t i = 0; i < p.queries; ++i) {
                    if (!sees(i)) { continue; }
                    double const x = static_cast<double>(view(dout, queries(p.dim_v))(0, h, i, e));
                    want += x;
                    size += std::abs(x);
                }
                if (std::abs(got - want) <= 1e-5 * size) { continue; }
                std::ostringstream text;
                text << "dv of head " << h << ", feature " << e << " sums to " << got << ", expected " << want << " within " << 1e-5 * size;
                return text.str();
            }
        }
        return {};
    }
};

// A whole number of a mechanism's own settings.
inline extent_t whole(problem const& p, std::string const& key, extent_t otherwise) {
    auto const found = p.extra.find(key);
    return found == p.extra.end() ? otherwise : static_cast<extent_t>(parse_size(found->second));
}
inline void refuse_node_problem(problem const& p, std::initializer_list<std::string_view> known) {
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.dtype != element::f32 || p.backend != "cpu" || !p.isa.empty()) { refuse("compiled for f32 on the cpu backend, with the build's own instruction set"); }
    if (p.mask != mask_kind::full || p.bias != bias_kind::none || p.softcap != 0 || p.alibi) { refuse("masks, bias, softcap and alibi are not its own"); }
    if (p.batch != 1 || p.kv_heads != p.heads || p.threads != 1) { refuse("compiled for one batch entry, a key head per head, and one thread here"); }
    if (p.verb != "forward" && p.verb != "backward") { refuse("it has the verbs forward and backward"); }
    for (auto const& [key, value] : p.extra) {
        bool found = false;
        for (std::string_view const k : known) { found = found || k == key; }
        if (!found) { refuse("it has no setting '" + key + "'"); }
    }
}

} // namespace
} // namespace heed::bench
