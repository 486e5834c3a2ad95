// SPDX-License-Identifier: BSD-3-Clause
// 10: attention on a real graph: Zachary's karate club, 34 members, 78 friendships (W. W. Zachary, J. Anthropological Research 33, 1977). Two passes of GAT
// weights spread the allegiance of the instructor (1) and the president (34) along friendships until it settles; the sign says who follows whom after the
// club split. karate.dot draws the members by side and the friendships by weight: neato -Tsvg karate.dot
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using heed::extent_t;

constexpr extent_t members = 34;
constexpr int friendships[78][2] = {
    {2, 1},   {3, 1},   {3, 2},   {4, 1},   {4, 2},   {4, 3},   {5, 1},   {6, 1},   {7, 1},   {7, 5},   {7, 6},   {8, 1},   {8, 2},   {8, 3},   {8, 4},   {9, 1},
    {9, 3},   {10, 3},  {11, 1},  {11, 5},  {11, 6},  {12, 1},  {13, 1},  {13, 4},  {14, 1},  {14, 2},  {14, 3},  {14, 4},  {17, 6},  {17, 7},  {18, 1},  {18, 2},
    {20, 1},  {20, 2},  {22, 1},  {22, 2},  {26, 24}, {26, 25}, {28, 3},  {28, 24}, {28, 25}, {29, 3},  {30, 24}, {30, 27}, {31, 2},  {31, 9},  {32, 1},  {32, 25},
    {32, 26}, {32, 29}, {33, 3},  {33, 9},  {33, 15}, {33, 16}, {33, 19}, {33, 21}, {33, 23}, {33, 24}, {33, 30}, {33, 31}, {33, 32}, {34, 9},  {34, 10}, {34, 14},
    {34, 15}, {34, 16}, {34, 19}, {34, 20}, {34, 21}, {34, 23}, {34, 24}, {34, 27}, {34, 28}, {34, 29}, {34, 30}, {34, 31}, {34, 32}, {34, 33}};
// Who went with the instructor: 17 members, as recorded; the others with the president.
constexpr int with_instructor[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 17, 18, 20, 22};

int main() {
    std::vector<std::int32_t> source, target;
    for (auto const& f : friendships) { // both ways
        source.insert(source.end(), {f[0] - 1, f[1] - 1});
        target.insert(target.end(), {f[1] - 1, f[0] - 1});
    }
    heed::graph const club(source, target, members, members, heed::self_loops::one_each);
    auto const m = heed::gat_attention<float>(club.edges());

    std::vector<float> side(members, 0), next(members), lse(members), weight(static_cast<std::size_t>(club.size())), q(members), k(members, 0);
    for (std::int32_t const s : source) { k[static_cast<std::size_t>(s)] += 0.12f; } // a_src . z_j: members with many friends weigh more
    auto const nodes = [](std::vector<float>& x) { return heed::tensor_view<float>(x.data(), {1, 1, members, 1}); };
    double change = 1, worst_sum = 0;
    int rounds = 0;
    for (; rounds < 200 && change > 1e-6; ++rounds) {
        side[0] = 1; // the two who quarrelled
        side[33] = -1;
        heed::forward(m, nodes(q), nodes(k), nodes(side), nodes(next), heed::edge_weights{heed::tensor_view<float>(weight.data(), {1, 1, club.size(), 1})});
        change = 0;
        for (std::size_t i = 0; i < side.size(); ++i) {
            change = i == 0 || i == 33 ? change : std::fmax(change, std::fabs(static_cast<double>(next[i] - side[i])));
            side[i] = next[i];
        }
    }
    heed::edge_list const edges = club.edges();
    for (extent_t i = 0; i < members; ++i) {
        double sum = 0;
        for (extent_t s = edges.begin(i); s < edges.end(i); ++s) { sum += static_cast<double>(weight[static_cast<std::size_t>(edges.number(s))]); }
        worst_sum = std::fmax(worst_sum, std::fabs(sum - 1));
    }
    std::vector<bool> instructor(members, false);
    for (int const i : with_instructor) { instructor[static_cast<std::size_t>(i - 1)] = true; }
    int right = 0;
    for (std::size_t i = 0; i < side.size(); ++i) { right += (side[i] > 0) == instructor[i]; }

    std::FILE* const file = std::fopen("karate.dot", "w");
    if (file == nullptr) { return 1; }
    std::fprintf(file, "graph karate {\n  layout=neato; node [style=filled, shape=circle];\n");
    for (std::size_t i = 0; i < side.size(); ++i) { std::fprintf(file, "  %d [fillcolor=\"%s\"];\n", static_cast<int>(i) + 1, side[i] > 0 ? "lightblue" : "orange"); }
    for (std::size_t f = 0; f < 78; ++f) { // numbers of both directions are neighbours in the list
        float const both = weight[2 * f] + weight[2 * f + 1];
        std::fprintf(file, "  %d -- %d [penwidth=%.2f];\n", friendships[f][0], friendships[f][1], 0.3 + 6 * static_cast<double>(both));
    }
    std::fprintf(file, "}\n");
    bool const written = std::fclose(file) == 0;
    std::printf("%d rounds; %d of 34 members on the side they took; weights of a member sum to 1 within %.1e; karate.dot written\n", rounds, right, worst_sum);
    return right >= 32 && worst_sum < 1e-5 && written ? 0 : 1;
}
