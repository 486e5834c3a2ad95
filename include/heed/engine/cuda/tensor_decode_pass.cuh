// SPDX-License-Identifier: BSD-3-Clause
// What a block of the tensor-core decode engine does: pieces of keys of one unit after the other.
//
// A warp has 8 rows (query heads of a key head, times new tokens), the columns of its products, and walks over tiles of 16 or 32 keys in shared memory:
//
//   s = k q^T        keys x 8, queries in registers
//   bend, mask       the score chain and the pattern, the pattern only where a tile is partial
//   raise, weigh     the normalizer, in its unit; a peak that is not above all before it changes nothing and is not told; the sum of a row is that of the
//                    weights before they are rounded
//   o = o f + v^T p  features x 8, p rounded to the type of the cache
//
// A team of warps has more rows and shares what it brings; teams of a block have rings of their own and wait for nobody from tile to tile. Then teams, then blocks
// of a unit, are joined in the order of their keys.
#pragma once

#include <heed/engine/cuda/tensor_decode_arguments.cuh>
#include <heed/kernel/cuda/warp.cuh>
#include <heed/kernel/cuda/warp_mma.cuh>

namespace heed {

// Pieces of one unit. Sizes: warps; keys of a tile; slots of a warp for the keys or the values of a tile, an odd number.
template <class M, class E, int D, class Sizes>
struct tensor_decode_pass {
    using arguments = tensor_decode_arguments<M, E>;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    using room = tensor_decode_room<row_type>;
    static constexpr bool linear = detail::is_linear<score_type>;
    static constexpr int kept = detail::kept_of<normalizer_type>();
    static constexpr int warps = Sizes::warps, keys = Sizes::keys, slots = Sizes::slots, piece = warps * keys;
    static constexpr int row_parts = D / device::part_elements, pitch = D + 4, slot_bytes = 2 * keys * D, groups = keys / 16, rows_of_warp = 8;
    static constexpr int ring_bytes = warps * slots * slot_bytes, notes = 16; // notes: of tiles on their way, of a warp
    static constexpr int together = 16; // parts of a row that are read at once
    static_assert(slots % 2 == 1 && 4 * slots / 2 < notes && keys * row_parts % 128 == 0);
    static constexpr int none = -1;

    arguments const& a;
    int b, kv, first, last; // rows [first, last) of the key head's: heads times queries
    int pieces;             // of the unit
    int begins = 0, parts = 1; // block that has its first piece, blocks that share it
    int queries, length;    // of the sequence
    int lane, team, member, team_size, teams, ring_slots;
    int head_bits;                 // lanes that judge the heads of one tile: 2^head_bits
    int low = 0, from = 0, to = 0; // keys that exist from low on; this block's
    int found = 0, judged = 0;     // tiles of this team that are not skipped, by bit; how many were looked at
    unsigned some = 0, cut = 0;
    // of the two rows of this thread's accumulators
    int head[2], query[2];
    float lead[2], seen[2] = {-math::inf<float>(), -math::inf<float>()}, sum[2] = {0, 0}; // greatest score; weights of this thread's keys
    row_type state[2];
    std::uint32_t q[D / 16][2] = {};
    float o[D / 16][4];

    // A tile on its way: 2 start + (may it be cut?); where the cache holds this lane's row of it.
    struct coming {
        int note, entry, row;
    };

    HEED_DEVICE tensor_decode_pass(arguments const& args, int batch, int unit, int n) : a(args), b(batch), kv(args.blocks_of_rows == 1 ? unit : unit / args.blocks_of_rows), pieces(n) {
        int const warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
        team_size = 1 << a.team_bits;
        team = warp >> a.team_bits;
        member = warp & (team_size - 1);
        teams = warps >> a.team_bits;
        lane = static_cast<int>(threadIdx.x) % 32;
        ring_slots = (slots << a.team_bits) - (a.team_bits > 0 ? 1 : 0);
        first = (unit - kv * a.blocks_of_rows) * rows_of_warp * team_size;
        last = min(first + rows_of_warp * team_size, a.rows_of_head);
        queries = static_cast<int>(a.q.length(b));
        length = static_cast<int>(a.lengths.keys_of(b));
        head_bits = 32 - __clz(a.head_in_group(last - 1) - a.head_in_group(first));
    }

