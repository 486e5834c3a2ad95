// SPDX-License-Identifier: BSD-3-Clause
#include "bench_options.hpp"

#include <limits>

namespace heed::bench {

namespace {

std::string checked_backend(std::string const& name) {
    for (auto const* known : {"cpu", "reference", "unfused", "eigen", "fftw"})
        if (name == known) return name;
    if (name == "cuda") throw unsupported_error("--backend cuda: this build has no GPU kernels");
    throw usage_error("--backend " + name + ": use cpu, reference, unfused, eigen or fftw");
}

// The sizes of an option, or the one value it follows when it was not given.
std::vector<std::int64_t> sizes_or(std::string const& text, std::int64_t followed) {
    return text.empty() ? std::vector{followed} : parse_sizes(text);
}

// --decode: --kv-seq or --seq is the length of the cache, the setting tokens=n how many of its last tokens are new (1).
void set_step(problem& p, settings& chosen) {
    p.verb = "decode";
    p.queries = 1;
    if (auto const tokens = chosen.find("tokens"); tokens != chosen.end()) {
        p.queries = parse_size(tokens->second);
        chosen.erase(tokens);
    }
    if (auto const layout = chosen.find("layout"); layout != chosen.end() && layout->second == "contiguous") chosen.erase(layout); // the usual one
}

} // namespace

std::vector<int> threads_of(bench_options const& options) {
    std::vector<int> threads;
    for (auto size : parse_sizes(options.threads)) {
        if (size > 4096) throw usage_error("--threads " + std::to_string(size) + " is more than 4096");
        threads.push_back(static_cast<int>(size));
    }
    return threads;
}

std::vector<problem> problems_of(bench_options const& o) {
    std::vector<problem> problems;
    auto const all_settings = parse_settings(o.set);
    auto const backends = split(o.backend, ',');
    for (auto const& name : backends) checked_backend(name);
    problem p;
    for (auto const& mechanism : split(o.mechanism, ','))
        for (auto const& dtype : split(o.dtype, ','))
            for (auto const threads : threads_of(o))
                for (auto const batch : parse_sizes(o.batch))
                    for (auto const heads : parse_sizes(o.heads))
                        for (auto const kv_heads : sizes_or(o.kv_heads, heads))
                            for (auto const seq : parse_sizes(o.seq))
                                for (auto const kv_seq : sizes_or(o.kv_seq, seq))
                                    for (auto const dim : parse_sizes(o.dim))
                                        for (auto const dim_v : sizes_or(o.dim_v, dim))
                                            for (auto const& chosen : all_settings)
                                                for (auto const& backend : backends) {
                                                    if (chosen.contains("backend")) throw usage_error("--set backend: use --backend");
                                                    p = problem{};
                                                    p.mechanism = mechanism;
                                                    p.dtype = parse_element(dtype);
                                                    p.threads = threads;
                                                    p.batch = batch;
                                                    p.heads = heads;
                                                    p.kv_heads = kv_heads;
                                                    p.queries = seq;
                                                    p.keys = kv_seq;
                                                    p.dim = dim;
                                                    p.dim_v = dim_v;
                                                    auto rest = chosen;
                                                    if (o.decode) set_step(p, rest);
                                                    if (o.backward) p.verb = "backward";
                                                    apply_settings(rest, p);
                                                    p.backend = backend;
                                                    check(p);
                                                    problems.push_back(p);
                                                }
    return problems;
}

std::vector<problem> quick_problems() {
    bench_options const o{.set = {"mask=full,causal"}, .heads = "4", .seq = "1k,4k", .dim = "64,128", .backend = "cpu,eigen"};
    return problems_of(o); // at one thread the rate does not depend on the heads
}

std::string repeat_line(bench_options const& o) {
    bench_options const plain;
    std::string line = "heed bench";
    auto const add = [&](char const* option, std::string const& value, std::string const& usual) {
        if (value != usual) line += std::string(" --") + option + ' ' + value;
    };
    if (o.quick) line += " --quick";
    if (o.gates) line += o.gate_words.empty() ? " --gates" : " --gates '" + o.gate_words + "'";
    if (o.backward) line += " --backward";
    if (o.decode) line += " --decode";
    add("mechanism", o.mechanism, plain.mechanism);
    for (auto const& assignment : o.set) line += " --set " + assignment;
    add("batch", o.batch, plain.batch);
    add("heads", o.heads, plain.heads);
    add("kv-heads", o.kv_heads, plain.kv_heads);
    add("seq", o.seq, plain.seq);
    add("kv-seq", o.kv_seq, plain.kv_seq);
    add("dim", o.dim, plain.dim);
    add("dim-v", o.dim_v, plain.dim_v);
    add("dtype", o.dtype, plain.dtype);
    add("threads", o.threads, plain.threads);
    add("backend", o.backend, plain.backend);
    if (!o.verify) line += " --no-verify";
    add("repetitions", std::to_string(o.repetitions), "");
    add("min-time", number_text(o.min_time), "");
    add("seed", std::to_string(o.seed), "");
    return line;
}

} // namespace heed::bench
