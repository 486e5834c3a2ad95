// SPDX-License-Identifier: BSD-3-Clause
#include "team.hpp"

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <string>
#include <tuple>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace heed::bench {

#if defined(_OPENMP)

bool has_teams() { return true; }

void on_team(int threads, std::function<void(int)> const& body) {
#pragma omp parallel num_threads(threads)
    body(omp_get_thread_num());
}

#else

bool has_teams() { return false; }

void on_team(int threads, std::function<void(int)> const& body) {
    for (int thread = 0; thread < threads; ++thread) body(thread);
}

#endif

#if defined(__linux__)

namespace {

// The lowest-numbered sibling of a CPU: the same number for all CPUs of one core.
int core_of(int cpu) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    int first = cpu;
    return file >> first ? first : cpu;
}

void allow(std::vector<int> const& cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu : cpus) CPU_SET(static_cast<std::size_t>(cpu), &set);
    sched_setaffinity(0, sizeof set, &set);
}

} // namespace

std::vector<int> usable_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return {};
    std::vector<std::tuple<int, int, int>> ranked; // rank within the core, core, CPU
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(static_cast<std::size_t>(cpu), &set)) continue;
        int const core = core_of(cpu);
        auto const earlier = std::count_if(ranked.begin(), ranked.end(), [&](auto const& r) { return std::get<1>(r) == core; });
        ranked.emplace_back(static_cast<int>(earlier), core, cpu);
    }
    std::sort(ranked.begin(), ranked.end());
    std::vector<int> cpus;
    for (auto const& r : ranked) cpus.push_back(std::get<2>(r));
    return cpus;
}

team_binding::team_binding(int threads) : threads_(threads) {
    if (threads < 2) return;
    cpus_ = usable_cpus();
    if (cpus_.size() < static_cast<std::size_t>(threads)) {
        cpus_.clear();
        return;
    }
    on_team(threads, [this](int thread) { allow({cpus_[static_cast<std::size_t>(thread)]}); });
}

team_binding::~team_binding() {
    if (cpus_.empty()) return;
    on_team(threads_, [this](int) { allow(cpus_); });
}

#else

std::vector<int> usable_cpus() { return {}; }
team_binding::team_binding(int threads) : threads_(threads) {}
team_binding::~team_binding() = default;

#endif

} // namespace heed::bench