    HEED_DEVICE static std::byte* shared() {
        extern __shared__ __align__(128) std::byte memory[];
        return memory;
    }
    // Step i brings load i + slots: K0 V0 K1 V1 ...; and uses load i, once there is one.
    HEED_DEVICE void over(int first_piece, int end_piece, int unit_begin) {
        load_queries();
        cut_keys(first_piece, end_piece);
        coming ahead{none, 0, 0}, later = ahead; // rows of the next tile to bring; of the one behind it, asked for a whole tile before
        int now = none, slot = 0;
        float s[groups][4];
#pragma unroll 1
        for (int i = -ring_slots;; ++i) {
            if (i >= 0) {
                bool const of_keys = i % 2 == 0;
                if (i == 0) { begin(first_piece == 0 && team == 0, unit_begin); }
                if (of_keys) {
                    now = note(i / 2);
                    if (now == none) { break; }
                }
                wait();
                if (of_keys) {
                    multiply(s, ring(slot));
                } else {
                    gather(s, ring(slot));
                }
                sync_team();
                bring(ahead, later, slot, !of_keys, i + ring_slots);
                if (of_keys) { weigh(s, now / 2, (now & 1) != 0); }
                slot = slot + 1 == ring_slots ? 0 : slot + 1;
            } else {
                bring(ahead, later, i + ring_slots, (i + ring_slots) % 2 == 0, i + ring_slots);
            }
        }
        device::copies_wait<0>();
        end(unit_begin);
    }

private:
    HEED_DEVICE place at(int h) const { return {b, h, kv, queries, length, a.width}; }
    HEED_DEVICE int head_of(int number) const { return kv * a.group + a.head_in_group(number); }
    HEED_DEVICE int query_of(int number) const { return number - a.head_in_group(number) * a.queries; }
    HEED_DEVICE bool exists(int number) const { return number < last && query_of(number) < queries; }

    HEED_DEVICE std::uint32_t ring(int slot) const { return device::shared_address(shared()) + static_cast<std::uint32_t>((team << a.team_bits) * slots * slot_bytes + slot * slot_bytes); }
    HEED_DEVICE int& note(int t) const { return reinterpret_cast<int*>(shared() + ring_bytes)[static_cast<int>(threadIdx.x) / 32 * notes + t % notes]; }
    // The oldest slot is there, for all of the team.
    HEED_DEVICE void wait() const {
        if (a.team_bits == 0) {
            device::copies_wait<slots - 1>();
        } else if (a.team_bits == 1) {
            device::copies_wait<2 * slots - 2>();
        } else {
            device::copies_wait<4 * slots - 2>();
        }
        sync_team();
    }
    HEED_DEVICE void sync_team() const {
        if (a.team_bits == 0) {
            __syncwarp();
        } else {
            device::barrier_sync(1 + team, 32 << a.team_bits);
        }
    }

