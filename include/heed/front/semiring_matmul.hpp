// SPDX-License-Identifier: BSD-3-Clause
// semiring_matmul(ring, a, b, c, options...): c[i][j] = reduce over t of combine(a[i][t], b[t][j]) for plus_times, max_plus, min_plus or a ring of one's own.
// max_plus and min_plus products are what shortest and longest paths, alignments and dynamic programs are made of.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/semiring_matmul.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/policy/ring/extremes.hpp>
#include <heed/policy/ring/plus_times.hpp>
#include <heed/view/adapt.hpp>

#include <memory>

namespace heed {

namespace detail {
inline constexpr axis_rule matmul_rules[] = {
    {1, axis::seq, rule_kind::equal, 0, axis::feature},
    {2, axis::seq, rule_kind::equal, 0, axis::seq},
    {2, axis::feature, rule_kind::equal, 1, axis::feature},
};
} // namespace detail

// a (B or 1, H or 1, n, k), b (B or 1, H or 1, k, m), c (B, H, n, m): float or double, any strides, any sizes; k = 0 gives the ring's zero. A NaN of a
// makes its row of c NaN, one of b its column. Options: a backend, heed::cpu{executor} (default: the calling thread). Bits do not depend on threads.
// Throws shape_error before anything is written. Makes one allocation and frees it.
template <class A = native_arch, class R, class X, class Y, class Z, class... Options>
void semiring_matmul(R const& ring, X const& a_in, Y const& b_in, Z&& c_in, Options const&... options) {
    static_assert(Ring<R>, "heed: a semiring needs zero<V>(), step(acc, a, b) and reduce(a, b), all of one value");
    static_assert((detail::is_backend<Options> && ...), "heed: the only option of semiring_matmul is a backend, heed::cpu{...}");
    auto const c = as_view(c_in);
    using T = typename decltype(c)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: semiring_matmul writes float or double, to a view that is not of const");
    static_assert(std::is_same_v<T, typename decltype(as_view(a_in))::value_type> && std::is_same_v<T, typename decltype(as_view(b_in))::value_type>,
                  "heed: a, b and c must have the same element type");
    tensor_view<T const> const a = as_view(a_in), b = as_view(b_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    static_assert(detail::is_cpu<decltype(backend)>, "heed: semiring_matmul runs on the cpu backend");
    using arch = typename decltype(backend)::arch_type;
    using door = detail::door<arch>;
    detail::argument const args[] = {detail::argument::of("a", a), detail::argument::of("b", b), detail::argument::of("c", c)};
    door::check_axes(args, 3, detail::matmul_rules, static_cast<int>(std::size(detail::matmul_rules)));
    for (int i = 0; i < 2; ++i) {
        shape const have = args[i].extents;
        door::check_view(args[i].name, have, {c.extent(0), c.extent(1), have.seq, have.feature}, false);
    }
    for (auto const& x : args) {
        if (x.offsets) { door::refuse(sentence<arch>("heed: ", x.name, " is ragged; semiring_matmul takes matrices of one size")); }
    }
    door::check_outputs(args, 3);
    if (c.shape().size() == 0) { return; }
    using engine = semiring_matmul_engine<R, T, arch>;
    extent_t const items = engine::items(c.shape());
    int const most = detail::concurrency_of(backend.executor), slots = items < most ? static_cast<int>(items) : most;
    std::size_t const bytes = line_bytes - 1 + static_cast<std::size_t>(slots) * engine::slot_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    engine::run(ring, {a, b, c}, backend.executor, slots, memory.get());
}

} // namespace heed
