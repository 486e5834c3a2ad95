// SPDX-License-Identifier: BSD-3-Clause
// Teams of threads, and the cores they run on. The only file pair that knows OpenMP.
#pragma once

#include <functional>
#include <vector>

namespace heed::bench {

bool has_teams(); // false in a build without OpenMP: then a team is the calling thread alone

// Calls body(0) .. body(threads - 1), each on a thread of its own.
void on_team(int threads, std::function<void(int)> const& body);

// The CPUs this process may use, one per core first, siblings of a core last; empty where the system cannot tell.
std::vector<int> usable_cpus();

// Binds the threads of a team to CPUs of their own while something is measured: unbound threads sometimes share a core.
class team_binding {
public:
    explicit team_binding(int threads); // does nothing for one thread, or for more threads than CPUs
    ~team_binding();
    team_binding(team_binding const&) = delete;
    team_binding& operator=(team_binding const&) = delete;

private:
    int threads_;
    std::vector<int> cpus_;
};

} // namespace heed::bench
