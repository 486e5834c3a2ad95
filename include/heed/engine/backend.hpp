// SPDX-License-Identifier: BSD-3-Clause
// Where a mechanism runs: a value. cpu{} is the calling thread, cpu{pool} the caller's threads, reference{} the scalar engine.
#pragma once

#include <heed/engine/cpu/parallel.hpp>

namespace heed {

template <class E = serial, class A = native_arch>
struct cpu {
    using arch_type = A;
    E executor;
};
cpu() -> cpu<serial, native_arch>;
template <class E>
cpu(E) -> cpu<E, native_arch>;

// Element by element, obvious and slow, for any mechanism: to debug with.
template <class A = native_arch>
struct reference {
    using arch_type = A;
};
reference() -> reference<native_arch>;

namespace detail {
template <class B>
inline constexpr bool is_backend = false;
template <class E, class A>
inline constexpr bool is_backend<cpu<E, A>> = true;
template <class A>
inline constexpr bool is_backend<reference<A>> = true;
template <class B>
inline constexpr bool is_cpu = false;
template <class E, class A>
inline constexpr bool is_cpu<cpu<E, A>> = true;
} // namespace detail

} // namespace heed
