// SPDX-License-Identifier: BSD-3-Clause
// Ratios that hold on a busy machine. A repetition of a row is cut into short slices, and its peers - its limit, the row it is compared
// with - run in the gaps before, between and behind them:
//
//     peer, row, peer, row, ..., peer        one ratio per slice: mean of the peer's two gaps over the slice, both per call
//
// What slows the machine for longer than a slice slows both sides of a ratio, but not always alike: a busy sibling of the core halves a loop of
// multiply-adds and not a row that waits for memory, or takes the near cache of a row and nothing of a loop in registers. So only the quietest quarter
// counts: the ratios whose gaps are among the fastest, by the slower of the peer and of a witness (witness.hpp) that runs in every gap.
// The row has no say in the choice, and a limit or rival is taken at its best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace heed::bench {

using clock_source = std::function<double(int threads)>; // seconds

// What a row is compared with. Its counter is `factor` x (seconds of a call of the peer) / (seconds of a call of the row).
struct peer {
    std::string counter;
    std::function<void()> run;
    double factor = 1;
    std::vector<double> gaps = {}; // seconds of a call, gap by gap
};

class brackets {
public:
    static constexpr double slice_seconds = 0.002; // below a time slice of the scheduler

    // one_call: seconds of a call of the row, roughly
    brackets(clock_source const& clock, int threads, double one_call, std::vector<peer> peers, std::function<void()> witness = {})
        : clock_(clock), threads_(threads), one_call_(one_call), calls_(calls_of(one_call)), peers_(std::move(peers)), witness_(std::move(witness)) {}

    long calls() const { return calls_; } // of the row in a full slice

    // One slot of every peer. A slot is as long as a slice, and longer beside a long call of the row.
    void gap() {
        for (auto& p : peers_) {
            auto const first = seconds_of(p.run, 1); // finds the row's data in the caches: counted only where it fills the slot alone
            auto const calls = calls_of(first, std::max(slice_seconds, one_call_ / 8));
            p.gaps.push_back(calls == 1 ? first : seconds_of(p.run, calls));
        }
        if (witness_) {
            seconds_of(witness_, 1); // its data back into the near cache
            witnessed_.push_back(seconds_of(witness_, 1));
        }
    }

    // A slice of the row begins and ends.
    void begin() { start_ = clock_(threads_); }
    void end(long calls) { slices_.push_back((clock_(threads_) - start_) / static_cast<double>(calls)); }

    // The quietest quarter of the slices, quietest first.
    std::vector<std::size_t> quiet(peer const& p) const {
        auto const count = std::min(slices_.size(), p.gaps.empty() ? 0 : p.gaps.size() - 1);
        double const best = fastest(p.gaps), best_witness = fastest(witnessed_);
        std::vector<std::pair<double, std::size_t>> all; // how much slower than at best, in millionths: below that the clock decides; slice
        for (std::size_t i = 0; i < count; ++i)
            all.emplace_back(std::round(1e6 * std::max(around(p.gaps, i) / best, best_witness > 0 ? around(witnessed_, i) / best_witness : 0)), i);
        std::stable_sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
        std::vector<std::size_t> chosen;
        for (std::size_t i = 0; i < (all.size() + 3) / 4; ++i) chosen.push_back(all[i].second);
        return chosen;
    }
    std::vector<double> ratios(peer const& p) const {
        std::vector<double> chosen;
        for (auto const i : quiet(p)) chosen.push_back(p.factor * (p.gaps[i] + p.gaps[i + 1]) / 2 / slices_[i]);
        return chosen;
    }
    // Seconds of the witness beside those slices.
    std::vector<double> witnessed(peer const& p) const {
        std::vector<double> seconds;
        if (!witnessed_.empty())
            for (auto const i : quiet(p)) seconds.push_back(around(witnessed_, i));
        return seconds;
    }
    std::vector<peer> const& peers() const { return peers_; }

private:
    static long calls_of(double one_call, double seconds = slice_seconds) {
        return one_call < seconds ? static_cast<long>(std::min(seconds / std::max(one_call, 1e-9), 1e6)) : 1;
    }
    static double around(std::vector<double> const& gaps, std::size_t slice) { return std::max(gaps[slice], gaps[slice + 1]); }
    static double fastest(std::vector<double> const& gaps) { return gaps.empty() ? 0 : *std::min_element(gaps.begin(), gaps.end()); }
    double seconds_of(std::function<void()> const& run, long calls) const {
        auto const start = clock_(threads_);
        for (long i = 0; i < calls; ++i) run();
        return (clock_(threads_) - start) / static_cast<double>(calls);
    }

    clock_source const& clock_;
    int threads_;
    double one_call_;
    long calls_;
    std::vector<peer> peers_;
    std::function<void()> witness_;
    std::vector<double> slices_, witnessed_; // seconds of a call
    double start_ = 0;
};

} // namespace heed::bench
