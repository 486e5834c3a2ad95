// SPDX-License-Identifier: BSD-3-Clause
// A directed graph as attention sees it: the edges into every target, in compressed rows; two node sets (bipartite) or one. Slot s of a row holds the source of
// an edge and the edge's number, which is its row in edge data. The same edges listed by source serve backward. Repeated edges count as often as they stand.
#pragma once

#include <heed/view/error.hpp>

#include <span>
#include <vector>

namespace heed {

// The checked view that mechanisms hold: trivially copyable. Lists are validated here, once.
class edge_list {
    std::int64_t const* offsets_ = nullptr;                     // [targets + 1]
    std::int32_t const *source_ = nullptr, *number_ = nullptr;  // [edges] by slot
    std::int64_t const* out_offsets_ = nullptr;                 // [sources + 1], or null
    std::int32_t const *out_slot_ = nullptr, *out_target_ = nullptr;
    extent_t targets_ = 0, sources_ = 0, edges_ = 0;
    friend class graph; // whose lists are right as they are made

    HEED_INLINE static void check_offsets(char const* name, std::span<std::int64_t const> o, std::size_t edges) {
        if (o.empty() || o[0] != 0) { HEED_THROW(shape_error(sentence("heed: ", name, " begin with ", o.empty() ? -1 : o[0], " at position 0; the first must be 0"))); }
        for (std::size_t i = 1; i < o.size(); ++i) {
            if (o[i] < o[i - 1]) { HEED_THROW(shape_error(sentence("heed: ", name, " fall from ", o[i - 1], " to ", o[i], " at position ", i, "; they must not decrease"))); }
        }
        if (o.back() != static_cast<std::int64_t>(edges)) { HEED_THROW(shape_error(sentence("heed: ", name, " end with ", o.back(), " and the graph has ", edges, " edges; the last must be their number"))); }
    }
    HEED_INLINE static void check_range(char const* name, std::span<std::int32_t const> x, extent_t end, std::size_t edges) {
        if (x.size() != edges) { HEED_THROW(shape_error(sentence("heed: ", x.size(), " ", name, " for ", edges, " edges; one per edge"))); }
        for (std::size_t i = 0; i < x.size(); ++i) {
            if (x[i] < 0 || x[i] >= end) { HEED_THROW(shape_error(sentence("heed: ", name, " hold ", x[i], " at position ", i, "; they lie in [0, ", end, ")"))); }
        }
    }

public:
    constexpr edge_list() = default;
    // offsets[targets + 1]; source and number per slot; numbers may be empty: then a slot is its own number.
    HEED_INLINE edge_list(std::span<std::int64_t const> offsets, std::span<std::int32_t const> source, std::span<std::int32_t const> number, extent_t sources)
        : offsets_(offsets.data()), source_(source.data()), number_(number.empty() ? nullptr : number.data()), targets_(static_cast<extent_t>(offsets.size()) - 1), sources_(sources),
          edges_(static_cast<extent_t>(source.size())) {
        check_offsets("edge offsets", offsets, source.size());
        check_range("edge sources", source, sources, source.size());
        if (number.empty()) { return; }
        check_range("edge numbers", number, edges_, source.size());
        std::vector<bool> seen(number.size());
        for (std::size_t s = 0; s < number.size(); ++s) {
            auto const at = static_cast<std::size_t>(number[s]);
            if (seen[at]) { HEED_THROW(shape_error(sentence("heed: edge numbers hold ", number[s], " at position ", s, " for the second time; every edge has its own"))); }
            seen[at] = true;
        }
    }
    // The same edges by source, for backward: slots of the edges out of each source, rising, and their targets.
    HEED_INLINE edge_list by_source(std::span<std::int64_t const> offsets, std::span<std::int32_t const> slot, std::span<std::int32_t const> target) const {
        if (static_cast<extent_t>(offsets.size()) != sources_ + 1) { HEED_THROW(shape_error(sentence("heed: ", offsets.size(), " edge offsets by source for ", sources_, " sources; one more than the sources"))); }
        std::size_t const edges = static_cast<std::size_t>(edges_);
        check_offsets("edge offsets by source", offsets, edges);
        check_range("slots by source", slot, edges_, edges);
        check_range("edge targets", target, targets_, edges);
        for (extent_t j = 0; j < sources_; ++j) {
            for (auto s = offsets[static_cast<std::size_t>(j)]; s < offsets[static_cast<std::size_t>(j) + 1]; ++s) {
                std::size_t const at = static_cast<std::size_t>(s);
                bool const rising = s == offsets[static_cast<std::size_t>(j)] || slot[at] > slot[at - 1];
                if (!rising || source_[slot[at]] != j || slot[at] < offsets_[target[at]] || slot[at] >= offsets_[target[at] + 1]) {
                    HEED_THROW(shape_error(sentence("heed: slots by source hold ", slot[at], " at position ", s, "; it is not the next edge from source ", j, " to target ", target[at])));
                }
            }
        }
        edge_list e = *this;
        e.out_offsets_ = offsets.data();
        e.out_slot_ = slot.data();
        e.out_target_ = target.data();
        return e;
    }

