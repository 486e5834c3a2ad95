// SPDX-License-Identifier: BSD-3-Clause
// The neighbourhood of a point on the sphere: keys within a great-circle distance, any two grids, longitudes wrap, the points of a pole count one by one.
// keep(i, j): the difference of longitudes of i and j on the common circle is at most the half-width of their rings. A tile is judged from the arcs of its
// rings, and packed to bits arc by arc: O(1) per key and ring of queries.
#pragma once

#include <heed/policy/pattern/bits.hpp>
#include <heed/view/ring_bands.hpp>
#include <heed/view/tensor_view.hpp>

#include <cstdint>

namespace heed {

namespace detail {

// An arc of a circle: `size` steps from `begin`, any integer.
struct arc {
    extent_t begin, size;
    HEED_HD constexpr extent_t from(extent_t x, extent_t circle) const {
        extent_t r = x - begin; // less than two turns away: no division
        while (r < 0) { r += circle; }
        while (r >= circle) { r -= circle; }
        return r;
    }
    HEED_HD constexpr bool contains(arc const& o, extent_t circle) const { return size + 1 >= circle || from(o.begin, circle) + o.size <= size; }
    HEED_HD constexpr bool meets(arc const& o, extent_t circle) const {
        extent_t const x = from(o.begin, circle);
        return x <= size || x + o.size >= circle;
    }
};

} // namespace detail

struct sphere_neighbourhood {
    ring_bands bands;

    HEED_HD ring_bands const& rings() const { return bands; } // the whole rule: engines may walk arcs
    HEED_HD bool keep(place const&, extent_t i, extent_t j) const {
        extent_t const width = bands.half_width(i / bands.query_longitudes, j / bands.key_longitudes);
        extent_t d = j % bands.key_longitudes * bands.key_step - i % bands.query_longitudes * bands.query_step;
        d = d < 0 ? -d : d;
        return (d < bands.circle - d ? d : bands.circle - d) <= width;
    }
    HEED_HD range hull(place const&, range rows) const {
        extent_t const top = (rows.begin < rows.end ? rows.end - 1 : rows.begin) / bands.query_longitudes;
        extent_t first = bands.key_rings, last = 0;
        for (extent_t a = rows.begin / bands.query_longitudes; a <= top; ++a) {
            first = bands.first_ring(a) < first ? bands.first_ring(a) : first;
            last = bands.end_ring(a) > last ? bands.end_ring(a) : last;
        }
        return {first * bands.key_longitudes, last * bands.key_longitudes};
    }
    HEED_HD tile classify(place const&, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        bool any = false, all = true;
        for (extent_t a = rows.begin / bands.query_longitudes; a * bands.query_longitudes < rows.end; ++a) {
            range const m = on_ring(rows, a, bands.query_longitudes);
            for (extent_t c = cols.begin / bands.key_longitudes; c * bands.key_longitudes < cols.end; ++c) {
                range const k = on_ring(cols, c, bands.key_longitudes);
                extent_t const width = bands.half_width(a, c), spread = (m.size() - 1) * bands.query_step;
                detail::arc const keys{k.begin * bands.key_step, (k.size() - 1) * bands.key_step};
                bool const whole = width >= 0 && bands.whole(width);
                any = any || whole || (width >= 0 && detail::arc{m.begin * bands.query_step - width, spread + 2 * width}.meets(keys, bands.circle));
                all = all && (whole || (2 * width >= spread && width >= 0 && detail::arc{m.begin * bands.query_step + spread - width, 2 * width - spread}.contains(keys, bands.circle)));
                if (any && !all) { return tile::partial; }
            }
        }
        return !any ? tile::skip : all ? tile::full : tile::partial;
    }
    HEED_HD void pack(place const&, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = 0; j < cols.size(); ++j) { words[j] = 0; }
        for (extent_t c = cols.begin / bands.key_longitudes; c * bands.key_longitudes < cols.end; ++c) {
            range const k = on_ring(cols, c, bands.key_longitudes);
            std::uint64_t* const of_ring = words + (c * bands.key_longitudes - cols.begin);
            for (extent_t a = rows.begin / bands.query_longitudes; a * bands.query_longitudes < rows.end; ++a) {
                extent_t const width = bands.half_width(a, c), bit = a * bands.query_longitudes - rows.begin; // of longitude 0, may lie outside
                if (width < 0) { continue; }
                range const m = on_ring(rows, a, bands.query_longitudes);
                if (bands.whole(width)) {
                    for (extent_t j = k.begin; j < k.end; ++j) { of_ring[j] |= detail::low_bits(m.size()) << (bit + m.begin); }
                } else if (bands.query_step == 1) {
                    pack_arcs(m, k, width, bit, of_ring, [](extent_t x) { return x; });
                } else {
                    pack_arcs(m, k, width, bit, of_ring, [by = bands.query_step](extent_t x) { return detail::floor_div(x, by); });
                }
            }
        }
    }
    // No data of the call's size: the numbers of points are what is checked.
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("points of the sphere grids (queries by keys)", tensor_view<std::int32_t const>(bands.half, {1, 1, bands.queries(), bands.keys()}, strides{}), shape{1, 1, n.queries, n.keys}, exactly);
    }

private:
    // Keys k of a ring against queries m of another: key j is seen from the longitudes within `width` of it, and one turn on either side.
    template <class Down>
    HEED_HD void pack_arcs(range m, range k, extent_t width, extent_t bit, std::uint64_t* words, Down const& steps) const {
        extent_t const turn = bands.query_longitudes;
        for (extent_t j = k.begin; j < k.end; ++j) {
            extent_t const centre = j * bands.key_step, least = -steps(width - centre), most = steps(centre + width) + 1;
            for (extent_t by = most > turn ? -turn : 0; by <= (least < 0 ? turn : 0); by += turn) {
                range const seen = intersect(m, {least + by, most + by});
                if (seen.size() > 0) { words[j] |= detail::low_bits(seen.size()) << (bit + seen.begin); }
            }
        }
    }
    // The longitudes of ring a that lie in `points`.
    HEED_HD static range on_ring(range points, extent_t a, extent_t longitudes) {
        return intersect({points.begin - a * longitudes, points.end - a * longitudes}, {0, longitudes});
    }
};

} // namespace heed
