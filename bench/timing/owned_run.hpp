// SPDX-License-Identifier: BSD-3-Clause
// A row whose memory is its own: filled when the row is prepared, given back when its group is done.
#pragma once

#include "pair_count.hpp"
#include "problem.hpp"
#include "timed_case.hpp"

#include <memory>
#include <string>
#include <utility>

namespace heed::bench {

struct owned_run {
    virtual ~owned_run() = default;
    virtual std::string prepare() = 0;
    virtual void run() = 0;
    virtual std::string verify() const = 0;
    virtual void release() = 0;
};

inline timed_case case_of(problem const& p, std::shared_ptr<owned_run> const& run, double bytes, std::string limit) {
    timed_case c;
    c.name = name_of(p);
    c.threads = p.threads;
    c.flops = flops(p);
    c.bytes = bytes;
    c.limit = std::move(limit);
    c.prepare = [run] { return run->prepare(); };
    c.run = [run] { run->run(); };
    c.release = [run] { run->release(); };
    c.verify = [run] { return run->verify(); };
    return c;
}

} // namespace heed::bench