    // Queries of the n-th head of these rows.
    HEED_DEVICE range rows_of(int n, int& h) const {
        int const in_group = a.head_in_group(first) + n;
        h = kv * a.group + in_group;
        return {max(first - in_group * a.queries, 0), min(last - in_group * a.queries, queries)};
    }
    // The pieces of this block, of the keys that the pattern may keep. A lane has a head.
    HEED_DEVICE void cut_keys(int first_piece, int end_piece) {
        int begin_of = length, end_of = 0, h;
        range const rows = rows_of(lane, h);
        if (rows.size() > 0) {
            range const one = detail::hull_of(a.m.pattern, at(h), rows);
            if (one.size() > 0) {
                begin_of = static_cast<int>(one.begin);
                end_of = static_cast<int>(one.end);
            }
        }
        int const oldest = a.kind == cache_kind::ring && length > a.k_rows ? length - a.k_rows : 0;
        low = max(__reduce_min_sync(0xffffffffu, begin_of), oldest);
        int const high = __reduce_max_sync(0xffffffffu, end_of), origin = low / piece * piece, there = high > low ? (high - origin + piece - 1) / piece : 0;
        auto const bound = [&](int n) { return origin + piece * (there == pieces ? n : static_cast<int>(static_cast<long long>(n) * there / pieces)); };
        from = bound(first_piece);
        to = min(bound(end_piece), high);
    }
    // The team's next tile that is not skipped, or none. Lanes judge several tiles, each for every head of the rows.
    HEED_DEVICE int next() {
        while (some == 0) {
            int const start = from + ((judged + (lane >> head_bits)) * teams + team) * keys;
            if (from + (judged * teams + team) * keys >= to) { return none; }
            int h;
            range const cols{max(start, low), min(start + keys, to)}, rows = rows_of(lane & ((1 << head_bits) - 1), h);
            bool const asked = cols.size() > 0 && rows.size() > 0;
            tile const v = asked ? a.m.pattern.classify(at(h), rows, cols) : tile::skip;
            some = __ballot_sync(0xffffffffu, v != tile::skip);
            cut = __ballot_sync(0xffffffffu, asked && (v != tile::full || cols.size() < keys));
            // the first lane of a tile gets what its lanes say
            for (int by = 1 << head_bits >> 1; by > 0; by >>= 1) {
                some |= some >> by;
                cut |= cut >> by;
            }
            found = judged;
            judged += 32 >> head_bits;
            unsigned each = 1;
            for (int by = 1 << head_bits; by < 32; by *= 2) { each |= each << by; }
            some &= each;
        }
        int const bit = __ffs(static_cast<int>(some)) - 1;
        some &= some - 1;
        return 2 * (from + ((found + (bit >> head_bits)) * teams + team) * keys) + static_cast<int>(cut >> bit & 1u);
    }
    // Asked for long before it is needed.
    HEED_DEVICE coming next_tile() {
        coming x{next(), b, 0};
        int const j = x.note / 2 + lane % keys;
        x.row = j;
        if (a.kind != cache_kind::contiguous && x.note != none && j >= low && j < to) {
            int const entry = a.row_bits >= 0 ? j >> a.row_bits : j / a.k_rows;
            x.row = j - entry * a.k_rows;
            if (a.kind == cache_kind::paged) { x.entry = static_cast<int>(a.table(b, entry)); }
        }
        return x;
    }
    // This warp's share of load n, the keys or the values of a tile; rows that are not there are zero and not read.
    HEED_DEVICE void bring(coming& tile_on_way, coming& later, int slot, bool of_keys, int n) {
        constexpr int together = 32 / row_parts, times = keys / together; // rows of one copy; copies of a tile
        if (of_keys) {
            tile_on_way = n == 0 ? next_tile() : later;
            later = next_tile();
            note(n / 2) = tile_on_way.note;
        }
        if (tile_on_way.note != none) {
            strides const& step = of_keys ? a.k_step : a.v_step;
            int const start = tile_on_way.note / 2, c = lane % row_parts, bytes = min(max(2 * ((of_keys ? a.width : a.dv) - 8 * c), 0), 16), share = times >> a.team_bits;
            int const own = member * share * together + lane / row_parts; // first row that this lane copies
            E const* const column = (of_keys ? a.k : a.v) + (bytes > 0 ? 8 * c : 0) + kv * step.head;
            std::uint32_t const base = ring(slot);
            auto const copy = [&](int r, E const* p, int count) { device::copy_part(base + static_cast<std::uint32_t>(16 * device::part_place<row_parts>(r, c)), p, count); };
            if (a.kind == cache_kind::contiguous && (tile_on_way.note & 1) == 0) {
                E const* p = column + b * step.batch + (start + own) * step.seq;
                extent_t const by = together * step.seq;
                if (a.team_bits == 0) {
#pragma unroll
                    for (int x = 0; x < times; ++x, p += by) { copy(own + x * together, p, bytes); }
                } else {
#pragma unroll 1
                    for (int x = 0; x < share; ++x, p += by) { copy(own + x * together, p, bytes); }
                }
            } else {
                int const j = start + lane % keys;
                bool const inside = j >= low && j < to;
                unsigned const there = __ballot_sync(0xffffffffu, inside);
                long long const mine = inside ? tile_on_way.entry * step.batch + tile_on_way.row * step.seq : 0;
#pragma unroll 4
                for (int x = 0; x < share; ++x) {
                    int const r = own + x * together;
                    copy(r, column + __shfl_sync(0xffffffffu, mine, r), (there >> r & 1u) != 0 ? bytes : 0);
                }
            }
        }
        device::copies_commit();
    }
    // A row's head and query; rows that are not there compute what nobody reads.
    HEED_DEVICE void place_of(int number, int& h, int& i) const {
        int const some_row = exists(number) ? number : first;
        h = head_of(some_row);
        i = min(query_of(some_row), max(queries - 1, 0));
    }
    // Asked for first and needed last.
    HEED_DEVICE void load_queries() {
        int const number = first + rows_of_warp * member + lane / 4, column = 2 * (lane % 4);
        int h, i;
        place_of(number, h, i);
        E const* const row = a.q.row(b, h, i);
        bool const there = exists(number);
        if (a.q_pairs) {
#pragma unroll
            for (int x = 0; x < D / 8; ++x) { q[x / 2][x % 2] = there && 8 * x + column < a.width ? *reinterpret_cast<std::uint32_t const*>(row + 8 * x + column) : 0u; }
        } else {
#pragma unroll 4
            for (int x = 0; x < D / 8; ++x) {
                int const c = 8 * x + column;
                std::uint32_t const low_half = there && c < a.width ? row[c * a.q.step.feature].bits : 0, high_half = there && c + 1 < a.width ? row[(c + 1) * a.q.step.feature].bits : 0;
                std::uint32_t const both = low_half | high_half << 16;
#pragma unroll
                for (int y = 0; y < D / 8; ++y) { q[y / 2][y % 2] = x == y ? both : q[y / 2][y % 2]; } // registers have no index
            }
        }
    }
    HEED_DEVICE void begin(bool starts, int unit_begin) {
        begins = unit_begin / a.share;
        parts = (unit_begin + pieces - 1) / a.share - begins + 1;
        int h, i;
        place_of(first + rows_of_warp * member + lane / 4, h, i);
        float const lead_of = static_cast<float>(detail::leading_factor(a.m.score, at(h)) * (linear ? normalizer_type::unit : 1.0));
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            lead[e] = __shfl_sync(0xffffffffu, lead_of, 4 * (2 * (lane % 4) + e));
            place_of(first + rows_of_warp * member + 2 * (lane % 4) + e, head[e], query[e]);
            state[e] = starts ? a.m.normalizer.template start<float>(at(head[e])) : a.m.normalizer.template empty<float>();
        }
#pragma unroll
        for (int c = 0; c < D / 16; ++c) { o[c][0] = o[c][1] = o[c][2] = o[c][3] = 0; }
    }

