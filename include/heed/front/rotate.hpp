// SPDX-License-Identifier: BSD-3-Clause
// rotate: rotary embedding in place, once, of any view: q and k before a call, new keys when a cache takes them.
#pragma once

#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/policy/load/rotary.hpp>
#include <heed/view/adapt.hpp>

namespace heed {

// Turns pairs of features of x (B, H, N, d) of any element type and strides; row n is at position offset + n, or where `positions` says. The
// angles of a row serve all its heads. Options: a backend (default: the calling thread). Throws shape_error before anything is written.
template <class A = native_arch, class X, class P, class F, class... Options>
void rotate(X&& tensor, rotary<P, F> const& how, Options const&... options) {
    static_assert((detail::is_cpu<Options> && ...) && sizeof...(Options) <= 1, "heed: the option of rotate is a backend, heed::cpu{...}");
    auto const x = as_view(tensor);
    using T = typename decltype(x)::element_type;
    static_assert(!std::is_const_v<T>, "heed: rotate writes its tensor; it must not be a view of const");
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using Arch = typename decltype(backend)::arch_type;
    using door = detail::door<Arch>;

    detail::argument const args[] = {detail::argument::of("x", x)};
    door::check_axes(args, 1, nullptr, 0);
    door::check_outputs(args, 1);
    if (how.width < 0 || how.width % 2 != 0 || how.width > x.extent(3)) {
        door::refuse(sentence<Arch>("heed: rotary width is ", how.width, " and x has ", x.extent(3), " features; it must be even, not negative and at most x.feature"));
    }
    call_sizes const sizes{x.extent(0), x.extent(1), x.extent(2), x.extent(2), x.extent(3)};
    how.views(sizes, x.extent(2), [&](char const* name, auto const& view, shape want) {
        door::check_view(name, view.shape(), want, false);
        door::check_apart(args[0], detail::argument::of(name, view));
    });
    if (args[0].empty()) { return; }

    constexpr extent_t rows = 32; // of an item
    extent_t const blocks = (x.extent(2) + rows - 1) / rows, items = blocks * x.extent(0);
    int const most = detail::concurrency_of(backend.executor), slots = items < most ? static_cast<int>(items) : most;
    detail::for_each_item<Arch>(backend.executor, slots, items, [&](extent_t item, int) noexcept {
        extent_t const b = item / blocks, n = item % blocks * rows, length = x.length(b);
        place const at{b, 0, 0, length, length, x.extent(3)};
        how.template turn_rows<Arch, T>(operand{at, 0, 0}, intersect({n, n + rows}, {0, length}), x.extent(3), x.extent(1), x.stride(3), 1.0, [&](extent_t h, extent_t r) { return x.row(b, h, r); });
    });
}

} // namespace heed
