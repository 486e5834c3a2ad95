// SPDX-License-Identifier: BSD-3-Clause
// A pattern chosen at run time: any_pattern refers to a pattern of any type, which must live as long. One engine then serves all patterns, packed to bits:
// for bindings, tools and tests that cannot have a compiled kernel per pattern. What it costs: element masks of plain bands are read from bits, not computed.
// On the host only.
#pragma once

#include <heed/policy/pattern/both.hpp>
#include <heed/view/tensor_view.hpp>

#include <cstdint>

namespace heed {

class any_pattern {
    using take_view = void (*)(void* sink, char const* name, void const* data, std::size_t element, shape s, strides st, shape want, bool exact);
    struct calls {
        bool (*keep)(void const*, place const&, extent_t, extent_t);
        tile (*classify)(void const*, place const&, range, range);
        range (*hull)(void const*, place const&, range);
        extent_t (*next)(void const*, place const&, range, extent_t);
        void (*pack)(void const*, place const&, range, range, std::uint64_t*);
        void (*views)(void const*, call_sizes const&, void* sink, take_view take);
    };
    template <class P>
    static constexpr calls calls_of{
        [](void const* p, place const& at, extent_t i, extent_t j) { return static_cast<bool>(static_cast<P const*>(p)->keep(at, i, j)); },
        [](void const* p, place const& at, range rows, range cols) { return static_cast<P const*>(p)->classify(at, rows, cols); },
        [](void const* p, place const& at, range rows) { return detail::hull_of(*static_cast<P const*>(p), at, rows); },
        [](void const* p, place const& at, range rows, extent_t from) { return detail::next_of(*static_cast<P const*>(p), at, rows, from); },
        [](void const* p, place const& at, range rows, range cols, std::uint64_t* words) { detail::pack_bits(*static_cast<P const*>(p), at, rows, cols, words); },
        [](void const* p, call_sizes const& n, void* sink, take_view take) {
            if constexpr (requires(P const x) { x.views(n, [](auto const&...) {}); }) {
                static_cast<P const*>(p)->views(n, [&](char const* name, auto const& view, shape want, auto... exact) {
                    take(sink, name, view.data_handle(), sizeof(*view.data_handle()), view.shape(), view.strides(), want, sizeof...(exact) > 0);
                });
            }
        },
    };

    void const* pattern_;
    calls const* calls_;

public:
    template <Pattern P>
        requires(!std::is_same_v<P, any_pattern>)
    explicit any_pattern(P const& p) : pattern_(&p), calls_(&calls_of<P>) {}
    template <Pattern P>
        requires(!std::is_same_v<P, any_pattern>)
    explicit any_pattern(P const&&) = delete;

    bool keep(place const& at, extent_t i, extent_t j) const { return calls_->keep(pattern_, at, i, j); }
    tile classify(place const& at, range rows, range cols) const { return calls_->classify(pattern_, at, rows, cols); }
    range hull(place const& at, range rows) const { return calls_->hull(pattern_, at, rows); }
    extent_t next(place const& at, range rows, extent_t from) const { return calls_->next(pattern_, at, rows, from); }
    void pack(place const& at, range rows, range cols, std::uint64_t* words) const { calls_->pack(pattern_, at, rows, cols, words); }
    template <class F>
    void views(call_sizes const& n, F&& f) const {
        calls_->views(pattern_, n, &f, [](void* sink, char const* name, void const* data, std::size_t element, shape s, strides st, shape want, bool exact) {
            auto& to = *static_cast<std::remove_reference_t<F>*>(sink);
            auto const give = [&](auto unit) {
                tensor_view<decltype(unit) const> const view(static_cast<decltype(unit) const*>(data), s, st);
                exact ? to(name, view, want, exactly) : to(name, view, want);
            };
            element == 1 ? give(std::uint8_t()) : element == 4 ? give(std::uint32_t()) : give(std::uint64_t());
        });
    }
};

} // namespace heed