    // s = k q^T; even and odd features apart, so that products need not wait for each other
    HEED_DEVICE void multiply(float (&s)[groups][4], std::uint32_t tile) const {
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            float odd[4] = {};
            s[g][0] = s[g][1] = s[g][2] = s[g][3] = 0;
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                std::uint32_t x[4];
                device::load_matrices(x, tile + static_cast<std::uint32_t>(16 * device::part_place<row_parts>(16 * g + lane % 16, 2 * c + lane / 16)));
                device::warp_product<E>(c % 2 == 0 ? s[g] : odd, x, q[c][0], q[c][1]);
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) { s[g][e] += odd[e]; }
        }
    }
    // Scores bent and masked, then weights. s[g][2 h + e]: key 16 g + 8 h + lane / 4, row e
    HEED_DEVICE void weigh(float (&s)[groups][4], int start, bool partial) {
        float peak[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            place const here = at(head[e]);
            peak[e] = -math::inf<float>();
#pragma unroll
            for (int n = 0; n < 2 * groups; ++n) {
                int const j = start + 8 * n + lane / 4;
                float& x = s[n / 2][n % 2 * 2 + e];
                x *= lead[e];
                if constexpr (!linear) { x = detail::bent_score(a.m.score, here, query[e], min(j, length - 1), x, static_cast<float>(normalizer_type::unit)); }
                if (partial) {
                    bool const kept_pair = j >= low && j < to && static_cast<bool>(a.m.pattern.keep(here, extent_t(query[e]), extent_t(min(j, length - 1))));
                    x = kept_pair ? x : -math::inf<float>();
                }
                peak[e] = fmaxf(peak[e], x);
            }
        }
        if (__any_sync(0xffffffffu, peak[0] > seen[0] || peak[1] > seen[1])) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
#pragma unroll
                for (int by = 4; by < 32; by *= 2) { peak[e] = fmaxf(peak[e], __shfl_xor_sync(0xffffffffu, peak[e], by)); }
                seen[e] = fmaxf(seen[e], peak[e]);
                float const factor = a.m.normalizer.raise(state[e], peak[e]);
                sum[e] *= factor;
#pragma unroll
                for (int c = 0; c < D / 16; ++c) {
                    o[c][e] *= factor;
                    o[c][2 + e] *= factor;
                }
            }
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float part[2] = {0, 0};
#pragma unroll
            for (int n = 0; n < 2 * groups; ++n) {
                float& x = s[n / 2][n % 2 * 2 + e];
                x = a.m.normalizer.weight(state[e], x);
                part[n % 2] += x;
            }
            sum[e] += part[0] + part[1];
        }
    }
    // o += v^T p
    HEED_DEVICE void gather(float const (&s)[groups][4], std::uint32_t tile) {
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            std::uint32_t const p0 = device::turn_matrix(device::pack_two<E>(s[g][0], s[g][1])), p1 = device::turn_matrix(device::pack_two<E>(s[g][2], s[g][3]));
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                std::uint32_t x[4];
                device::load_matrices_turned(x, tile + static_cast<std::uint32_t>(16 * device::part_place<row_parts>(16 * g + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2)));
                device::warp_product<E>(o[c], x, p0, p1);
            }
        }
    }

    // Teams of the block, then blocks of the unit: the same code, from shared or from global memory, past the first cache.
    HEED_DEVICE void end(int unit_begin) {
        arena memory(shared());
        int const rows = rows_of_warp * team_size;
        room const mem(memory, rows, teams, parts, pitch);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
#pragma unroll
            for (int by = 4; by < 32; by *= 2) { sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], by); }
            a.m.normalizer.settle(state[e], sum[e]);
        }
        __syncthreads(); // keys and values have been read
        int const own_row = team * rows + rows_of_warp * member + 2 * (lane % 4);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float* const row = mem.sums + (own_row + e) * pitch + lane / 4;
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                row[16 * c] = o[c][e];
                row[16 * c + 8] = o[c][2 + e];
            }
            if (lane < 4) { mem.states[own_row + e] = state[e]; }
        }
        __syncthreads();
        // A block shares at most the first and the last of its units: two slots. The first block of a unit has it in its second, unless the unit begins the block.
        int const mine = static_cast<int>(blockIdx.x) - begins, width = a.padded(), shift = unit_begin != begins * a.share ? 1 : 0;
        auto const slot_of = [&](int x) { return 2 * (begins + x) + (x == 0 ? shift : 0); };
        int n = teams, step = pitch;
        row_type const* states = mem.states;
        float const* sums = mem.sums;
