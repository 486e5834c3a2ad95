// SPDX-License-Identifier: BSD-3-Clause
// 11: circular-convolutional attention over a long signal, a chirp in noise. Scores depend on the distance alone, so the softmax of N numbers stands for
// an N x N matrix of weights, and 20011 tokens (a prime) are mixed in about the time of a few transforms. With a file name, a picture (SVG) is written.
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main(int count, char** arguments) {
    constexpr heed::extent_t n = 20011;
    constexpr double pi = 3.14159265358979323846;
    std::vector<float> clean(n), noisy(n), scores(n), out(n), weights(n, 0.0f);
    unsigned state = 1;
    auto const noise = [&] { // nearly normal
        float sum = 0;
        for (int i = 0; i < 12; ++i) { sum += static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f; }
        return sum - 6;
    };
    for (heed::extent_t i = 0; i < n; ++i) {
        double const t = static_cast<double>(i) / n, apart = static_cast<double>(i < n - i ? i : n - i); // around the circle
        clean[static_cast<std::size_t>(i)] = static_cast<float>(std::sin(2 * pi * (10 * t + 60 * t * t)));
        noisy[static_cast<std::size_t>(i)] = clean[static_cast<std::size_t>(i)] + 0.7f * noise();
        scores[static_cast<std::size_t>(i)] = static_cast<float>(-apart * apart / (2 * 8.0 * 8.0)); // a bell of 8 tokens
    }
    auto const tokens = [](std::vector<float>& x) { return heed::tensor_view<float>(x.data(), {1, 1, n, 1}); };
    heed::forward(heed::circular_attention(), tokens(scores), tokens(noisy), tokens(out));

    // The weights themselves: what one token alone becomes.
    std::vector<float> one(n, 0.0f);
    one[n / 2] = 1;
    heed::forward(heed::circular_attention(), tokens(scores), tokens(one), tokens(weights));

    double before = 0, after = 0, sum = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        before += std::pow(static_cast<double>(noisy[i] - clean[i]), 2) / n;
        after += std::pow(static_cast<double>(out[i] - clean[i]), 2) / n;
        sum += static_cast<double>(weights[i]);
    }
    std::printf("%s\n", heed::plan<float>(heed::circular_attention(), {1, 1, n, 1}, {1, 1, n, 1}, {1, 1, n, 1}).describe().c_str());
    std::printf("noise %.3f before, %.3f after; weights sum to %.6f\n", std::sqrt(before), std::sqrt(after), sum);

    if (count > 1) {
        std::FILE* const file = std::fopen(arguments[1], "w");
        if (file == nullptr) { return 1; }
        std::fprintf(file, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1000 520\" font-family=\"sans-serif\" font-size=\"14\">\n<rect width=\"1000\" height=\"520\" fill=\"#fff\"/>\n");
        auto const line = [&](std::vector<float> const& x, heed::extent_t first, heed::extent_t last, double middle, double scale, char const* colour) {
            std::fprintf(file, "<polyline fill=\"none\" stroke=\"%s\" points=\"", colour);
            for (heed::extent_t i = first; i < last; ++i) {
                std::fprintf(file, "%.1f,%.1f ", 1000.0 * static_cast<double>(i - first) / static_cast<double>(last - first), middle - scale * static_cast<double>(x[static_cast<std::size_t>(i)]));
            }
            std::fprintf(file, "\"/>\n");
        };
        line(noisy, 14000, 15000, 150, 40, "#ccc");
        line(out, 14000, 15000, 150, 40, "#c33");
        line(clean, 14000, 15000, 150, 40, "#36c");
        line(weights, n / 2 - 60, n / 2 + 60, 500, 3500, "#393");
        std::fprintf(file, "<text x=\"10\" y=\"20\">tokens 14000 to 15000: given (grey), mixed (red), without noise (blue)</text>\n<text x=\"10\" y=\"310\">weights, 60 tokens either way</text>\n</svg>\n");
        std::fclose(file);
    }
    return after < before / 12 && std::fabs(sum - 1) < 1e-4 ? 0 : 1;
}
