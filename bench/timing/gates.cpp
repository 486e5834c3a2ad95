// SPDX-License-Identifier: BSD-3-Clause
#include "gates.hpp"

#include "gate_builder.hpp"
#include "registry.hpp"
#include "text_table.hpp"

#include <algorithm>
#include <limits>
#include <ostream>

namespace heed::bench {

namespace {

constexpr auto causal = mask_kind::causal;

gate_group one_thread() {
    gate_builder b("one thread, share of FMA peak");
    b.peak(square(4096, 128), 0.88, 0.94);
    b.peak(square(1024, 128), 0.85, 0.90);
    b.peak(square(4096, 64), 0.85, 0.91);
    b.peak(square(1024, 64), 0.81, 0.87);
    return b.finish();
}

gate_group causal_pairs() {
    gate_builder b("causal, counted on attended pairs, share of FMA peak");
    b.peak(square(4096, 128, causal), 0.84, 0.90);
    b.peak(square(4096, 64, causal), 0.83, 0.90);
    b.peak(square(1024, 128, causal), 0.74, 0.82);
    b.peak(square(1024, 64, causal), 0.70, 0.82);
    return b.finish();
}

gate_group two_threads() {
    gate_builder b("two threads, speed-up over that of the FMA loop");
    for (auto one :
         {square(4096, 128), square(1024, 128), square(4096, 64), square(1024, 64), square(4096, 128, causal), square(4096, 64, causal)}) {
        auto two = one;
        two.threads = 2;
        b.against(label(two), measure_of::scaling, two, one, 0.97, 0.99);
    }
    return b.finish();
}

gate_group odd_sizes() {
    gate_builder b("odd sizes, rate over that of the round neighbour");
    auto const pair = [&](problem const& odd, problem const& round) {
        b.against(label(odd) + " over " + label(round), measure_of::rate, odd, round, 0.92, 0.96);
    };
    for (std::int64_t n : {1024, 4096}) {
        pair(square(n, 80), square(n, 64));
        pair(square(n, 96), square(n, 128));
        pair(square(n, 100), square(n, 128));
        pair(square(n, 192), square(n, 128));
        pair(square(n, 256), square(n, 128));
    }
    for (std::int64_t d : {64, 128}) {
        pair(square(1000, d), square(1024, d));
        pair(square(4095, d), square(4096, d));
    }
    return b.finish();
}

gate_group windows() {
    gate_builder b("causal window of 256, N = 16k, share of FMA peak");
    for (auto const& [d, gate, goal] : {std::tuple{128, 0.70, 0.78}, std::tuple{64, 0.62, 0.72}}) {
        auto p = square(16384, d, mask_kind::window);
        p.window = 256;
        b.peak(p, gate, goal);
    }
    return b.finish();
}

gate_group compiled_in() {
    gate_builder b("scores with more in them, N = 4096, rate over plain");
    for (std::int64_t d : {128, 64}) {
        auto const plain = square(4096, d);
        auto const with = [&](std::string const& what, double gate, auto change) {
            auto p = plain;
            change(p);
            b.against("d=" + std::to_string(d) + ", " + what, measure_of::rate, p, plain, gate, 0.93);
        };
        with("bias row", 0.85, [](problem& p) { p.bias = bias_kind::row; });
        with("bias full", 0.85, [](problem& p) { p.bias = bias_kind::full; });
        with("softcap", 0.70, [](problem& p) { p.softcap = 30; });
        with("alibi", 0.85, [](problem& p) { p.alibi = true; });
    }
    return b.finish();
}

gate_group lengths() {
    gate_builder b("every length against heed's own unfused path, time over its time");
    for (std::int64_t d : {64, 128})
        for (std::int64_t n : {1, 2, 4, 7, 8, 16, 32, 64, 100, 128, 200, 256, 300, 512, 1000, 1024, 2048, 4095, 4096, 8192, 16384}) {
            auto fused = square(n, d);
            if (n > 4096) fused.heads = fused.kv_heads = 1;
            auto unfused = fused;
            unfused.backend = "unfused";
            b.against(label(fused), measure_of::slowdown, fused, unfused, n < 256 ? 1.10 : 1.05, 1.0);
        }
    for (std::int64_t n : {16, 128, 1024, 4096}) {
        auto const fused = square(n, 64, causal);
        auto unfused = fused;
        unfused.backend = "unfused";
        b.against(label(fused), measure_of::slowdown, fused, unfused, n < 256 ? 1.10 : 1.05, 1.0);
    }
    return b.finish();
}

gate_group eigen() {
    gate_builder b("N = 4096, one thread, times faster than Eigen");
    auto const pair = [&](problem const& p, double gate, double goal) {
        auto other = p;
        other.backend = "eigen";
        b.against(label(p), measure_of::speedup, p, other, gate, goal);
    };
    pair(square(4096, 128), 1.7, 2.0);
    pair(square(4096, 64), 2.1, 2.3);
    pair(square(4096, 128, causal), 3.0, 3.5);
    pair(square(4096, 64, causal), 3.0, 3.5);
    return b.finish();
}

gate_group avx2_build() {
    gate_builder b("AVX2 build, share of its own FMA peak");
    for (std::int64_t d : {128, 64}) {
        auto p = square(4096, d);
        p.isa = "avx2";
        b.peak(p, 0.80, 0.88);
    }
    return b.finish();
}

gate_group gradients() {
    gate_builder b("backward, N = 4096, counted as 2.5 forward passes, share of FMA peak");
    for (auto const& [d, gate, goal] : {std::tuple{128, 0.66, 0.82}, std::tuple{64, 0.58, 0.74}}) {
        auto plain = square(4096, d), masked = square(4096, d, causal);
        plain.verb = masked.verb = "backward";
        b.peak(plain, gate, goal);
        b.against(label(masked) + " over full", measure_of::rate, masked, plain, 0.90, 0.97);
    }
    return b.finish();
}

gate_group sixteen_bits() {
    gate_builder b("bf16 and f16, N = 4096, rate over that of f32");
    for (std::int64_t d : {128, 64})
        for (auto dtype : {element::bf16, element::f16}) {
            auto const f32 = square(4096, d);
            auto p = f32;
            p.dtype = dtype;
            b.against(label(p), measure_of::rate, p, f32, 0.95, 1.0);
        }
    return b.finish();
}

gate_group split_keys() {
    gate_builder b("512 queries, 16k keys split in 8 and merged, rate over the whole");
    for (std::int64_t d : {128, 64}) {
        auto whole = square(16384, d); // where keys are split: few queries, many keys
        whole.queries = 512;
        auto split = whole;
        split.extra["splits"] = "8";
        b.against(label(split), measure_of::rate, split, whole, 0.97, 0.99);
    }
    return b.finish();
}

bool is_pair(gate const& g) { return g.measure != measure_of::peak && g.measure != measure_of::scaling; }

gate_group decode_steps(int threads, std::int64_t keys) {
    gate_builder b("one-token decode, 32 query heads over 8, d = 128, share of a pure read of its bytes");
    auto const step = [&](element dtype) {
        problem p = square(keys, 128);
        p.verb = "decode";
        p.queries = 1;
        p.heads = 32;
        p.threads = threads;
        p.dtype = dtype;
        return p;
    };
    bool const one = threads == 1;
    b.peak(step(element::f32), one ? 0.62 : 0.85, one ? 0.80 : 0.92);
    for (auto dtype : {element::bf16, element::f16}) b.peak(step(dtype), one ? 0.70 : 0.85, one ? 0.85 : 0.92);
    b.peak(step(element::int8), one ? 0.45 : 0.70, one ? 0.60 : 0.85);
    for (auto dtype : {element::f32, element::bf16}) {
        auto paged = step(dtype);
        paged.extra["layout"] = "paged";
        b.against(label(paged) + " over contiguous", measure_of::rate, paged, step(dtype), 0.95, 0.99);
    }
    return b.finish();
}

double work_of(std::string const& name) {
    auto const p = parse_name(name);
    auto const* const rows = find_rows(p.mechanism);
    return rows == nullptr ? flops(p) : rows->work(p);
}

double value_of(gate const& g, row const& own, row const& other) {
    switch (g.measure) {
    case measure_of::peak:
        return own.median_of("of_peak");
    case measure_of::scaling:
        return own.median_of("of_peak") / other.median_of("of_peak");
    case measure_of::rate:
        return own.median_of("vs_other") * work_of(g.row) / work_of(g.other);
    case measure_of::slowdown:
        return 1 / own.median_of("vs_other");
    case measure_of::speedup:
        return own.median_of("vs_other");
    }
    return std::numeric_limits<double>::quiet_NaN();
}

bool is_unstable(gate const& g, row const& own, row const& other) {
    return is_pair(g) ? own.unstable("vs_other") : own.unstable() || other.unstable();
}

} // namespace

std::vector<gate_group> gate_groups(int cpus) {
    std::vector<gate_group> groups{one_thread(), causal_pairs()};
    if (cpus >= 2) groups.push_back(two_threads());
    for (auto group : {odd_sizes, windows, compiled_in, lengths, eigen, avx2_build}) groups.push_back(group());
    for (int threads : {1, 2})
        for (std::int64_t keys : {8192, 65536})
            if (threads <= cpus) groups.push_back(decode_steps(threads, keys));
    groups.push_back(gradients());
    groups.push_back(sixteen_bits());
    groups.push_back(split_keys());
    add_registered_gates(cpus, groups);
    return groups;
}

case_group cases_of(gate_group const& group, std::shared_ptr<operand_store> const& store, std::vector<std::string>& skipped) {
    auto cases = group_of(group.title, group.problems, store, &skipped);
    for (auto const& g : group.gates)
        for (auto& c : cases.cases)
            if (is_pair(g) && c.name == g.row) c.rivals.push_back({"vs_other", g.other});
    return cases;
}

std::vector<gate_result> judge(gate_group const& group, run_record const& record) {
    std::vector<gate_result> results;
    for (auto const& g : group.gates) {
        bool const share = g.measure == measure_of::peak;
        bool const smaller = g.measure == measure_of::slowdown;
        auto const text = [&](double value) { return share ? percent_text(value, 1) : ratio_text(value); };
        gate_result r{group.title, g.what, "-", text(g.gate_at), text(g.goal_at), "not measured"};
        auto const* const own = record.find(g.row);
        auto const* const other = g.other.empty() ? own : record.find(g.other);
        if (own != nullptr && other != nullptr && own->error.empty() && other->error.empty()) {
            auto const value = value_of(g, *own, *other);
            auto const reaches = [&](double bar) { return smaller ? value <= bar : value >= bar; };
            r.reached = text(value);
            r.verdict = reaches(g.goal_at) ? "goal" : reaches(g.gate_at) ? "gate" : "below";
            if (is_unstable(g, *own, *other)) r.verdict += ", unstable";
        }
        results.push_back(r);
    }
    return results;
}

void print(std::ostream& out, std::vector<gate_result> const& results) {
    std::string group;
    text_table table({"<what", "reached", "gate", "goal", "<"});
    auto const flush = [&] {
        if (!table.empty()) out << '\n' << group << "\n\n" << table;
        table = text_table({"<what", "reached", "gate", "goal", "<"});
    };
    for (auto const& r : results) {
        if (r.group != group) flush();
        group = r.group;
        table.add({r.what, r.reached, r.gate, r.goal, r.verdict});
    }
    flush();
    auto const count = [&](std::string_view verdict) {
        return std::count_if(results.begin(), results.end(), [&](gate_result const& r) { return r.verdict.rfind(verdict, 0) == 0; });
    };
    out << '\n'
        << count("goal") << " lines at their goal, " << count("gate") << " at their gate, " << count("below") << " below, "
        << count("not measured") << " not measured\n";
}

} // namespace heed::bench
