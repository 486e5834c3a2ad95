// SPDX-License-Identifier: BSD-3-Clause
// How fast memory can be read and nothing else: the best of several software-prefetch distances, over copies that
// together are larger than the last-level cache and are read in turn.
#include "limit.hpp"

#include "operands.hpp"
#include "stopwatch.hpp"
#include "team.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include <unistd.h>

namespace heed::bench {

namespace {

#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t vector_bytes = 32;
#else
constexpr std::size_t vector_bytes = 16;
#endif

typedef std::uint64_t word_vector __attribute__((vector_size(vector_bytes)));

constexpr std::size_t line = 64, unroll = 8, block = unroll * line; // bytes

std::size_t last_cache_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
    if (long const reported = sysconf(_SC_LEVEL3_CACHE_SIZE); reported > 0) return static_cast<std::size_t>(reported);
#endif
    return std::size_t{32} << 20;
}

template <std::size_t Distance, std::size_t... I>
[[gnu::noinline]] std::uint64_t read(std::byte const* data, std::size_t bytes, std::index_sequence<I...>) {
    word_vector acc[] = {(word_vector{} + I)...};
    for (std::size_t at = 0; at < bytes; at += block) {
        if constexpr (Distance != 0) (__builtin_prefetch(data + at + Distance + I * line), ...);
        for (std::size_t part = 0; part < line; part += vector_bytes)
            ((acc[I] += *reinterpret_cast<word_vector const*>(data + at + I * line + part)), ...);
    }
    return (acc[I][0] + ...);
}

using reader = std::uint64_t (*)(std::byte const*, std::size_t, std::index_sequence<0, 1, 2, 3, 4, 5, 6, 7>);
constexpr std::array<reader, 7> readers{&read<0>, &read<512>, &read<1024>, &read<2048>, &read<4096>, &read<8192>, &read<16384>};

class copies {
public:
    explicit copies(int threads)
        : threads_(static_cast<std::size_t>(threads)),
          bytes_(round_down(beyond_caches() / count)) {}

    std::size_t bytes() const { return bytes_; }

    std::string prepare() {
        data_.allocate(count * bytes_);
        std::memset(data_.data(), 1, count * bytes_);
        double best = std::numeric_limits<double>::infinity();
        for (auto candidate : readers)
            for (int repetition = 0; repetition < 3; ++repetition) {
                auto const seconds = time_of([&] { run(candidate); }, static_cast<int>(threads_));
                if (seconds < best) best = seconds, reader_ = candidate;
            }
        return std::to_string(count) + " copies of " + std::to_string(bytes_ >> 20) + " MiB in turn";
    }

    void run() { run(reader_); }

private:
    static constexpr std::size_t count = 4;

    std::size_t round_down(std::size_t bytes) const { return bytes / (block * threads_) * (block * threads_); }

    void run(reader chosen) {
        auto const* const copy = data_.data() + next_ * bytes_;
        next_ = (next_ + 1) % count;
        auto const slice = bytes_ / threads_;
        on_team(static_cast<int>(threads_), [=](int thread) {
            [[maybe_unused]] std::uint64_t volatile sum =
                chosen(copy + static_cast<std::size_t>(thread) * slice, slice, std::make_index_sequence<unroll>{});
        });
    }

    std::size_t threads_, bytes_, next_ = 0;
    raw_memory data_;
    reader reader_ = readers.front();
};

} // namespace

std::size_t beyond_caches() { return std::clamp(2 * last_cache_bytes(), std::size_t{256} << 20, std::size_t{1} << 30); }

timed_case read_case(int threads) {
    auto const source = std::make_shared<copies>(threads);
    timed_case c;
    c.name = limit_name("read", threads);
    c.threads = threads;
    c.bytes = static_cast<double>(source->bytes());
    c.prepare = [source] { return source->prepare(); };
    c.run = [source] { source->run(); };
    return c;
}

} // namespace heed::bench
