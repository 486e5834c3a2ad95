// SPDX-License-Identifier: BSD-3-Clause
// Attention along edges: given tensors, and as graph layers with the gradients of their parameters. Axis letters: N targets, S sources, E edges, U edges with the
// added loops, H heads, F width of a head, O all heads, C D features of nodes, G of edges.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/front/edge.hpp>
#include <heed/mechanism/graph.hpp>

#include <algorithm>
#include <array>
#include <string>

namespace heed::tool {

namespace {

// A case's graph, the inputs that get gradients, and the layers between.
template <class T>
struct graph_case {
    case_io<T>& io;
    tape<T> t;
    std::vector<std::int32_t> pairs; // sources, then targets
    std::optional<graph> lists;
    extent_t H = 1;
    struct parameter {
        std::string name, axes;
        traced<T> value;
        extent_t count;
    };
    std::vector<parameter> inputs;

    explicit graph_case(case_io<T>& of) : io(of), t(of, wants_any(of)) {
        io.set('p', 2, "a pair of nodes");
        io.set('u', 1, "the layout");
    }
    static bool wants_any(case_io<T>& io) {
        auto const& names = io.source().expected();
        return std::any_of(names.begin(), names.end(), [&](std::string const& n) { return io.source().is_gradient(n) && io.wants(n); });
    }
    bool has(std::string_view name) const { return io.source().file().find(name) != nullptr; }

    traced<T> input(std::string const& name, std::string const& axes) {
        auto const x = io.reals(name, axes);
        extent_t count = 1;
        for (auto const n : x.shape) { count *= n; }
        traced<T> const value = t.copy(x.data, count);
        inputs.push_back({name, axes, value, count});
        return value;
    }
    void read_graph(extent_t sources, extent_t targets, self_loops loops) {
        auto const index = io.integers("edge_index", "pE", 0, (1 << 30) - 1);
        std::size_t const E = static_cast<std::size_t>(io['E']);
        try {
            lists.emplace(std::span(index.data, E), std::span(index.data + E, E), sources, targets, loops);
        } catch (shape_error const& e) { throw bad_tensor(io.source().path(), "edge_index", std::string("is refused: ") + e.what()); }
        io.set('U', lists->size(), "the edges and the added loops");
        if (io.expects("edge_index_used")) {
            std::int64_t* const used = io.make_integers("edge_index_used", "pU", integer_order::exact);
            edge_list const edges = lists->edges();
            for (extent_t i = 0; i < targets; ++i) {
                for (extent_t s = edges.begin(i); s < edges.end(i); ++s) {
                    used[edges.number(s)] = edges.source(s);
                    used[lists->size() + edges.number(s)] = i;
                }
            }
        }
    }

