// SPDX-License-Identifier: BSD-3-Clause
// The memory of all rows: random tensors, one output and one scratch area, as large as the largest problem needs.
// Rows run one at a time and share it, so that a run holds the memory of one problem and not of all.
#pragma once

#include "problem.hpp"

#include <heed/kernel/half.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace heed::bench {

template <class T>
struct operands { // row major, B H N D
    T const* q = nullptr;
    T const* k = nullptr;
    T const* v = nullptr;
    T* out = nullptr;
    T const* bias = nullptr;                       // row: [M]; full: [H, N, M]; null without bias
    T const* slopes = nullptr;                     // [H]; null without alibi
    std::int32_t const* query_documents = nullptr; // [N], [M]; null without documents
    std::int32_t const* key_documents = nullptr;
};

// Asks the system for large pages, as whoever keeps gigabytes of keys and values does; with them paged caches decode nearly as fast as contiguous ones.
void prefer_huge_pages(void* data, std::size_t bytes);

// Page-aligned memory without a constructor for its elements.
class raw_memory {
public:
    static constexpr std::size_t huge_page = std::size_t{2} << 20;

    void allocate(std::size_t bytes); // throws unsupported_error when the machine has not that much
    std::byte* data() const { return data_.get(); }
    std::size_t size() const { return size_; }

private:
    struct release {
        void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{huge_page}); }
    };
    std::unique_ptr<std::byte[], release> data_;
    std::size_t size_ = 0;
};

class operand_store {
public:
    explicit operand_store(std::uint64_t seed) : seed_(seed) {}

    void reserve(problem const& p); // for every problem, before the first of()
    template <class T>
    operands<T> of(problem const& p);                // standard normal q, k, v and bias
    std::span<std::byte> scratch(std::size_t bytes); // ask anew for every call: it moves when it grows
    std::uint64_t seed() const { return seed_; }

private:
    enum role { q, k, v, bias, roles };

    template <class T>
    T* filled(role r);
    std::int32_t const* documents(std::int64_t length, std::int64_t documents);
    template <class T>
    T const* slopes(std::int64_t heads);

    std::uint64_t seed_;
    std::size_t elements_[element_types][roles] = {}; // by dtype
    std::size_t out_bytes_ = 0;
    raw_memory inputs_[element_types][roles];
    raw_memory out_, scratch_;
    std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::int32_t>> documents_;
    std::map<std::pair<element, std::int64_t>, raw_memory> slopes_;
};

// count numbers of a standard normal distribution, the same for the same seed and stream; in 16 bits those of float, rounded.
void fill_normal(std::span<float> values, std::uint64_t seed, std::uint64_t stream);
void fill_normal(std::span<double> values, std::uint64_t seed, std::uint64_t stream);
void fill_normal(std::span<bf16> values, std::uint64_t seed, std::uint64_t stream);
void fill_normal(std::span<fp16> values, std::uint64_t seed, std::uint64_t stream);

std::uint64_t random_word(std::uint64_t seed, std::uint64_t index); // counter-based

} // namespace heed::bench
