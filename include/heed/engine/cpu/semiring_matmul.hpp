// SPDX-License-Identifier: BSD-3-Clause
// Matrix products over a semiring on the CPU: c[i][j] = reduce over t of combine(a[i][t], b[t][j]), from the micro-kernel of the scores.
//
// An item is a chunk of rows by a group of columns. Depth is cut into blocks: of each the columns are packed as panels of one register block's width,
// then strips of rows pass by, and the strip's sums join c. What an item does depends on the sizes alone.
#pragma once

#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/skipped_nan.hpp>
#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/policy/concepts.hpp>

#include <limits>
#include <string_view>

namespace heed {

template <class R, class T, class A>
struct semiring_matmul_engine {
    static constexpr std::string_view name = "cpu.semiring_matmul";
    static constexpr tile_config C = default_tiles<T, A>();
    using V = vec<T, A>;
    using contract = contract_tile<R, T, A, C>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = contract::pitch;
    static constexpr extent_t depth = extent_t(24576) / (pitch * extent_t(sizeof(T))); // a panel stays in the first cache
    static constexpr extent_t panels = 8, strip = C.keys, chunk = 8 * strip;

    struct problem {
        tensor_view<T const> a, b; // (B or 1, H or 1, n, k), (B or 1, H or 1, k, m)
        tensor_view<T> c;          // (B, H, n, m)
    };
    struct slot {
        T *panel, *a, *s, *peak, *odd;
        explicit slot(arena& memory)
            : panel(memory.template take<T>(panels * depth * pitch)), a(memory.template take<T>(strip * depth)), s(memory.template take<T>(strip * pitch)),
              peak(memory.template take<T>(pitch)), odd(memory.template take<T>(panels * pitch + chunk)) {}
    };
    static std::size_t slot_bytes() {
        arena count(nullptr);
        slot{count};
        return count.bytes();
    }
    static extent_t pieces(extent_t n, extent_t of) { return (n + of - 1) / of; }
    static extent_t items(shape c) { return c.batch * c.head * pieces(c.seq, chunk) * pieces(c.feature, panels * pitch); }

    template <class E>
    static void run(R const& ring, problem const& x, E& executor, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes();
        extent_t const columns = pieces(x.c.extent(3), panels * pitch), rows = pieces(x.c.extent(2), chunk);
        detail::for_each_item<A>(executor, slots, items(x.c.shape()), [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot const mine(memory);
            extent_t const g = item % columns, r = item / columns % rows, bh = item / columns / rows;
            one(ring, x, bh / x.c.extent(1), bh % x.c.extent(1), intersect({0, x.c.extent(2)}, {r * chunk, (r + 1) * chunk}),
                intersect({0, x.c.extent(3)}, {g * panels * pitch, (g + 1) * panels * pitch}), mine);
        });
    }

    // f(b, h, i, j, t): t is the first t whose a[i][t], b[t][j] make c[i][j], -1 if none is a number. Row by row, on the calling thread; vectors along
    // columns, which are packed a panel at a time in panel: [k][pitch].
    template <class F>
    static void each_winner(shape c, tensor_view<T const> const& a, tensor_view<T const> const& b, T* panel, F const& f) {
        extent_t const k = a.extent(3);
        for (extent_t bh = 0; bh < c.batch * c.head; ++bh) {
            extent_t const ib = bh / c.head, h = bh % c.head;
            for (extent_t j0 = 0; j0 < c.feature; j0 += pitch) {
                extent_t const width = c.feature - j0 < pitch ? c.feature - j0 : pitch;
                pack(matrix(b, ib, h) + j0 * b.stride(3), b.stride(2), b.stride(3), k, width, panel);
                for (extent_t i = 0; i < c.seq; ++i) {
                    T const* const row = matrix(a, ib, h) + i * a.stride(2);
                    V best[C.vecs], at[C.vecs];
                    static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA { best[w] = R::template zero<V>(), at[w] = V(-1); });
                    for (extent_t t = 0; t < k; ++t) {
                        V const y(row[t * a.stride(3)]), now(t);
                        static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA {
                            V const x = R::combine(y, V::load(panel + t * pitch + w * lanes));
                            auto const wins = R::better(x, best[w]);
                            best[w] = select(wins, x, best[w]);
                            at[w] = select(wins, now, at[w]);
                        });
                    }
                    T found[C.vecs * lanes];
                    static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA { at[w].store(found + w * lanes); });
                    for (extent_t j = 0; j < width; ++j) { f(ib, h, i, j0 + j, static_cast<extent_t>(found[j])); }
                }
            }
        }
    }

