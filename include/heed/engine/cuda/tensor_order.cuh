// SPDX-License-Identifier: BSD-3-Clause
// The order in which blocks, each a tile of keys, add to the sums of a tile of queries, so that a sum has the same bits in every run.
//
// Tiles of keys stand in teams, few enough that a team's blocks run at the same time. Member i of W starts its walk over T tiles of queries at i T / W and goes
// round, so that no two of a team want the same tile at the same time and, under a causal pattern, each starts at the diagonal. Tile m is added to in the order in
// which the members come to it: the last whose start is at or before m, then the one before that, and round; team after team. A block waits for its predecessor,
// which came by an earlier step of its own walk or stands in an earlier team: none waits for ever, if teams are taken in order.
// A number for every tile of queries says who was the last to add.
#pragma once

#include <heed/kernel/cuda/warp.cuh>
#include <heed/policy/place.hpp>

namespace heed {

namespace detail {

struct tile_order {
    int* taken = nullptr; // blocks that have started; null: sums are added to as parts come
    int* last = nullptr;  // [B][H][tiles of queries][2]: 1 + the tile of keys that was the last to add, of each warpgroup's part; 0 for none
    int team = 1;         // tiles of keys in a team
    int key_tiles = 1, query_tiles = 1;

    HEED_HD bool fixed() const { return taken != nullptr; }
    HEED_DEVICE int size(int which) const { return min(team, key_tiles - which * team); }
    // The n-th tile of keys that is begun: of a team the last first, since others wait for it.
    HEED_DEVICE int begun(int n) const { return fixed() ? n / team * team + size(n / team) - 1 - n % team : n; }
    HEED_DEVICE int start(int key_tile) const { return fixed() ? static_cast<int>(extent_t(key_tile % team) * query_tiles / size(key_tile / team)) : 0; }
    HEED_DEVICE int* last_of(extent_t head, int query_tile, int part) const { return last + ((head * query_tiles + query_tile) * 2 + part); }

    // 1 + the tile of keys that adds to query tile m before key_tile does, 0 if none does. kept(tile of keys) says whether one adds to m at all; a warp asks.
    template <class F>
    HEED_DEVICE int before(int key_tile, int m, F const& kept) const {
        int const lane = static_cast<int>(threadIdx.x % 32);
        bool own = true;
        for (int which = key_tile / team; which >= 0; --which, own = false) {
            int const all = size(which), first = min(all - 1, static_cast<int>((extent_t(m + 1) * all - 1) / query_tiles)); // who comes first to m
            int const from = own ? key_tile % team : first, count = own ? (first - from + all) % all : all;
            for (int k = 1; k <= count; k += 32) {
                int const candidate = which * team + (from + k + lane) % all;
                std::uint32_t const found = __ballot_sync(0xffffffffu, k + lane <= count && kept(candidate));
                if (found != 0) { return 1 + which * team + (from + k + __ffs(static_cast<int>(found)) - 1) % all; }
            }
        }
        return 0;
    }
};

} // namespace detail

namespace device {

// *from, if `now`, else `otherwise`; what others wrote before they gave it is seen after. Predicates, so that products may run across it.
HEED_DEVICE int read_turn(int const* from, int otherwise, bool now) {
    int y = otherwise;
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0;\n@p ld.acquire.gpu.global.s32 %0, [%1];}" : "+r"(y) : "l"(from), "r"(static_cast<int>(now)) : "memory");
    return y;
}
HEED_DEVICE void give_turn(int* to, int value, bool now) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0;\n@p st.release.gpu.global.s32 [%0], %1;}" ::"l"(to), "r"(value), "r"(static_cast<int>(now)) : "memory");
}
// What this thread added to memory stands before what it writes next, if `now`.
HEED_DEVICE void fence_memory(bool now) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %0, 0;\n@p fence.acq_rel.gpu;}" ::"r"(static_cast<int>(now)) : "memory");
}

} // namespace device
} // namespace heed
