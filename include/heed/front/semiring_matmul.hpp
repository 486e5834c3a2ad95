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

template <class A, class T, class C>
void check_matmul(tensor_view<T const> const& a, tensor_view<T const> const& b, C const& c) {
    using door = detail::door<A>;
    argument const args[] = {argument::of("a", a), argument::of("b", b), argument::of("c", c)};
    door::check_axes(args, 3, matmul_rules);
    for (int i = 0; i < 2; ++i) {
        shape const have = args[i].extents;
        door::check_view(args[i].name, have, {c.extent(0), c.extent(1), have.seq, have.feature}, false);
    }
    for (auto const& x : args) {
        if (x.offsets) { door::refuse(sentence<A>("heed: ", x.name, " is ragged; semiring_matmul takes matrices of one size")); }
    }
    door::check_outputs(args, 3);
}
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
    detail::check_matmul<arch>(a, b, c);
    if (c.shape().size() == 0) { return; }
    using engine = semiring_matmul_engine<R, T, arch>;
    extent_t const items = engine::items(c.shape());
    int const most = detail::concurrency_of(backend.executor), slots = items < most ? static_cast<int>(items) : most;
    std::size_t const bytes = line_bytes - 1 + static_cast<std::size_t>(slots) * engine::slot_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    engine::run(ring, {a, b, c}, backend.executor, slots, memory.get());
}

// The index t of the first term that makes each element of a max-plus or min-plus product; -1 where none is a number. w: std::int32_t, shaped as c.
template <class A = native_arch, class R, class X, class Y>
void semiring_winners(R const&, X const& a_in, Y const& b_in, tensor_view<std::int32_t> w) {
    auto const a = as_view(a_in), b = as_view(b_in);
    using T = typename decltype(a)::value_type;
    static_assert(requires { R::better(T(0), T(0)); }, "heed: winners are of rings that pick one of their terms: max_plus, min_plus");
    using engine = semiring_matmul_engine<R, T, A>;
    detail::check_matmul<A, T>(a, b, w);
    std::unique_ptr<T[]> const panel(new T[static_cast<std::size_t>(a.extent(3) * engine::pitch) + 1]);
    engine::each_winner(w.shape(), a, b, panel.get(), [&](extent_t ib, extent_t h, extent_t i, extent_t j, extent_t t) { w(ib, h, i, j) = static_cast<std::int32_t>(t); });
}

// Sub-gradients of a max-plus or min-plus product: each dc goes to the a and b that made its c, ties to the lowest t. da, db: shaped as a and b (extents of 1
// sum over what they were broadcast to), written, not accumulated; a default-constructed view is not computed. On the calling thread.
template <class A = native_arch, class R, class X, class Y, class D, class T>
void semiring_matmul_backward(R const&, X const& a_in, Y const& b_in, D const& dc_in, tensor_view<T> da, tensor_view<T> db) {
    static_assert(requires { R::better(T(0), T(0)); }, "heed: backward is of rings that pick one of their terms: max_plus, min_plus");
    tensor_view<T const> const a = as_view(a_in), b = as_view(b_in), dc = as_view(dc_in);
    using door = detail::door<A>;
    using engine = semiring_matmul_engine<R, T, A>;
    detail::check_matmul<A, T>(a, b, dc);
    detail::argument const with[] = {detail::argument::of("a", a), detail::argument::of("b", b), detail::argument::of("dc", dc), detail::argument::of("da", da), detail::argument::of("db", db)};
    for (int i : {3, 4}) {
        if (with[i].address != 0) { door::check_same(with[i], with[i - 3]); }
    }
    door::check_outputs(with, 5);
    auto const clear = [](tensor_view<T> const& x) {
        if (x.data_handle() == nullptr) { return; }
        for (extent_t n = 0; n < x.shape().size(); ++n) {
            x(n / (x.extent(3) * x.extent(2) * x.extent(1)), n / (x.extent(3) * x.extent(2)) % x.extent(1), n / x.extent(3) % x.extent(2), n % x.extent(3)) = T(0);
        }
    };
    clear(da), clear(db);
    std::unique_ptr<T[]> const panel(new T[static_cast<std::size_t>(a.extent(3) * engine::pitch) + 1]);
    auto const of = [](tensor_view<T> const& x, extent_t ib, extent_t h, extent_t i, extent_t j) -> T& { return x(x.extent(0) == 1 ? 0 : ib, x.extent(1) == 1 ? 0 : h, i, j); };
    engine::each_winner(dc.shape(), a, b, panel.get(), [&](extent_t ib, extent_t h, extent_t i, extent_t j, extent_t t) {
        if (t < 0) { return; }
        if (da.data_handle() != nullptr) { of(da, ib, h, i, t) += dc(ib, h, i, j); }
        if (db.data_handle() != nullptr) { of(db, ib, h, t, j) += dc(ib, h, i, j); }
    });
}

} // namespace heed
