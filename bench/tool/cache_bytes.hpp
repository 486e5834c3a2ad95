// SPDX-License-Identifier: BSD-3-Clause
// `heed list --caches`: what a token costs in each kind of cache.
#pragma once

#include <iosfwd>

namespace heed::tool {

// A table in Markdown, of caches made and asked for their size.
void print_caches(std::ostream& out);

} // namespace heed::tool
