// SPDX-License-Identifier: BSD-3-Clause
// What `heed bench` was asked for, and the rows that follow from it.
#pragma once

#include "problem.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace heed::bench {

struct bench_options {
    std::string mechanism = "softmax"; // comma lists throughout; "limit": the machine's limits alone
    std::vector<std::string> set = {};
    std::string batch = "1", heads = "8", kv_heads = {}, seq = "1k", kv_seq = {}, dim = "64", dim_v = {}; // empty: as the one it follows
    std::string dtype = "f32", threads = "1", backend = "cpu";
    bool backward = false, decode = false;
    bool quick = false, gates = false;
    std::string gate_words = {}; // of the titles of the groups to measure; empty: all
    bool verify = true;
    int repetitions = 7;
    double min_time = 0.1;
    std::uint64_t seed = 1;
    std::string json = {}, report = {};
    std::vector<std::string> compare = {}; // one file: this run against it; two: the second against the first, nothing is run
};

std::vector<problem> problems_of(bench_options const& options); // usage_error, unsupported_error
std::vector<problem> quick_problems();
std::vector<int> threads_of(bench_options const& options);

std::string repeat_line(bench_options const& options); // a shell command

} // namespace heed::bench
