#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# From a bare machine to a result, in one command.
#
#   sh cmake/bootstrap.sh demo           golden files, examples and a short benchmark, with a table at the end
#   sh cmake/bootstrap.sh test           builds everything and runs every test
#   sh cmake/bootstrap.sh bench [ARG]... builds the heed command and runs `heed bench ARG...`
#
# On Debian and its relatives, as root or with sudo, missing packages are installed with apt-get; elsewhere what is there is used and
# CMake fetches the rest. The build is Release, in build/, for this machine's own instruction set.
set -eu
cd "$(dirname "$0")/.."

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
step() { printf '%s== %s%s\n' "$bold" "$*" "$plain"; }
fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

usage() {
    sed -n '5,7s/^# //p' "$0" >&2
    exit 2
}

# --- packages -------------------------------------------------------------------------------------------------------------------------

has_command() { command -v "$1" >/dev/null 2>&1; }
has_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_packages() {
    has_command c++ || has_command g++ || echo g++
    has_command cmake || echo cmake
    has_command ninja || has_command make || echo make
    has_command pkg-config || echo pkg-config
    has_command git || echo git
    for package in libxsimd-dev catch2 libbenchmark-dev libeigen3-dev libcli11-dev nlohmann-json3-dev librapidcheck-dev libtbb-dev; do
        has_package "$package" || echo "$package"
    done
}

install_packages() {
    has_command apt-get && has_command dpkg-query || return 0
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ]; then
        as_root='env'
    elif has_command sudo; then
        as_root='sudo env'
    else
        echo "not root and no sudo, going on without these packages: $missing"
        return 0
    fi
    step "installing $missing"
    $as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq || echo "apt-get update failed, trying with the lists that are there"
    # shellcheck disable=SC2086 # the list is meant to be split
    if ! $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >build-packages.log 2>&1; then
        cat build-packages.log
        echo "apt-get could not install all of it, CMake will fetch what it can"
    fi
    rm -f build-packages.log
}

# --- build ----------------------------------------------------------------------------------------------------------------------------

jobs=$( (nproc || getconf _NPROCESSORS_ONLN || echo 2) 2>/dev/null | head -n 1)

configure() {
    has_command cmake || fail "cmake is needed and not installed"
    if [ ! -f build/CMakeCache.txt ] && has_command ninja; then set -- -G Ninja "$@"; fi
    cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DHEED_BUILD_TESTS=ON -DHEED_BUILD_BENCH=ON -DHEED_BUILD_EXAMPLES=ON "$@"
}

build() { cmake --build build --parallel "$jobs" "$@"; }

# --- demo -----------------------------------------------------------------------------------------------------------------------------

now() { date +%s; }

# check_folder FOLDER: runs `heed check --forward` on its files, one by one, by exit code: 0 within tolerance, 3 not supported, else failed.
check_folder() {
    passed=0 failed=0
    for file in "$1"/*.safetensors; do
        status=0
        output=$(build/bench/heed check --forward "$file" 2>&1) || status=$?
        case $status in
            0)
                passed=$((passed + 1))
                printf '  %-44s ok\n' "${file#tests/golden/}"
                ;;
            3) ;;
            *)
                failed=$((failed + 1))
                printf '  %-44s FAILED\n%s\n' "${file#tests/golden/}" "$output"
                ;;
        esac
    done
    checked=$((passed + failed))
    total_failed=$((total_failed + failed))
    if [ "$checked" -gt 0 ]; then
        printf '  %-12s %4d of %d files within tolerance\n' "${1##*/}" "$passed" "$checked" >>"$summary"
    fi
}

run_examples() {
    for example in build/examples/*; do
        if [ ! -f "$example" ] || [ ! -x "$example" ]; then continue; fi
        status=0
        output=$("$example" 2>&1) || status=$?
        name=$(basename "$example")
        printf '%s\n' "$output" | sed 's/^/  | /'
        if [ "$status" = 0 ]; then
            printf '  %-44s ok\n' "$name"
        else
            printf '  %-44s FAILED (exit %d)\n' "$name" "$status"
            total_failed=$((total_failed + 1))
        fi
    done
}

# benchmark FOLDER: the tool's own short benchmark; its closing table, heed beside Eigen, is kept in FOLDER/table.txt.
benchmark() {
    {
        status=0
        build/bench/heed bench --quick --json "$1/bench.json" --report "$1/report.html" || status=$?
        echo "$status" >"$1/status"
    } | tee "$1/bench.txt"
    status=$(cat "$1/status")
    awk '/^softmax attention, fp32/ { on = 1 } on && NF == 0 { exit } on { print "  " $0 }' "$1/bench.txt" >"$1/table.txt"
    if [ "$status" != 0 ]; then
        echo "heed bench ended with exit code $status"
        total_failed=$((total_failed + 1))
    fi
}

demo() {
    started=$(now)
    total_failed=0
    work=build/demo
    step "configuring"
    configure
    step "building the heed command and the examples"
    build --target heed_cli heed_examples
    mkdir -p "$work"
    summary=$work/summary.txt
    : >"$summary"

    step "checking golden tensors, made with the authors' reference implementations"
    for folder in tests/golden/*/; do
        if ls "$folder"*.safetensors >/dev/null 2>&1; then check_folder "${folder%/}"; fi
    done

    if [ ! -s "$summary" ]; then
        echo "  nothing was checked" >"$summary"
        total_failed=$((total_failed + 1))
    fi

    step "running the examples"
    run_examples

    step "benchmark: heed and Eigen, the same shapes in turn (up to a minute)"
    benchmark "$work"

    printf '\n%s== heed on this machine%s\n' "$bold" "$plain"
    printf '\nGolden tensors\n'
    cat "$summary"
    printf '\nBenchmark\n'
    cat "$work/table.txt"
    printf '\nAll numbers: %s, with plots: %s\n' "$work/bench.json" "$work/report.html"
    printf '%d seconds in all. ' $(($(now) - started))
    if [ "$total_failed" = 0 ]; then echo 'Everything passed.'; else echo "$total_failed failed."; fi
    [ "$total_failed" = 0 ]
}

# --- commands -------------------------------------------------------------------------------------------------------------------------

[ $# -ge 1 ] || usage
command=$1
shift
case $command in
    demo)
        [ $# = 0 ] || usage
        install_packages
        demo
        ;;
    test)
        [ $# = 0 ] || usage
        install_packages
        step "configuring"
        configure
        step "building"
        build
        step "testing"
        cd build
        exec ctest --output-on-failure --parallel "$jobs"
        ;;
    bench)
        install_packages
        step "building the heed command"
        configure >/dev/null
        build --target heed_cli
        exec build/bench/heed bench "$@"
        ;;
    *) usage ;;
esac