    // y = x W^T + b; the parameters' gradients too. prefix.weight [O, in], prefix.bias
    traced<T> map(traced<T> x, extent_t rows, std::string const& prefix, char out, char in) {
        using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
        traced<T> const w = parameter_once(prefix + ".weight", {out, in}), b = has(prefix + ".bias") ? parameter_once(prefix + ".bias", {out}) : traced<T>{};
        extent_t const n = io[out], m = io[in];
        traced<T> const y = t.room(rows * n);
        Eigen::Map<matrix>(y.x, rows, n).noalias() = Eigen::Map<matrix>(x.x, rows, m) * Eigen::Map<matrix>(w.x, n, m).transpose();
        if (b.x) { add_rows(y.x, b.x, rows, n); }
        t.back([=] {
            Eigen::Map<matrix> const up(y.d, rows, n);
            Eigen::Map<matrix>(x.d, rows, m).noalias() += up * Eigen::Map<matrix>(w.x, n, m);
            Eigen::Map<matrix>(w.d, n, m).noalias() += up.transpose() * Eigen::Map<matrix>(x.x, rows, m);
            if (b.x) { add_columns(b.d, y.d, rows, n); }
        });
        return y;
    }
    traced<T> parameter_once(std::string const& name, std::string const& axes) { // shared maps are read once
        for (parameter const& p : inputs) {
            if (p.name == name) { return p.value; }
        }
        return input(name, axes);
    }
    static void add_rows(T* y, T const* b, extent_t rows, extent_t n) {
        for (extent_t i = 0; i < rows * n; ++i) { y[i] += b[i % n]; }
    }
    static void add_columns(T* b, T const* y, extent_t rows, extent_t n) {
        for (extent_t i = 0; i < rows * n; ++i) { b[i % n] += y[i]; }
    }
    // s[n][h] = a[h] . z[n][h], at `step` numbers apart
    traced<T> head_products(traced<T> z, extent_t rows, extent_t width, traced<T> a) {
        traced<T> const s = t.room(rows * H);
        for (extent_t r = 0; r < rows * H; ++r) {
            for (extent_t e = 0; e < width; ++e) { s.x[r] += a.x[r % H * width + e] * z.x[r * width + e]; }
        }
        t.back([=, heads = H] {
            for (extent_t r = 0; r < rows * heads; ++r) {
                for (extent_t e = 0; e < width; ++e) {
                    a.d[r % heads * width + e] += s.d[r] * z.x[r * width + e];
                    z.d[r * width + e] += s.d[r] * a.x[r % heads * width + e];
                }
            }
        });
        return s;
    }
    // [rows, H, width] and [rows, H] side by side
    traced<T> with_last(traced<T> z, traced<T> s, extent_t rows, extent_t width) {
        traced<T> const y = t.room(rows * H * (width + 1));
        for (extent_t r = 0; r < rows * H; ++r) {
            std::copy_n(z.x + r * width, width, y.x + r * (width + 1));
            y.x[r * (width + 1) + width] = s.x[r];
        }
        t.back([=, heads = H] {
            for (extent_t r = 0; r < rows * heads; ++r) {
                for (extent_t e = 0; e < width; ++e) { z.d[r * width + e] += y.d[r * (width + 1) + e]; }
                s.d[r] += y.d[r * (width + 1) + width];
            }
        });
        return y;
    }
    // Features of all used edges: those given, and for an added loop the mean over its node's other edges.
    traced<T> edge_features(traced<T> given, extent_t width) {
        traced<T> const y = t.room(lists->size() * width);
        auto const each = [edges = lists->edges(), width](graph const& g, auto const& f) {
            for (extent_t i = 0; i < edges.targets(); ++i) {
                extent_t const loops = edges.end(i) > edges.begin(i) && g.origin(edges.number(edges.end(i) - 1)) < 0 ? 1 : 0, others = edges.end(i) - edges.begin(i) - loops;
                for (extent_t s = edges.begin(i); s < edges.begin(i) + others; ++s) {
                    for (extent_t e = 0; e < width; ++e) {
                        extent_t const from = g.origin(edges.number(s)) * width + e;
                        f(edges.number(s) * width + e, from, T(1));
                        if (loops) { f(edges.number(edges.end(i) - 1) * width + e, from, T(1) / static_cast<T>(others)); }
                    }
                }
            }
        };
        each(*lists, [&](extent_t to, extent_t from, T c) { y.x[to] += c * given.x[from]; });
        t.back([=, this] { each(*lists, [&](extent_t to, extent_t from, T c) { given.d[from] += c * y.d[to]; }); });
        return y;
    }
    // Attention of heads side by side; edge and vector are what the mechanism holds, for their gradients.
    template <class M>
    traced<T> attend(M const& m, traced<T> q, traced<T> k, traced<T> v, extent_t d, extent_t dv, traced<T> edge = {}, traced<T> added = {}, traced<T> vector = {}) {
        shape const sq{1, H, m.edges.targets(), d}, sk{1, H, m.edges.sources(), d}, sv{1, H, m.edges.sources(), dv}, so{1, H, m.edges.targets(), dv};
        traced<T> const out = t.room(so.size());
        save const saved{per_row(io.scratch(H * so.seq), 1, H, so.seq)};
        T* const alpha = io.make("alpha", "UH");
        auto const in = [](traced<T> const& x, shape s) { return sequence_major<T const>(x.x, s); };
        forward(m, in(q, sq), in(k, sk), in(v, sv), sequence_major(out.x, so), saved, edge_weights{tensor_view<T>(alpha, {1, H, lists->size(), 1}, {0, 1, H, 1})});
        t.back([=, this, heads = H] {
            auto const fresh = [&](shape s) { return sequence_major(io.scratch(s.size()), s); };
            tensor_view<T> const dq = fresh(sq), dk = fresh(sk), dvalue = fresh(sv);
            using term = typename std::remove_cvref_t<decltype(heed::detail::head_of(m.score))>::term_type;
            shape const se{1, heads, lists->size(), d}, sa{1, heads, 1, d};
            auto const run = [&](auto const&... options) {
                backward(m, in(q, sq), in(k, sk), in(v, sv), sequence_major<T const>(out.x, so), saved, sequence_major<T const>(out.d, so), dq, dk, dvalue, options...);
            };
            edge_data_gradient<T> const de{fresh(se)};
            edge_value_gradient<T> const dadded{fresh({1, heads, lists->size(), dv})};
            attention_vector_gradient<T> const da{fresh(sa)};
            constexpr bool edges = heed::detail::reads_edges<term>, vectors = heed::detail::reads_vector<term>, adds = heed::detail::adds_edges<decltype(M::value)>;
            if constexpr (edges && vectors) {
                run(de, da);
            } else if constexpr (edges && adds) {
                run(de, dadded);
            } else if constexpr (edges) {
                run(de);
            } else if constexpr (vectors) {
                run(da);
            } else {
                run();
            }
            add<T>(dq, sequence_major(q.d, sq));
            add<T>(dk, sequence_major(k.d, sk));
            add<T>(dvalue, sequence_major(v.d, sv));
            if constexpr (edges) { add<T>(de.d, sequence_major(edge.d, se)); }
            if constexpr (adds) { add<T>(dadded.d, sequence_major(added.d, {1, heads, lists->size(), dv})); }
            if constexpr (vectors) { add<T>(da.d, sequence_major(vector.d, sa)); }
        });
        return out;
    }
    traced<T> mean_of_heads(traced<T> x, extent_t rows, extent_t width) {
        traced<T> const y = t.room(rows * width);
        auto const each = [=, heads = H](auto const& f) {
            for (extent_t r = 0; r < rows * heads; ++r) {
                for (extent_t e = 0; e < width; ++e) { f(r / heads * width + e, r * width + e); }
            }
        };
        T const share = T(1) / static_cast<T>(H);
        each([&](extent_t to, extent_t from) { y.x[to] += share * x.x[from]; });
        t.back([=] { each([&](extent_t to, extent_t from) { x.d[from] += share * y.d[to]; }); });
        return y;
    }
    traced<T> sum(traced<T> a, traced<T> b, extent_t count) {
        traced<T> const y = t.room(count);
        for (extent_t i = 0; i < count; ++i) { y.x[i] = a.x[i] + b.x[i]; }
        t.back([=] {
            for (extent_t i = 0; i < count; ++i) {
                a.d[i] += y.d[i];
                b.d[i] += y.d[i];
            }
        });
        return y;
    }
    traced<T> plus_bias(traced<T> x, extent_t rows, char width) {
        if (!has("bias")) { return x; }
        traced<T> const b = input("bias", {width}), y = t.room(rows * io[width]);
        extent_t const n = io[width];
        std::copy_n(x.x, rows * n, y.x);
        add_rows(y.x, b.x, rows, n);
        t.back([=] {
            for (extent_t i = 0; i < rows * n; ++i) { x.d[i] += y.d[i]; }
            add_columns(b.d, y.d, rows, n);
        });
        return y;
    }
    void finish(traced<T> out, std::string const& axes) {
        extent_t count = 1;
        for (char const c : axes) { count *= io[c]; }
        give(t, out, axes, count);
        for (parameter const& p : inputs) { give_gradient(t, p.value, "d" + p.name, p.axes, p.count); }
    }
    // Nodes: one set x, or x_src and x_dst.
    struct nodes {
        traced<T> source, target;
        char source_width, target_width;
        extent_t sources, targets;
    };
    nodes read_nodes(self_loops loops) {
        nodes n{};
        if (has("x_src")) {
            n.source = input("x_src", "SC");
            n.target = input("x_dst", "ND");
            n.source_width = 'C';
            n.target_width = 'D';
            n.sources = io['S'];
        } else {
            n.source = n.target = input("x", "NC");
            n.source_width = n.target_width = 'C';
            n.sources = io['N'];
        }
        n.targets = io['N'];
        H = io.source().integer("heads", 1, 1 << 20);
        io.set('H', H, "metadata heads");
        read_graph(n.sources, n.targets, loops);
        return n;
    }
    // Heads' vectors [1, H, F], and with them the width of all heads.
    traced<T> vectors(std::string const& name) {
        traced<T> const a = input(name, "uHF");
        if (inputs.back().count != H * io['F']) { throw bad_tensor(io.source().path(), name, "has other heads than the case"); }
        io.set('O', H * io['F'], name);
        return a;
    }
    void set_heads_width(std::string const& weight) {
        extent_t const out = require(io.source().file(), weight).shape[0];
        if (out % H) { throw bad_tensor(io.source().path(), weight, "has rows that the heads do not divide"); }
        io.set('O', out, weight);
        io.set('F', out / H, weight);
    }
    T slope() const { return static_cast<T>(io.source().number("negative_slope")); }
};

struct edge_attention_qkv {
    template <class T>
    static void run(case_io<T>& io) {
        graph_case<T> g(io);
        traced<T> const q = g.input("q", "NHF"), k = g.input("k", "SHF"), v = g.input("v", "SHF");
        g.H = io['H'];
        g.read_graph(io['S'], io['N'], self_loops::as_given);
        extent_t const F = io['F'];
        edge_list const edges = g.lists->edges();
        if (g.has("edge_k")) {
            traced<T> const e = g.input("edge_k", "EHF");
            g.finish(g.attend(graph_transformer_attention<T>(edges, sequence_major<T const>(e.x, {1, g.H, io['E'], F})), q, k, v, F, F, e, e), "NHF");
        } else {
            g.finish(g.attend(graph_transformer_attention<T>(edges), q, k, v, F, F), "NHF");
        }
    }
};

template <bool Loops, bool Mean>
struct gat_layer {
    template <class T>
    static void run(case_io<T>& io) {
        graph_case<T> g(io);
        auto const n = g.read_nodes(Loops ? self_loops::one_each : self_loops::as_given);
        traced<T> const a_src = g.vectors("att_src"), a_dst = g.vectors("att_dst");
        extent_t const F = io['F'], H = g.H;
        bool const one_map = g.has("lin.weight");
        traced<T> const z = g.map(n.source, n.sources, one_map ? "lin" : "lin_src", 'O', n.source_width);
        traced<T> const z_dst = one_map ? z : g.map(n.target, n.targets, "lin_dst", 'O', n.target_width);
        traced<T> const k = g.head_products(z, n.sources, F, a_src), q = g.head_products(z_dst, n.targets, F, a_dst);
        traced<T> e = g.t.room(g.lists->size() * H); // 0 where edges have no features
        if (g.has("att_edge")) {
            traced<T> const a_edge = g.vectors("att_edge"), given = g.input("edge_attr", "EG"), features = g.edge_features(given, io['G']);
            e = g.head_products(g.map(features, g.lists->size(), "lin_edge", 'O', 'G'), g.lists->size(), F, a_edge);
        }
        traced<T> out = g.attend(gat_attention<T>(g.lists->edges(), sequence_major<T const>(e.x, {1, H, g.lists->size(), 1}), g.slope()), q, k, z, 1, F, e);
        char const width = Mean ? 'F' : 'O';
        if constexpr (Mean) { out = g.mean_of_heads(out, n.targets, F); }
        if (g.has("res.weight")) { out = g.sum(out, g.map(n.target, n.targets, "res", width, n.target_width), n.targets * io[width]); }
        g.finish(g.plus_bias(out, n.targets, width), std::string("N") + width);
    }
};

template <bool Loops, bool Mean>
struct gatv2_layer {
    template <class T>
    static void run(case_io<T>& io) {
        graph_case<T> g(io);
        auto const n = g.read_nodes(Loops ? self_loops::one_each : self_loops::as_given);
        traced<T> const a = g.vectors("att");
        extent_t const F = io['F'], H = g.H;
        traced<T> const k = g.map(n.source, n.sources, "lin_l", 'O', n.source_width);
        traced<T> const q = g.has("lin_r.weight") ? g.map(n.target, n.targets, "lin_r", 'O', n.target_width) : k;
        tensor_view<T const> const vector(a.x, {1, H, 1, F});
        traced<T> e = g.t.room(g.lists->size() * H * F); // 0 where edges have no features
        if (g.has("edge_attr")) {
            traced<T> const given = g.input("edge_attr", "EG"), features = g.edge_features(given, io['G']);
            e = g.map(features, g.lists->size(), "lin_edge", 'O', 'G');
        }
        traced<T> out = g.attend(gatv2_attention<T>(g.lists->edges(), vector, sequence_major<T const>(e.x, {1, H, g.lists->size(), F}), g.slope()), q, k, k, F, F, e, {}, a);
        char const width = Mean ? 'F' : 'O';
        if constexpr (Mean) { out = g.mean_of_heads(out, n.targets, F); }
        if (g.has("res.weight")) { out = g.sum(out, g.map(n.target, n.targets, "res", width, n.target_width), n.targets * io[width]); }
        g.finish(g.plus_bias(out, n.targets, width), std::string("N") + width);
    }
};

template <bool Mixed>
struct supergat_layer {
    template <class T>
    static void run(case_io<T>& io) {
        graph_case<T> g(io);
        auto const n = g.read_nodes(self_loops::one_each);
        g.set_heads_width("lin.weight");
        extent_t const F = io['F'];
        traced<T> const z = g.map(n.source, n.sources, "lin", 'O', 'C');
        traced<T> out;
        if constexpr (Mixed) {
            traced<T> const a_l = g.vectors("att_l"), a_r = g.vectors("att_r");
            traced<T> const k = g.with_last(z, g.head_products(z, n.sources, F, a_l), n.sources, F), q = g.with_last(z, g.head_products(z, n.targets, F, a_r), n.targets, F);
            out = g.attend(supergat_mx_attention<T>(g.lists->edges(), g.slope()), q, k, z, F + 1, F);
        } else {
            out = g.attend(supergat_sd_attention<T>(g.lists->edges(), g.slope()), z, z, z, F, F);
        }
        g.finish(g.plus_bias(out, n.targets, 'O'), "NO");
    }
};

// Skip: added, or mixed in by a gate beta = sigmoid(w . [m, r, m - r]), m the attention and r the mapped target.
template <bool Skip>
struct transformer_layer {
    template <class T>
    static void run(case_io<T>& io) {
        graph_case<T> g(io);
        auto const n = g.read_nodes(self_loops::as_given);
        g.set_heads_width("lin_key.weight");
        extent_t const F = io['F'], H = g.H, size = n.targets * io['O'];
        traced<T> const q = g.map(n.target, n.targets, "lin_query", 'O', n.target_width), k = g.map(n.source, n.sources, "lin_key", 'O', n.source_width),
                        v = g.map(n.source, n.sources, "lin_value", 'O', n.source_width);
        traced<T> out;
        if (g.has("lin_edge.weight")) {
            traced<T> const e = g.map(g.input("edge_attr", "EG"), io['E'], "lin_edge", 'O', 'G');
            out = g.attend(graph_transformer_attention<T>(g.lists->edges(), sequence_major<T const>(e.x, {1, H, io['E'], F})), q, k, v, F, F, e, e);
        } else {
            out = g.attend(graph_transformer_attention<T>(g.lists->edges()), q, k, v, F, F);
        }
        if constexpr (Skip) {
            traced<T> const r = g.map(n.target, n.targets, "lin_skip", 'O', n.target_width);
            out = g.has("lin_beta.weight") ? gated(g, out, r, n.targets) : g.sum(out, r, size);
        }
        g.finish(out, "NO");
    }

private:
    template <class T>
    static traced<T> gated(graph_case<T>& g, traced<T> m, traced<T> r, extent_t rows) {
        extent_t const O = g.io['O'];
        g.io.set('B', 3 * O, "the gate's inputs");
        traced<T> const w = g.input("lin_beta.weight", "uB"), y = g.t.room(rows * O);
        T* const beta = g.io.scratch(rows);
        for (extent_t i = 0; i < rows; ++i) {
            T const *const a = m.x + i * O, *const b = r.x + i * O;
            T s(0);
            for (extent_t e = 0; e < O; ++e) { s += w.x[e] * a[e] + w.x[O + e] * b[e] + w.x[2 * O + e] * (a[e] - b[e]); }
            beta[i] = T(1) / (T(1) + std::exp(-s));
            for (extent_t e = 0; e < O; ++e) { y.x[i * O + e] = beta[i] * b[e] + (T(1) - beta[i]) * a[e]; }
        }
        g.t.back([=] {
            for (extent_t i = 0; i < rows; ++i) {
                T const *const a = m.x + i * O, *const b = r.x + i * O, *const up = y.d + i * O;
                T ds(0);
                for (extent_t e = 0; e < O; ++e) { ds += up[e] * (b[e] - a[e]); }
                ds *= beta[i] * (T(1) - beta[i]);
                for (extent_t e = 0; e < O; ++e) {
                    m.d[i * O + e] += up[e] * (T(1) - beta[i]) + ds * (w.x[e] + w.x[2 * O + e]);
                    r.d[i * O + e] += up[e] * beta[i] + ds * (w.x[O + e] - w.x[2 * O + e]);
                    w.d[e] += ds * a[e];
                    w.d[O + e] += ds * b[e];
                    w.d[2 * O + e] += ds * (a[e] - b[e]);
                }
            }
        });
        return y;
    }
};

constexpr std::array graph_cases{
    wire<edge_attention_qkv>("edge_attention_qkv"),
    wire<edge_attention_qkv>("edge_attention_qkv_edge_vectors"),
    wire<gat_layer<false, false>>("gat_bipartite_residual"),
    wire<gat_layer<true, true>>("gat_edge_features_mean_heads"),
    wire<gat_layer<true, false>>("gat_self_loops"),
    wire<gatv2_layer<true, false>>("gatv2"),
    wire<gatv2_layer<false, false>>("gatv2_bipartite"),
    wire<gatv2_layer<true, true>>("gatv2_edge_features_shared"),
    wire<supergat_layer<true>>("supergat_mx"),
    wire<supergat_layer<false>>("supergat_sd"),
    wire<transformer_layer<true>>("transformer_conv"),
    wire<transformer_layer<false>>("transformer_conv_bipartite_no_root"),
    wire<transformer_layer<true>>("transformer_conv_edge_features_beta"),
};
check_registration const registration("graph", graph_cases);

} // namespace

} // namespace heed::tool
