// SPDX-License-Identifier: BSD-3-Clause
#include "bench_command.hpp"

#include "bench_run.hpp"

#include <CLI/CLI.hpp>

#include <exception>
#include <iostream>
#include <memory>

namespace heed::tool {

namespace {

int guarded(bench::bench_options const& options) {
    try {
        return bench::run_bench(options);
    } catch (bench::unsupported_error const& e) {
        std::cerr << "heed bench: " << e.what() << '\n';
        return 3;
    } catch (std::exception const& e) {
        std::cerr << "heed bench: " << e.what() << '\n';
        return 2;
    }
}

} // namespace

void add_bench(CLI::App& app, int& exit_code) {
    auto const options = std::make_shared<bench::bench_options>();
    auto& o = *options;
    auto* const command = app.add_subcommand("bench", "Time mechanisms against the machine's limits, baselines and older runs");
    command->footer("Sizes: 1k is 1024; lists go by commas; a..b doubles from a to b. Every combination is timed.\n"
                    "Settings: mask=full|causal|window|document (causal and window aligned bottom right), window=W, documents=N,\n"
                    "bias=none|row|full, softcap=C, alibi=1; lists by commas here too. isa=avx2 times the AVX2 kernels of this build.\n"
                    "Row names: mechanism/verb/dtype/B/H/K/N/M/D/Dv/T and the settings that are not the default.\n"
                    "Exit: 0 done, 1 a verification failed, 2 wrong usage or file, 3 not in this build.");

    command->add_option("--mechanism", o.mechanism, "Mechanisms, or 'limit' for the machine's limits alone")->capture_default_str();
    command->add_option("--set", o.set, "key=value, repeatable")->allow_extra_args(false);
    command->add_option("--batch", o.batch, "Batch sizes")->capture_default_str();
    command->add_option("--heads", o.heads, "Query heads")->capture_default_str();
    command->add_option("--kv-heads", o.kv_heads, "Key/value heads (default: as --heads)");
    command->add_option("--seq", o.seq, "Query lengths")->capture_default_str();
    command->add_option("--kv-seq", o.kv_seq, "Key lengths (default: as --seq)");
    command->add_option("--dim", o.dim, "Head dimensions of queries and keys")->capture_default_str();
    command->add_option("--dim-v", o.dim_v, "Head dimensions of values (default: as --dim)");
    command->add_option("--dtype", o.dtype, "f32, f64, bf16, f16; with --decode the cache's: f32, bf16, f16, int8, f8")->capture_default_str();
    command->add_option("--threads", o.threads, "Thread counts")->capture_default_str();
    command->add_option("--backend", o.backend, "cpu, reference, unfused, eigen")->capture_default_str();
    auto* const backward = command->add_flag("--backward", o.backward, "Time the gradients");
    command->add_flag("--decode", o.decode, "Time one-token steps against caches of --seq tokens; --set layout=paged|ring, page, tokens")->excludes(backward);
    command->add_flag("--verify,!--no-verify", o.verify, "Check sampled rows of what was timed (on by default)");
    auto* const repetitions =
        command->add_option("--repetitions", o.repetitions, "Repetitions of every row, interleaved")->check(CLI::Range(1, 1000));
    auto* const min_time =
        command->add_option("--min-time", o.min_time, "Seconds of one repetition, at least")->check(CLI::Range(0.0, 60.0));
    command->add_option("--seed", o.seed, "Seed of the random inputs")->capture_default_str();
    command->add_option("--json", o.json, "Write Google Benchmark JSON; - is standard output");
    command->add_option("--compare", o.compare, "An older JSON file to compare with; two files are compared without a run")->expected(1, 2);
    command->add_option("--report", o.report, "Write a self-contained HTML page");
    auto* const quick = command->add_flag("--quick", o.quick, "One minute: softmax beside Eigen");
    auto* const gates = command->add_option("--gates", o.gate_words, "The project's speed table: reached, gate and goal; WORDS choose groups by their titles")
                            ->expected(0, 1)->type_name("[WORDS]")->excludes(quick);

    command->callback([options, repetitions, min_time, gates, &exit_code] {
        options->gates = gates->count() > 0;
        if (options->quick && repetitions->count() == 0) options->repetitions = 5;
        if (options->quick && min_time->count() == 0) options->min_time = 0.05;
        exit_code = guarded(*options);
    });
}

} // namespace heed::tool
