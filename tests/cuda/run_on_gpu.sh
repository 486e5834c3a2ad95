#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# On a machine with a GPU: the GPU tests as they are, under compute-sanitizer's memcheck and racecheck, and the GPU benchmarks, whose tables are written to
# bench/results. Programs are built if they are not there. Memcheck must be clean. What racecheck says is printed for reading: buffers are handed over by barriers
# written in PTX, and it names pairs of a read before such a barrier and a write after it.
#   tests/cuda/run_on_gpu.sh [build folder]
set -eu
source=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$source/build}
if ! nvidia-smi >/dev/null 2>&1; then
    echo "no GPU here: nothing was run"
    exit 77
fi
if [ ! -f "$build/CMakeCache.txt" ]; then cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release; fi
tests=$(sed -n 's/^heed_add_cuda_test(\([a-z0-9_.]*\) .*/\1/p' "$source/tests/cuda/CMakeLists.txt")
benchmarks=$(sed -n 's/^heed_add_cuda_bench(\([a-z0-9_]*\) .*/\1/p' "$source/bench/cuda/CMakeLists.txt")
# shellcheck disable=SC2086
cmake --build "$build" --target $tests $benchmarks
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
for test in $tests; do
    echo "== $test"
    "$build/tests/cuda/$test"
    if [ -x "$sanitizer" ]; then
        "$sanitizer" --tool memcheck --error-exitcode 1 "$build/tests/cuda/$test"
        "$sanitizer" --tool racecheck "$build/tests/cuda/$test"
    fi
done
card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' A-Z' '-a-z')
for benchmark in $benchmarks; do
    "$build/bench/cuda/$benchmark" | tee "$source/bench/results/$benchmark-$card.md"
done