private:
    static T const* matrix(tensor_view<T const> const& x, extent_t b, extent_t h) { return x.row(x.extent(0) == 1 ? 0 : b, x.extent(1) == 1 ? 0 : h, 0); }

    static void one(R const& ring, problem const& x, extent_t b, extent_t h, range rows, range cols, slot const& mem) {
        T const* const ma = matrix(x.a, b, h);
        T const* const mb = matrix(x.b, b, h);
        extent_t const k = x.a.extent(3);
        T* const odd_row = mem.odd + panels * pitch; // NaN where the ring would skip one: of a row of a, of a column of b
        for (extent_t i = 0; i < panels * pitch + chunk; ++i) { mem.odd[i] = T(0); }
        for (extent_t t = 0; t < k || t == 0; t += depth) {
            extent_t const count = k - t < depth ? k - t : depth;
            for (extent_t p = 0; p * pitch < cols.size(); ++p) {
                pack(mb + t * x.b.stride(2) + (cols.begin + p * pitch) * x.b.stride(3), x.b.stride(2), x.b.stride(3), count, columns_of(cols, p), mem.panel + p * depth * pitch);
                if constexpr (detail::skips_nan<R>) { note_columns(mem.panel + p * depth * pitch, count, mem.odd + p * pitch); }
            }
            for (extent_t i = rows.begin; i < rows.end; i += strip) {
                extent_t const n = rows.end - i < strip ? rows.end - i : extent_t(strip);
                typename contract::rows a{ma + i * x.a.stride(2) + t * x.a.stride(3), x.a.stride(2)};
                pack_rows<A>(a.data, a.stride, x.a.stride(3), n, count, mem.a, depth); // rows a power of two apart share cache sets
                a = {mem.a, depth};
                if constexpr (detail::skips_nan<R>) {
                    for (extent_t r = 0; r < n; ++r) { odd_row[i - rows.begin + r] += nan_in_row<A>(a.at(r), count); }
                }
                for (extent_t p = 0; p * pitch < cols.size(); ++p) {
                    extent_t const width = columns_of(cols, p);
                    typename contract::rows const ahead = x.c.stride(3) == 1 ? typename contract::rows{&x.c(b, h, i, cols.begin + p * pitch), x.c.stride(2)} : a;
                    contract::run(a, n, ahead, mem.panel + p * depth * pitch, count, mem.s, mem.peak, 0, static_cast<int>((width + lanes - 1) / lanes), ring);
                    join(t == 0, mem.s, n, width, &x.c(b, h, i, cols.begin + p * pitch), x.c.stride(2), x.c.stride(3));
                }
            }
        }
        if constexpr (detail::skips_nan<R>) { put_nan_back(x, b, h, rows, cols, mem.odd, odd_row); }
    }
    static extent_t columns_of(range cols, extent_t p) { return cols.size() - p * pitch < pitch ? cols.size() - p * pitch : pitch; }

    // dst[t][j] = src[t][j], zeros behind the last column.
    static void pack(T const* src, extent_t row, extent_t column, extent_t count, extent_t width, T* dst) {
        if (column != 1) { return pack_transposed<A>(src, column, row, width, count, dst, pitch, pitch); }
        for (extent_t t = 0; t < count; ++t, src += row, dst += pitch) {
            if (width == pitch) {
                static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA { V::load(src + w * lanes).store(dst + w * lanes); });
            } else {
                for (extent_t j = 0; j < pitch; ++j) { dst[j] = j < width ? src[j] : T(0); }
            }
        }
    }
    // Sums of a strip into c, by rows of whole vectors where they lie so.
    static void join(bool first, T const* s, extent_t n, extent_t width, T* c, extent_t row, extent_t column) {
        for (extent_t i = 0; i < n; ++i, s += pitch, c += row) {
            extent_t j = 0;
            if (column == 1) {
                for (; j + lanes <= width; j += lanes) {
                    V const sum = V::load(s + j);
                    (first ? sum : R::reduce(V::load(c + j), sum)).store(c + j);
                }
            }
            for (; j < width; ++j) { c[j * column] = first ? s[j] : R::reduce(c[j * column], s[j]); }
        }
    }
    static void note_columns(T const* panel, extent_t count, T* odd) {
        static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA {
            V sum = V::load(odd + w * lanes);
            for (extent_t t = 0; t < count; ++t) { sum = sum + nan_of(V::load(panel + t * pitch + w * lanes)); }
            sum.store(odd + w * lanes);
        });
    }
    static void put_nan_back(problem const& x, extent_t b, extent_t h, range rows, range cols, T const* odd_col, T const* odd_row) {
        bool any = false;
        for (extent_t j = 0; j < cols.size(); ++j) { any = any || odd_col[j] != 0; }
        for (extent_t i = 0; i < rows.size(); ++i) {
            if (!any && odd_row[i] == 0) { continue; }
            for (extent_t j = 0; j < cols.size(); ++j) {
                T const odd = odd_row[i] + odd_col[j];
                if (odd != 0) { x.c(b, h, rows.begin + i, cols.begin + j) = odd; }
            }
        }
    }
};

} // namespace heed
