// SPDX-License-Identifier: BSD-3-Clause
// What the kernel of the tensor-core decode engine gets, and where it joins parts of rows.
#pragma once

#include <heed/engine/cuda/decode_cut.cuh>
#include <heed/view/cache_view.hpp>

namespace heed {

template <class M, class E>
struct tensor_decode_arguments {
    using row_type = typename decltype(M::normalizer)::template row<float>;
    M m;
    device_rows<E const> q;
    device_rows<E> out;
    device_rows<float> lse;
    double lse_unit;
    cache_kind kind;
    E const *k, *v;
    strides k_step, v_step;
    int k_rows, row_bits; // of an entry; 2^row_bits, or row_bits is -1
    block_table table;
    int batch, group, queries, width, dv; // group: heads of a key head
    int rows_of_head, blocks_of_rows, units, blocks, share; // share: pieces of a block
    int team_bits;                                          // a team is 2^team_bits warps
    bool q_pairs;                                           // two features of a query may be read at once
    unsigned of_queries;                                    // 2^32 / queries, rounded up: number / queries without a division
    row_type* states; // [2 a block][row]
    float* sums;      // [2 a block][row][dv, a multiple of 4]
    int* ended;       // [block that begins a unit]: blocks that have ended theirs
    decode_lengths lengths;

    HEED_HD int padded() const { return (dv + 3) / 4 * 4; }
    HEED_DEVICE int head_in_group(int number) const { return queries == 1 ? number : static_cast<int>(__umulhi(static_cast<unsigned>(number), of_queries)); }
};

// Shared memory once the keys of a block have been seen: it takes the place of the rings.
template <class Row>
struct tensor_decode_room {
    float* sums;   // [team][row][pitch]
    Row* states;   // [team][row]
    float* factor; // [row][part]
    int* last;     // does this block join the blocks of the unit?
    HEED_HD tensor_decode_room(arena& a, int rows, int teams, int parts, int pitch) {
        sums = a.take<float>(extent_t(teams) * rows * pitch);
        states = a.take<Row>(extent_t(teams) * rows);
        factor = a.take<float>(extent_t(rows) * (parts > teams ? parts : teams));
        last = a.take<int>(1);
    }
};

} // namespace heed
