// SPDX-License-Identifier: BSD-3-Clause
// The subcommands of heed. Each adds itself to the parser and leaves its exit code behind when it ran.
#pragma once

namespace CLI {
class App;
}

namespace heed::tool {

void add_list(CLI::App& app, int& exit);
void add_run(CLI::App& app, int& exit);
void add_check(CLI::App& app, int& exit);
void add_info(CLI::App& app, int& exit);

} // namespace heed::tool
