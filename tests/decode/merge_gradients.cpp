// SPDX-License-Identifier: BSD-3-Clause
// Gradients of merge against central differences, two parts and lists, natural and base 2.
#include <support/catch.hpp>
#include <support/team.hpp>
#include <support/tensor.hpp>
#include <support/tolerance.hpp>

#include <heed/heed.hpp>

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

struct call {
    static constexpr extent_t most = 5;
    heed::shape s{1, 2, 3, 7};
    extent_t parts;
    tensor<double> outs, lses, d_outs, d_lses, out, lse, d_out, d_lse;

    call(extent_t n, random_source& random)
        : parts(n), outs(heed::shape{n, 2, 3, 7}), lses(heed::shape{n, 2, 3, 1}), d_outs(outs.shape()), d_lses(lses.shape()), out(s), lse(heed::shape{1, 2, 3, 1}), d_out(s),
          d_lse(lse.shape()) {
        outs.normal(random);
        lses.normal(random);
        d_out.normal(random);
        d_lse.normal(random);
        lses(0, 1, 2, 0) = -inf; // a part that saw no key
        for (extent_t k = 0; k < n; ++k) { lses(k, 0, 1, 0) = -inf; } // a row that no part saw
    }
    template <template <class> class Save>
    auto list(tensor<double>& o, tensor<double>& l) {
        heed::tensor_view<double> const first{o.view().data_handle(), s}, first_lse{l.view().data_handle(), {1, 2, 3, 1}};
        return heed::partials{heed::partial{first, Save<double>{first_lse}}, parts, 2 * 3 * 7, 2 * 3};
    }
    template <template <class> class Save, class N = heed::softmax>
    double loss(N const& normalizer = {}) {
        heed::merge(normalizer, list<Save>(outs, lses), heed::partial{out.view(), Save<double>{lse.view()}});
        double sum = 0;
        d_out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { sum += x * out(b, h, i, e); });
        d_lse.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { sum += lse(b, h, i, 0) == -inf ? 0 : x * lse(b, h, i, 0); });
        return sum;
    }
};

template <template <class> class Save>
void try_gradients(extent_t parts, std::uint64_t stream) {
    random_source random(stream);
    call c(parts, random);
    c.loss<Save>();
    heed::merge_backward(heed::softmax{}, c.list<Save>(c.outs, c.lses), heed::partial{c.out.view(), Save<double>{c.lse.view()}},
                         heed::partial{c.d_out.view(), Save<double>{c.d_lse.view()}}, c.list<Save>(c.d_outs, c.d_lses));
    double worst = 0;
    auto const compare_one = [&](tensor<double>& x, tensor<double>& d) {
        x.each_at([&](double& value, extent_t b, extent_t h, extent_t i, extent_t e) {
            if (value == -inf) {
                worst = std::max(worst, std::fabs(d(b, h, i, e)));
                return;
            }
            double const kept = value, step = 1e-5;
            value = kept + step;
            double const up = c.loss<Save>();
            value = kept - step;
            double const down = c.loss<Save>();
            value = kept;
            worst = std::max(worst, std::fabs((up - down) / (2 * step) - d(b, h, i, e)));
        });
    };
    compare_one(c.outs, c.d_outs);
    compare_one(c.lses, c.d_lses);
    CHECK(worst < 1e-8);
    CHECK(worst > 0);
    CHECK(c.d_outs.intact());
    CHECK(c.d_lses.intact());
}

} // namespace

TEST_CASE("merge: gradients against central differences", "[gradients]") {
    HEED_SEEDED;
    for (extent_t parts : {1, 2, 5}) {
        try_gradients<heed::save>(parts, 311);
        try_gradients<heed::save_log2>(parts, 312);
    }
}