#pragma unroll 1
        for (bool of_blocks = false;; of_blocks = true) {
            auto const at_part = [&](int x, int r) { return of_blocks ? slot_of(x) * rows + r : x * rows + r; };
            bool const writes = of_blocks || parts == 1;
            // a warp has a row, a lane four of its features
            for (int r = static_cast<int>(threadIdx.x) / 32; r < last - first; r += warps) {
                if (!exists(first + r)) { continue; }
                float* const factor = mem.factor + r * n;
                row_type whole{};
#pragma unroll 1
                for (int c = 4 * lane; c - 4 * lane < width; c += 128) {
                    float4 all{0, 0, 0, 0};
#pragma unroll 1
                    for (int y0 = 0; y0 < n; y0 += together) {
                        float4 of[together];
#pragma unroll
                        for (int y = 0; y < together; ++y) { // no branches: all are on their way at once
                            of[y] = detail::fresh(reinterpret_cast<float4 const*>(sums + extent_t(at_part(min(y0 + y, n - 1), r)) * step + min(c, width - 4)));
                        }
                        if (c == 4 * lane && y0 == 0) { // meanwhile
                            whole = detail::first_lane(detail::join_states(a.m.normalizer, n, [&](int x) { return detail::fresh(states + at_part(x, r)); }, factor));
                            __syncwarp();
                        }
#pragma unroll
                        for (int y = 0; y < together; ++y) {
                            float const f = factor[min(y0 + y, n - 1)];
                            float4 const sum_of = {math::fma(of[y].x, f, all.x), math::fma(of[y].y, f, all.y), math::fma(of[y].z, f, all.z), math::fma(of[y].w, f, all.w)};
                            all = y0 + y < n ? sum_of : all;
                        }
                    }
                    if (c >= width) { continue; }
                    if (writes) {
                        write_row(first + r, c, all, whole);
                    } else {
                        extent_t const to_row = extent_t(slot_of(mine)) * rows + r;
                        *reinterpret_cast<float4*>(a.sums + to_row * width + c) = all;
                        if (c == 0) { a.states[to_row] = whole; }
                    }
                }
            }
            if (writes) { break; }
            __syncthreads();
            if (threadIdx.x == 0) {
                bool const ends = device::add_acquire_release(a.ended + begins, 1) == parts - 1;
                if (ends) { a.ended[begins] = 0; }
                *mem.last = ends ? 1 : 0;
            }
            __syncthreads();
            if (*mem.last == 0) { break; }
            n = parts;
            step = width;
            states = a.states;
            sums = a.sums;
        }
    }
    HEED_DEVICE void write_row(int number, int c, float4 const& x, row_type const& whole) const {
        int const h = head_of(number), i = query_of(number);
        float const factor = a.m.normalizer.close(whole);
        E* const row = a.out.row(b, h, i);
        float const of[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (c + e < a.dv) { row[(c + e) * a.out.step.feature].bits = static_cast<std::uint16_t>(device::pack_two<E>(of[e] * factor, 0)); }
        }
        if constexpr (kept > 0) {
            if (c == 0 && a.lse.data != nullptr) {
                float value[kept];
                detail::saved_numbers(a.m.normalizer, whole, value);
                *a.lse.row(b, h, i) = static_cast<float>(static_cast<double>(value[0]) * a.lse_unit);
            }
        }
    }
};

} // namespace heed