    HEED_HD constexpr extent_t targets() const { return targets_; }
    HEED_HD constexpr extent_t sources() const { return sources_; }
    HEED_HD constexpr extent_t edges() const { return edges_; }
    HEED_HD constexpr bool has_sources() const { return out_offsets_ != nullptr; }
    HEED_HD extent_t begin(extent_t target) const { return offsets_[target]; }
    HEED_HD extent_t end(extent_t target) const { return offsets_[target + 1]; }
    HEED_HD extent_t source(extent_t slot) const { return source_[slot]; }
    HEED_HD extent_t number(extent_t slot) const { return number_ == nullptr ? slot : number_[slot]; }
    HEED_HD extent_t out_begin(extent_t source) const { return out_offsets_[source]; }
    HEED_HD extent_t out_end(extent_t source) const { return out_offsets_[source + 1]; }
    HEED_HD extent_t out_slot(extent_t at) const { return out_slot_[at]; }
    HEED_HD extent_t out_target(extent_t at) const { return out_target_[at]; }
};

// as_given: the edges of the list. one_each: edges from a node to itself are taken out, then every node gets one, numbered after the others.
enum class self_loops { as_given, one_each };

// Owns the lists, made from pairs (source, target) in any order. Edge numbers are the order of the pairs that are kept, then of the added loops.
class graph {
    std::vector<std::int64_t> offsets_, out_offsets_;
    std::vector<std::int32_t> source_, number_, out_slot_, out_target_, origin_;
    extent_t sources_ = 0;

public:
    HEED_INLINE graph(std::span<std::int32_t const> source, std::span<std::int32_t const> target, extent_t sources, extent_t targets, self_loops loops = self_loops::as_given) : sources_(sources) {
        if (source.size() != target.size()) { HEED_THROW(shape_error(sentence("heed: ", source.size(), " edge sources and ", target.size(), " edge targets; one of each per edge"))); }
        if (sources < 0 || targets < 0 || sources > (extent_t(1) << 30) || targets > (extent_t(1) << 30) || source.size() >= (std::size_t(1) << 31) - (std::size_t(1) << 30)) {
            HEED_THROW(shape_error(sentence("heed: a graph of ", sources, " sources, ", targets, " targets and ", source.size(), " edges; at most 2^30 of each")));
        }
        if (loops == self_loops::one_each && sources != targets) { HEED_THROW(shape_error(sentence("heed: self loops of a graph with ", sources, " sources and ", targets, " targets; they need one node set"))); }
        std::vector<std::int32_t> from, to;
        for (std::size_t e = 0; e < source.size(); ++e) {
            if (source[e] < 0 || source[e] >= sources || target[e] < 0 || target[e] >= targets) {
                HEED_THROW(shape_error(sentence("heed: the edge at position ", e, " goes from ", source[e], " to ", target[e], "; sources lie in [0, ", sources, "), targets in [0, ", targets, ")")));
            }
            if (loops == self_loops::one_each && source[e] == target[e]) { continue; }
            from.push_back(source[e]);
            to.push_back(target[e]);
            origin_.push_back(static_cast<std::int32_t>(e));
        }
        for (extent_t n = 0; loops == self_loops::one_each && n < targets; ++n) {
            from.push_back(static_cast<std::int32_t>(n));
            to.push_back(static_cast<std::int32_t>(n));
            origin_.push_back(-1);
        }
        // counting sort by target, then by source: stable, so that slots of a row rise with the edges' numbers
        std::size_t const edges = from.size();
        auto const sorted = [](std::vector<std::int32_t> const& key, extent_t keys, std::vector<std::int64_t>& offsets) {
            offsets.assign(static_cast<std::size_t>(keys) + 1, 0);
            for (std::int32_t const k : key) { ++offsets[static_cast<std::size_t>(k) + 1]; }
            for (std::size_t i = 1; i < offsets.size(); ++i) { offsets[i] += offsets[i - 1]; }
            std::vector<std::int64_t> next(offsets.begin(), offsets.end() - 1);
            std::vector<std::int32_t> order(key.size());
            for (std::size_t e = 0; e < key.size(); ++e) { order[static_cast<std::size_t>(next[static_cast<std::size_t>(key[e])]++)] = static_cast<std::int32_t>(e); }
            return order;
        };
        number_ = sorted(to, targets, offsets_);
        source_.resize(edges);
        std::vector<std::int32_t> target_of_slot(edges);
        for (std::size_t s = 0; s < edges; ++s) {
            source_[s] = from[static_cast<std::size_t>(number_[s])];
            target_of_slot[s] = to[static_cast<std::size_t>(number_[s])];
        }
        out_slot_ = sorted(source_, sources, out_offsets_);
        out_target_.resize(edges);
        for (std::size_t x = 0; x < edges; ++x) { out_target_[x] = target_of_slot[static_cast<std::size_t>(out_slot_[x])]; }
    }

    // Valid as long as this object is.
    HEED_INLINE edge_list edges() const {
        edge_list e;
        e.offsets_ = offsets_.data();
        e.source_ = source_.data();
        e.number_ = number_.data();
        e.out_offsets_ = out_offsets_.data();
        e.out_slot_ = out_slot_.data();
        e.out_target_ = out_target_.data();
        e.targets_ = static_cast<extent_t>(offsets_.size()) - 1;
        e.sources_ = sources_;
        e.edges_ = size();
        return e;
    }
    HEED_INLINE extent_t size() const { return static_cast<extent_t>(source_.size()); }
    // The place of edge `number` in the list it was made from, -1 for an added loop.
    HEED_INLINE extent_t origin(extent_t number) const { return origin_[static_cast<std::size_t>(number)]; }
};

} // namespace heed
