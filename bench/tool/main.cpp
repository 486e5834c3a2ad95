// SPDX-License-Identifier: BSD-3-Clause
// The heed command: attention mechanisms on files of tensors, checked, timed and listed.
#include "commands.hpp"
#include "failure.hpp"

#include <heed/version.hpp>

#include <CLI/CLI.hpp>

#include <exception>
#include <iostream>
#include <string>

#if __has_include("../timing/bench_command.hpp")
#include "../timing/bench_command.hpp"
#define HEED_HAS_BENCH_COMMAND 1
#endif

namespace {

std::string version_text() {
    return "heed " + std::to_string(HEED_VERSION_MAJOR) + "." + std::to_string(HEED_VERSION_MINOR) + "." +
           std::to_string(HEED_VERSION_PATCH);
}

// The parser alone would only say that a command is missing.
void refuse_unknown_command(CLI::App const& app, int argc, char** argv) {
    std::string const word = argc > 1 ? argv[1] : "-";
    auto const named = app.get_subcommands([&](CLI::App const* command) { return command->check_name(word); });
    if (!word.starts_with('-') && named.empty()) {
        throw heed::tool::bad_usage("there is no command " + heed::tool::in_quotes(word) + "; heed --help lists them");
    }
}

} // namespace

int main(int argc, char** argv) {
    using namespace heed::tool;
    int exit = exit_ok;
    CLI::App app{"heed: attention kernels", "heed"};
    try {
        app.set_version_flag("--version", version_text());
        app.require_subcommand(1);
        app.failure_message([](CLI::App const*, CLI::Error const& error) {
            return "heed: " + std::string(error.what()) + "\nRun heed --help for usage.\n";
        });
        add_list(app, exit);
        add_run(app, exit);
        add_check(app, exit);
#ifdef HEED_HAS_BENCH_COMMAND
        add_bench(app, exit);
#endif
        add_info(app, exit);
        refuse_unknown_command(app, argc, argv);
        app.parse(argc, argv);
        std::cout.flush();
        if (!std::cout) { throw bad_usage("standard output cannot be written"); }
        return exit;
    } catch (CLI::ParseError const& error) {
        return app.exit(error) == 0 ? exit_ok : exit_bad_input; // --help and --version are no errors
    } catch (failure const& error) {
        std::cerr << "heed: " << error.what() << "\n";
        return error.code();
    } catch (std::exception const& error) {
        std::cerr << "heed: " << sentence_of(error) << "\n";
        return exit_bad_input;
    }
}
