// SPDX-License-Identifier: BSD-3-Clause
// Features of random projections P (1, 1, r, d), rows side by side in memory; Choromanski et al., arXiv:2009.14794 (Performer):
//   relu_projection_map{P, e}     max(P x d^(-1/4), 0) + e
//   positive_random_map{P, e, s}  r^(-1/2) (exp(P x d^(-1/4) - |x|^2 / (2 sqrt d) - m) + e), whose products estimate exp(q.k / sqrt d) without a sign. m keeps the exponentials
//                                 in range: of a query the largest of P x d^(-1/4); of keys, with s = peak_of_keys{}, the largest of all keys of the head, which cancels in a quotient but for e and
//                                 has a gradient; with fixed_peak{m} a number that is known before the keys are, which steps need
//   draw_projection(seed, P)      rows of independent normal numbers, made orthogonal d at a time, of the lengths of other such rows (the paper's orthogonal features)
#pragma once

#include <heed/kernel/row_dots.hpp>
#include <heed/policy/feature/row_maps.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

namespace detail {

// y[i] = by P[first + i] . x, i < count
template <class A, class T>
HEED_INLINE void project_row(tensor_view<T const> const& p, extent_t first, extent_t count, T by, T const* x, extent_t d, T* y) {
    row_dots<A>(p.row(0, 0, first), p.stride(2), count, by, x, d, y);
}
template <class T>
HEED_HD T fourth_root_of_width(extent_t d) {
    return static_cast<T>(1 / math::sqrt(math::sqrt(static_cast<double>(d < 1 ? 1 : d))));
}
inline constexpr extent_t features_together = 64; // of a row's projections held at once where there is no row to hold all

} // namespace detail

template <class T>
struct relu_projection_map {
    tensor_view<T const> projection;
    double eps = 1e-3;

    HEED_HD extent_t width(extent_t) const { return projection.extent(2); }
    template <class A>
    void map(T const* x, extent_t d, T* y) const {
        extent_t const r = width(d);
        detail::project_row<A>(projection, 0, r, detail::fourth_root_of_width<T>(d), x, d, y);
        for (extent_t i = 0; i < r; ++i) { y[i] = (y[i] < T(0) ? T(0) : y[i]) + static_cast<T>(eps); }
    }
    template <class A>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        T const by = detail::fourth_root_of_width<T>(d);
        T some[detail::features_together];
        for (extent_t i = 0; i < d; ++i) { dx[i] = T(0); }
        for (extent_t first = 0; first < width(d); first += detail::features_together) {
            extent_t const left = width(d) - first, count = left < detail::features_together ? left : detail::features_together;
            detail::project_row<A>(projection, first, count, by, x, d, some);
            for (extent_t i = 0; i < count; ++i) {
                if (some[i] > T(0)) { detail::add_scaled<A>(projection.row(0, 0, first + i), by * dy[first + i], d, dx); }
            }
        }
    }
};
template <class T>
relu_projection_map(tensor_view<T>) -> relu_projection_map<std::remove_const_t<T>>;
template <class T>
relu_projection_map(tensor_view<T>, double) -> relu_projection_map<std::remove_const_t<T>>;

struct peak_of_keys {};
struct fixed_peak {
    double value = 0;
};

template <class T, class S = peak_of_keys>
struct positive_random_map {
    tensor_view<T const> projection;
    double eps = 1e-4;
    S shared = {};

    static constexpr bool keys_apart = true, looks_at_keys = std::is_same_v<S, peak_of_keys>;

