// SPDX-License-Identifier: BSD-3-Clause
// All-pairs shortest paths of a weighted graph by products over (min, +): D, D^2, D^4, ... until paths of every length are counted. Checked against
// Dijkstra's algorithm from every node.
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

int main() {
    constexpr heed::extent_t n = 300;
    constexpr double none = std::numeric_limits<double>::infinity();
    // A ring of roads of uneven length, and some long ones across; every road has one direction.
    std::vector<double> length(n * n, none);
    std::uint32_t state = 12345;
    auto const next = [&] { return state = state * 1664525u + 1013904223u, static_cast<double>(state >> 8) / 16777216.0; };
    auto const at = [&](heed::extent_t i, heed::extent_t j) -> double& { return length[static_cast<std::size_t>(i * n + j)]; };
    for (heed::extent_t i = 0; i < n; ++i) {
        at(i, i) = 0;
        if (i != 150) { at(i, (i + 1) % n) = 0.5 + next(); } // one gap: some nodes reach others only by the long roads
        for (int road = 0; road < 3; ++road) {
            auto const j = static_cast<heed::extent_t>(next() * (i < 150 ? 150 : n));
            if (i != j) { at(i, j) = std::fmin(at(i, j), 5 + 40 * next()); }
        }
    }

    std::vector<double> d = length, square(n * n);
    heed::shape const s{1, 1, n, n};
    int products = 0;
    for (heed::extent_t hops = 1; hops < n; hops *= 2, ++products) {
        heed::semiring_matmul(heed::min_plus{}, heed::tensor_view<double const>{d.data(), s}, heed::tensor_view<double const>{d.data(), s}, heed::tensor_view{square.data(), s});
        d.swap(square);
    }

    double worst = 0;
    heed::extent_t unreachable = 0;
    for (heed::extent_t from = 0; from < n; ++from) {
        std::vector<double> best(n, none);
        std::priority_queue<std::pair<double, heed::extent_t>, std::vector<std::pair<double, heed::extent_t>>, std::greater<>> open;
        best[static_cast<std::size_t>(from)] = 0;
        open.emplace(0, from);
        while (!open.empty()) {
            auto const [far, node] = open.top();
            open.pop();
            if (far > best[static_cast<std::size_t>(node)]) { continue; }
            for (heed::extent_t to = 0; to < n; ++to) {
                double const reach = far + at(node, to);
                if (reach < best[static_cast<std::size_t>(to)]) { open.emplace(best[static_cast<std::size_t>(to)] = reach, to); }
            }
        }
        for (heed::extent_t to = 0; to < n; ++to) {
            double const ours = d[static_cast<std::size_t>(from * n + to)], theirs = best[static_cast<std::size_t>(to)];
            if (ours == none && theirs == none) {
                ++unreachable;
            } else {
                worst = std::fmax(worst, ours == none || theirs == none ? none : std::fabs(ours - theirs)); // sums of the same lengths in another order
            }
        }
    }
    std::printf("%d products, %lld pairs without a path, largest difference from Dijkstra %.1e\n", products, static_cast<long long>(unreachable), worst);
    return worst < 1e-12 * n && unreachable > 0 ? 0 : 1;
}
