// SPDX-License-Identifier: BSD-3-Clause
// heed bench: times mechanisms against the machine's limits, against baselines and against older runs.
#pragma once

namespace CLI {
class App;
}

namespace heed::tool {

void add_bench(CLI::App& app, int& exit_code);

} // namespace heed::tool
