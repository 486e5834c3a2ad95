// SPDX-License-Identifier: BSD-3-Clause
// Ratios that hold on a busy machine. A repetition of a row is cut into short slices, and its peers - its limit, the row it is compared
// with - run in the gaps before, between and behind them:
//
//     peer, row, peer, row, ..., peer        one ratio per slice: mean of the peer's two gaps over the slice, both per call
//
// What slows the machine for longer than a slice slows both sides of a ratio, but not always alike: a busy sibling of the core halves a loop of
// multiply-adds and not a row that waits for memory. So only the quietest quarter counts: the ratios whose slower gap is among the fastest.
// The row has no say in the choice, and a limit or rival is taken at its best.
#pragma once

#include <algorithm>
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
    brackets(clock_source const& clock, int threads, double one_call, std::vector<peer> peers)
        : clock_(clock), threads_(threads), one_call_(one_call), calls_(calls_of(one_call)), peers_(std::move(peers)) {}

    long calls() const { return calls_; } // of the row in a full slice

    // One slot of every peer. A slot is as long as a slice, and longer beside a long call of the row.
    void gap() {
        for (auto& p : peers_) {
            auto const first = seconds_of(p.run, 1); // finds the row's data in the caches: counted only where it fills the slot alone
            auto const calls = calls_of(first, std::max(slice_seconds, one_call_ / 8));
            p.gaps.push_back(calls == 1 ? first : seconds_of(p.run, calls));
        }
    }

    // A slice of the row begins and ends.
    void begin() { start_ = clock_(threads_); }
    void end(long calls) { slices_.push_back((clock_(threads_) - start_) / static_cast<double>(calls)); }

    std::vector<double> ratios(peer const& p) const {
        std::vector<std::pair<double, double>> all; // slower gap, ratio
        for (std::size_t i = 0; i + 1 < p.gaps.size() && i < slices_.size(); ++i)
            all.emplace_back(std::max(p.gaps[i], p.gaps[i + 1]), p.factor * (p.gaps[i] + p.gaps[i + 1]) / 2 / slices_[i]);
        std::stable_sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
        std::vector<double> quiet;
        for (std::size_t i = 0; i < (all.size() + 3) / 4; ++i) quiet.push_back(all[i].second);
        return quiet;
    }
    std::vector<peer> const& peers() const { return peers_; }

private:
    static long calls_of(double one_call, double seconds = slice_seconds) {
        return one_call < seconds ? static_cast<long>(std::min(seconds / std::max(one_call, 1e-9), 1e6)) : 1;
    }
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
    std::vector<double> slices_;
    double start_ = 0;
};

} // namespace heed::bench
