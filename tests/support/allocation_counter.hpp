// SPDX-License-Identifier: BSD-3-Clause
// Counts calls of operator new in this binary while a scope lives (allocation_counter.cpp replaces the operator).
#pragma once

#include <cstddef>

namespace heed_test {

class allocation_scope {
    std::size_t calls_before_, bytes_before_, frees_before_;

public:
    allocation_scope();
    std::size_t calls() const; // operator new since the scope began, in all threads
    std::size_t bytes() const; // asked for by those calls
    std::size_t frees() const; // operator delete of something since then
};

} // namespace heed_test