    HEED_HD extent_t width(extent_t) const { return projection.extent(2); }
    template <class A>
    void map(T const* x, extent_t d, T* y) const {
        map_keys<A>(x, d, peak<A>(x, d, y), y);
    }
    template <class A>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        extent_t at;
        T const by = map_keys_back<A>(x, d, largest<A>(x, d, at), dy, dx);
        if (at >= 0) { detail::add_scaled<A>(projection.row(0, 0, at), by * detail::fourth_root_of_width<T>(d), d, dx); }
    }
    HEED_HD T known_peak() const {
        if constexpr (looks_at_keys) {
            return -math::inf<T>();
        } else {
            return static_cast<T>(shared.value);
        }
    }
    template <class A>
    T peak(T const* x, extent_t d, T* work) const {
        extent_t const r = width(d);
        detail::project_row<A>(projection, 0, r, detail::fourth_root_of_width<T>(d), x, d, work);
        T most = -math::inf<T>();
        for (extent_t i = 0; i < r; ++i) { most = work[i] > most ? work[i] : most; }
        return most;
    }
    template <class A>
    void map_keys(T const* x, extent_t d, T most, T* y) const {
        extent_t const r = width(d);
        factors const f(d, r);
        detail::project_row<A>(projection, 0, r, f.root, x, d, y);
        detail::exp_row<A>(y, T(1), most + f.square * detail::dot_rows<A>(x, x, d), r, y);
        T const floor = static_cast<T>(eps);
        for (extent_t i = 0; i < r; ++i) { y[i] = (y[i] + floor) * f.all; }
    }
    template <class A>
    T map_keys_back(T const* x, extent_t d, T most, T const* dy, T* dx) const {
        extent_t const r = width(d);
        factors const f(d, r);
        T const off = most + f.square * detail::dot_rows<A>(x, x, d);
        T some[detail::features_together], sum(0);
        for (extent_t i = 0; i < d; ++i) { dx[i] = T(0); }
        for (extent_t first = 0; first < r; first += detail::features_together) {
            extent_t const left = r - first, count = left < detail::features_together ? left : detail::features_together;
            detail::project_row<A>(projection, first, count, f.root, x, d, some);
            detail::exp_row<A>(some, T(1), off, count, some);
            for (extent_t i = 0; i < count; ++i) {
                T const g = some[i] * f.all * dy[first + i];
                sum += g;
                detail::add_scaled<A>(projection.row(0, 0, first + i), f.root * g, d, dx);
            }
        }
        detail::add_scaled<A>(x, T(-2) * f.square * sum, d, dx);
        return -sum;
    }
    template <class A>
    void peak_back(T const* x, extent_t d, T by, T* dx) const {
        extent_t at;
        largest<A>(x, d, at);
        for (extent_t i = 0; i < d; ++i) { dx[i] = at < 0 ? T(0) : projection.row(0, 0, at)[i] * (by * detail::fourth_root_of_width<T>(d)); }
    }

private:
    struct factors {
        T root, square, all; // d^(-1/4), 1 / (2 sqrt d), r^(-1/2)
        factors(extent_t d, extent_t r) : root(detail::fourth_root_of_width<T>(d)), square(root * root / 2), all(static_cast<T>(1 / math::sqrt(static_cast<double>(r < 1 ? 1 : r)))) {}
    };
    template <class A>
    T largest(T const* x, extent_t d, extent_t& at) const {
        T some[detail::features_together], most = -math::inf<T>();
        at = -1;
        for (extent_t first = 0; first < width(d); first += detail::features_together) {
            extent_t const left = width(d) - first, count = left < detail::features_together ? left : detail::features_together;
            detail::project_row<A>(projection, first, count, detail::fourth_root_of_width<T>(d), x, d, some);
            for (extent_t i = 0; i < count; ++i) {
                if (some[i] > most) { most = some[i], at = first + i; }
            }
        }
        return most;
    }
};
template <class T>
positive_random_map(tensor_view<T>) -> positive_random_map<std::remove_const_t<T>>;
template <class T>
positive_random_map(tensor_view<T>, double) -> positive_random_map<std::remove_const_t<T>>;
template <class T, class S>
positive_random_map(tensor_view<T>, double, S) -> positive_random_map<std::remove_const_t<T>, S>;

// The same numbers for the same seed on every machine, up to the rounding of its logarithm and cosine.
template <class T>
void draw_projection(std::uint64_t seed, tensor_view<T> const& p) {
    std::uint64_t state = seed;
    auto const uniform = [&] { // in (0, 1): splitmix64
        std::uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return (static_cast<double>((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
    };
    auto const normal = [&] { return math::sqrt(-2 * math::log(uniform())) * std::cos(6.283185307179586 * uniform()); };
    extent_t const d = p.extent(3);
    auto const along = [&](extent_t a, extent_t b) {
        double sum = 0;
        for (extent_t c = 0; c < d; ++c) { sum += static_cast<double>(p(0, 0, a, c)) * static_cast<double>(p(0, 0, b, c)); }
        return sum;
    };
    for (extent_t r = 0; r < p.extent(2); ++r) {
        double length = 0;
        for (extent_t c = 0; c < d; ++c) {
            p(0, 0, r, c) = static_cast<T>(normal());
            double const other = normal();
            length += other * other;
        }
        for (int pass = 0; pass < 2; ++pass) { // the second for what the first leaves
            for (extent_t s = r / d * d; s < r; ++s) {
                double const by = along(r, s) / along(s, s);
                for (extent_t c = 0; c < d; ++c) { p(0, 0, r, c) -= static_cast<T>(by * static_cast<double>(p(0, 0, s, c))); }
            }
        }
        double const by = math::sqrt(length / along(r, r));
        for (extent_t c = 0; c < d; ++c) { p(0, 0, r, c) = static_cast<T>(by * static_cast<double>(p(0, 0, r, c))); }
    }
}

} // namespace heed
