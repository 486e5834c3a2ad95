// SPDX-License-Identifier: BSD-3-Clause
#include "operands.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace heed::bench {

std::uint64_t random_word(std::uint64_t seed, std::uint64_t index) { // splitmix64
    std::uint64_t x = seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

namespace {

template <class Element>
void box_muller(std::span<Element> values, std::uint64_t seed, std::uint64_t stream) {
    using T = compute_t<Element>;
    auto const key = random_word(seed, stream);
    for (std::size_t i = 0; i < values.size(); i += 2) {
        auto const word = random_word(key, i / 2);
        auto const radius = std::sqrt(T(-2) * std::log((static_cast<T>(word >> 32) + T(1)) * T(0x1p-32)));
        auto const angle = static_cast<T>(word & 0xffffffffu) * T(0x1p-31) * std::numbers::pi_v<T>;
        values[i] = static_cast<Element>(radius * std::cos(angle));
        if (i + 1 < values.size()) values[i + 1] = static_cast<Element>(radius * std::sin(angle));
    }
}

template <class T>
constexpr element element_of = std::is_same_v<T, float> ? element::f32 : std::is_same_v<T, double> ? element::f64 : std::is_same_v<T, bf16> ? element::bf16 : element::f16;

std::size_t count(auto... extents) { return (static_cast<std::size_t>(extents) * ...); }

} // namespace

void fill_normal(std::span<float> values, std::uint64_t seed, std::uint64_t stream) { box_muller(values, seed, stream); }
void fill_normal(std::span<double> values, std::uint64_t seed, std::uint64_t stream) { box_muller(values, seed, stream); }
void fill_normal(std::span<bf16> values, std::uint64_t seed, std::uint64_t stream) { box_muller(values, seed, stream); }
void fill_normal(std::span<fp16> values, std::uint64_t seed, std::uint64_t stream) { box_muller(values, seed, stream); }

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::size_t page = 4096; // the system takes whole pages
    auto const skipped = (page - reinterpret_cast<std::uintptr_t>(data) % page) % page;
    if (bytes >= raw_memory::huge_page) madvise(static_cast<std::byte*>(data) + skipped, (bytes - skipped) / page * page, MADV_HUGEPAGE);
#endif
}

void raw_memory::allocate(std::size_t bytes) {
    data_.reset(static_cast<std::byte*>(::operator new[](std::max<std::size_t>(bytes, 1), std::align_val_t{huge_page}, std::nothrow)));
    if (!data_) throw unsupported_error("no memory for " + std::to_string(bytes >> 20) + " MiB: choose smaller shapes");
    size_ = bytes;
    prefer_huge_pages(data_.get(), bytes);
}

void operand_store::reserve(problem const& p) {
    auto& elements = elements_[static_cast<int>(p.dtype)];
    auto const grow = [](std::size_t& have, std::size_t need) { have = std::max(have, need); };
    grow(elements[q], count(p.batch, p.heads, p.queries, p.dim));
    grow(elements[k], count(p.batch, p.kv_heads, p.keys, p.dim));
    grow(elements[v], count(p.batch, p.kv_heads, p.keys, p.dim_v));
    if (p.bias == bias_kind::row) grow(elements[bias], count(p.keys));
    if (p.bias == bias_kind::full) grow(elements[bias], count(p.heads, p.queries, p.keys));
    grow(out_bytes_, count(p.batch, p.heads, p.queries, p.dim_v) * bytes_of(p.dtype));
}

template <class T>
T* operand_store::filled(role r) {
    auto& memory = inputs_[static_cast<int>(element_of<T>)][r];
    auto const elements = elements_[static_cast<int>(element_of<T>)][r];
    if (memory.data() == nullptr) {
        memory.allocate(elements * sizeof(T));
        fill_normal(std::span(reinterpret_cast<T*>(memory.data()), elements), seed_, r);
    }
    return reinterpret_cast<T*>(memory.data());
}

std::int32_t const* operand_store::documents(std::int64_t length, std::int64_t documents) {
    auto& ids = documents_[{length, documents}];
    if (ids.empty())
        for (std::int64_t d = 0; d < documents; ++d)
            ids.resize(static_cast<std::size_t>(document_begin(d + 1, length, documents)), static_cast<std::int32_t>(d));
    return ids.data();
}

template <class T>
T const* operand_store::slopes(std::int64_t heads) {
    auto& memory = slopes_[{element_of<T>, heads}];
    auto* values = reinterpret_cast<T*>(memory.data());
    if (values == nullptr) {
        memory.allocate(static_cast<std::size_t>(heads) * sizeof(T));
        values = reinterpret_cast<T*>(memory.data());
        for (std::int64_t h = 0; h < heads; ++h) values[h] = std::exp2(T(-8) * static_cast<T>(h + 1) / static_cast<T>(heads));
    }
    return values;
}

template <class T>
operands<T> operand_store::of(problem const& p) {
    if (out_.data() == nullptr) out_.allocate(out_bytes_);
    operands<T> o;
    o.q = filled<T>(q);
    o.k = filled<T>(k);
    o.v = filled<T>(v);
    o.out = reinterpret_cast<T*>(out_.data());
    if (p.bias != bias_kind::none) o.bias = filled<T>(bias);
    if constexpr (!is_half<T>) {
        if (p.alibi) o.slopes = slopes<T>(p.heads);
    }
    if (p.mask == mask_kind::document) {
        o.query_documents = documents(p.queries, p.documents);
        o.key_documents = documents(p.keys, p.documents);
    }
    return o;
}

template operands<float> operand_store::of<float>(problem const&);
template operands<double> operand_store::of<double>(problem const&);
template operands<bf16> operand_store::of<bf16>(problem const&);
template operands<fp16> operand_store::of<fp16>(problem const&);

std::span<std::byte> operand_store::scratch(std::size_t bytes) {
    if (scratch_.data() == nullptr || scratch_.size() < bytes) scratch_.allocate(bytes);
    return {scratch_.data(), bytes};
}

} // namespace heed::bench
