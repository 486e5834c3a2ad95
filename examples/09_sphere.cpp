// SPDX-License-Identifier: BSD-3-Clause
// 09: a field on the sphere, turned. Attention over neighbourhoods smooths a field (a bright cap and a band) as seen from every point of a coarser grid;
// turning the field about the axis turns the result by the same angle, a constant field stays, and the picture sphere.ppm shows it before and after.
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using heed::extent_t;

constexpr extent_t key_rings = 49, key_longitudes = 96, query_rings = 25, query_longitudes = 48;
constexpr double pi = 3.14159265358979323846;

// A cap around colatitude 60 degrees on the meridian `centre`, and a faint band around the equator.
std::vector<float> field(heed::sphere_grid const& g, double centre) {
    std::vector<float> x(static_cast<std::size_t>(g.points()));
    for (extent_t i = 0; i < g.points(); ++i) {
        double const a = g.colatitudes()[static_cast<std::size_t>(i / g.longitudes())], f = 2 * pi * static_cast<double>(i % g.longitudes()) / static_cast<double>(g.longitudes());
        double const near = std::cos(a) * std::cos(pi / 3) + std::sin(a) * std::sin(pi / 3) * std::cos(f - centre);
        x[static_cast<std::size_t>(i)] = static_cast<float>(std::exp(12 * (near - 1)) + 0.3 * std::exp(-20 * std::cos(a) * std::cos(a)));
    }
    return x;
}

// Both fields one above the other, blue to red, `scale` pixels a point.
bool write_picture(char const* path, std::vector<float> const& top, std::vector<float> const& bottom, int scale) {
    std::FILE* const file = std::fopen(path, "wb");
    if (file == nullptr) { return false; }
    int const width = static_cast<int>(query_longitudes) * scale, height = static_cast<int>(query_rings) * scale;
    std::fprintf(file, "P6\n%d %d\n255\n", width, 2 * height);
    for (int y = 0; y < 2 * height; ++y) {
        for (int x = 0; x < width; ++x) {
            auto const& from = y < height ? top : bottom;
            float const value = from[static_cast<std::size_t>(y % height / scale * static_cast<int>(query_longitudes) + x / scale)], c = value < 0 ? 0 : value > 1 ? 1 : value;
            unsigned char const pixel[] = {static_cast<unsigned char>(255 * c), static_cast<unsigned char>(120 * c * (1 - c) * 4), static_cast<unsigned char>(200 * (1 - c))};
            std::fwrite(pixel, 1, 3, file);
        }
    }
    return std::fclose(file) == 0;
}

int main() {
    heed::sphere_grid const keys(heed::latitudes::equiangular, key_rings, key_longitudes), queries(heed::latitudes::equiangular, query_rings, query_longitudes);
    heed::ring_neighbourhood const near(queries, keys, 12 * pi / 180);
    std::vector<float> weights(static_cast<std::size_t>(keys.points()));
    keys.point_weights(std::span<float>(weights));
    auto const m = heed::spherical_neighbourhood_attention(heed::tensor_view<float const>(weights.data(), {1, 1, keys.points(), 1}), near.bands());

    // Queries and keys are the field's own values: points attend most to those that are bright.
    auto const attend = [&](std::vector<float> const& of_keys, std::vector<float> const& of_queries) {
        std::vector<float> out(of_queries.size());
        heed::tensor_view<float const> const q(of_queries.data(), {1, 1, queries.points(), 1}), k(of_keys.data(), {1, 1, keys.points(), 1});
        heed::forward(m, q, k, k, heed::tensor_view<float>(out.data(), {1, 1, queries.points(), 1}));
        return out;
    };
    extent_t const steps = 10; // of the queries' longitudes
    double const turn = 2 * pi * static_cast<double>(steps) / static_cast<double>(query_longitudes);
    auto const still = attend(field(keys, 1), field(queries, 1)), turned = attend(field(keys, 1 + turn), field(queries, 1 + turn));
    double worst = 0, moved = 0;
    for (extent_t i = 0; i < queries.points(); ++i) {
        extent_t const from = i / query_longitudes * query_longitudes + (i % query_longitudes - steps + query_longitudes) % query_longitudes;
        worst = std::fmax(worst, std::fabs(static_cast<double>(turned[static_cast<std::size_t>(i)] - still[static_cast<std::size_t>(from)])));
        moved = std::fmax(moved, std::fabs(static_cast<double>(turned[static_cast<std::size_t>(i)] - still[static_cast<std::size_t>(i)])));
    }
    double constant = 0;
    for (float const x : attend(std::vector<float>(weights.size(), 0.5f), std::vector<float>(still.size(), 0.5f))) { constant = std::fmax(constant, std::fabs(static_cast<double>(x) - 0.5)); }
    bool const drawn = write_picture("sphere.ppm", still, turned, 8);
    std::printf("%lld pairs of %lld; turned field against turned result: %.1e (the field moved by %.2f); a constant field is off by %.1e; sphere.ppm %s\n", static_cast<long long>(near.pairs()),
                static_cast<long long>(queries.points() * keys.points()), worst, moved, constant, drawn ? "written" : "not written");
    return worst < 1e-5 && moved > 0.1 && constant < 1e-6 && drawn ? 0 : 1;
}