TEST_CASE("merge: two parts by name give the gradients of the list, and out alone may have one", "[gradients]") {
    HEED_SEEDED;
    random_source random(313);
    call c(2, random);
    c.loss<heed::save>();
    heed::merge_backward(heed::softmax{}, c.list<heed::save>(c.outs, c.lses), heed::partial{c.out.view(), heed::save{c.lse.view()}}, heed::partial{c.d_out.view()},
                         c.list<heed::save>(c.d_outs, c.d_lses));
    tensor<double> da(c.s), db(c.s), la(c.lse.shape()), lb(c.lse.shape());
    auto const part = [&](tensor<double>& o, tensor<double>& l, extent_t k) {
        return heed::partial{heed::tensor_view<double>{o.view().row(k, 0, 0), c.s}, heed::save{heed::tensor_view<double>{l.view().row(k, 0, 0), c.lse.shape()}}};
    };
    heed::merge_backward(heed::softmax{}, part(c.outs, c.lses, 0), part(c.outs, c.lses, 1), heed::partial{c.out.view(), heed::save{c.lse.view()}},
                         heed::partial{c.d_out.view()}, heed::partial{da.view(), heed::save{la.view()}}, heed::partial{db.view(), heed::save{lb.view()}});
    CHECK(same_bits<double>(da.in(), {c.d_outs.view().row(0, 0, 0), c.s}));
    CHECK(same_bits<double>(db.in(), {c.d_outs.view().row(1, 0, 0), c.s}));
    CHECK(same_bits<double>(lb.in(), {c.d_lses.view().row(1, 0, 0), c.lse.shape()}));
    double sum = 0; // without d lse, weights that sum to 1 pull nowhere together: sum_s d lse_s = 0 per row
    c.lse.each_at([&](double&, extent_t b, extent_t h, extent_t i, extent_t) { sum = std::max(sum, std::fabs(la(b, h, i, 0) + lb(b, h, i, 0))); });
    CHECK(sum < 1e-14);
}

TEST_CASE("merge: a sink has its gradient, per head and shared by all, on any executor", "[gradients]") {
    HEED_SEEDED;
    for (extent_t heads : {2, 1}) {
        random_source random(314);
        call c(3, random);
        tensor<double> sinks(heed::shape{1, heads, 1, 1}), d_sinks(sinks.shape()), again(sinks.shape());
        sinks.normal(random);
        auto const loss = [&] { return c.loss<heed::save>(heed::softmax_sink{sinks.view()}); };
        auto const backward = [&](tensor<double>& to, auto const& backend) {
            loss();
            heed::merge_backward(heed::softmax_sink{sinks.view()}, c.list<heed::save>(c.outs, c.lses), heed::partial{c.out.view(), heed::save{c.lse.view()}},
                                 heed::partial{c.d_out.view(), heed::save{c.d_lse.view()}}, c.list<heed::save>(c.d_outs, c.d_lses), heed::sink_gradient{to.view()}, backend);
        };
        backward(d_sinks, heed::cpu{});
        backward(again, heed::cpu{backwards{3}});
        CHECK(same_bits(d_sinks, again));
        for (extent_t h = 0; h < heads; ++h) {
            double& sink = sinks(0, h, 0, 0);
            double const kept = sink, step = 1e-5;
            sink = kept + step;
            double const up = loss();
            sink = kept - step;
            double const down = loss();
            sink = kept;
            CHECK(d_sinks(0, h, 0, 0) == approx((up - down) / (2 * step)).epsilon(1e-8));
        }
        CHECK(d_sinks.intact());
    }
    random_source random(315);
    call c(2, random);
    tensor<double> sinks(heed::shape{1, 2, 1, 1}), wrong(heed::shape{1, 1, 1, 1});
    auto const sink = heed::softmax_sink{sinks.view()};
    c.loss<heed::save>(sink);
    CHECK_THROWS_AS(heed::merge_backward(sink, c.list<heed::save>(c.outs, c.lses), heed::partial{c.out.view(), heed::save{c.lse.view()}}, heed::partial{c.d_out.view()},
                                         c.list<heed::save>(c.d_outs, c.d_lses), heed::sink_gradient{wrong.view()}),
                    heed::shape_error);
}
