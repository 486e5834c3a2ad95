// SPDX-License-Identifier: BSD-3-Clause
// Rows of the spectral family: circular and causal_circular, forward, one score a token; --set form=mixing takes the weights as they are, and has the
// backends eigen and fftw beside cpu, and path=products, transform or other takes one of the two ways, other: the one that the plan would not take. Values lie token by token. Tables are made before the clock starts, as FFTW's plans are. Operations are counted as
// 5 n log2 n of a complex transform of two channels, each way. And the gates of the speed table.
#include "gate_builder.hpp"
#include "limit.hpp"
#include "operands.hpp"
#include "registry.hpp"
#include "spectral_opponents.hpp"
#include "team.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/spectral.hpp>
#include <heed/mechanism/circular.hpp>
#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace heed::bench {

namespace {

bool is_mixing(problem const& p) {
    auto const form = p.extra.find("form");
    return form != p.extra.end() && form->second == "mixing";
}

// products, transform, other, or nothing: the plan's own choice
std::string path_of(problem const& p) {
    auto const path = p.extra.find("path");
    return path == p.extra.end() ? std::string() : path->second;
}

double work(problem const& p) {
    double const n = static_cast<double>(p.queries);
    return static_cast<double>(p.batch * p.heads * p.dim_v) * 5 * n * std::log2(n + 1);
}

#if defined(HEED_HAS_OPENMP)
auto backend_of(problem const& p) { return cpu{openmp{p.threads}}; }
#else
auto backend_of(problem const&) { return cpu{}; }
#endif

class spectral_run {
    problem p_;
    std::uint64_t seed_;
    raw_memory z_, v_, out_, tables_, scratch_;
    std::function<void()> run_;

    static float* numbers(raw_memory const& x) { return reinterpret_cast<float*>(x.data()); }
    shape scores() const { return {p_.batch, p_.heads, p_.queries, 1}; }
    shape rows() const { return {p_.batch, p_.heads, p_.queries, p_.dim_v}; }

    template <class M>
    std::string prepare_path(M const& m) {
        using engine = spectral_forward<float, native_arch>;
        auto const e = std::make_shared<engine>(engine::of(detail::slots_of(m), scores(), rows(), rows()));
        e->direct = path_of(p_) == "other" ? !e->direct : path_of(p_) == "products";
        int const slots = p_.threads;
        tables_.allocate(e->tables_bytes() + line_bytes), scratch_.allocate(e->workspace_bytes(slots) + line_bytes);
        e->prepare(aligned(tables_.data()));
        run_ = [this, e, slots] {
            auto backend = backend_of(p_);
            spectral_problem<float> const x{tensor_view<float const>(numbers(z_), scores()), sequence_major<float const>(numbers(v_), rows()), sequence_major(numbers(out_), rows())};
            e->run(x, backend.executor, slots, aligned(tables_.data()), aligned(scratch_.data()));
        };
        return e->direct ? "by products" : "by transform";
    }
    template <class M>
    std::string prepare_own(M const& m) {
        auto plan = std::make_shared<decltype(heed::plan<float>(m, scores(), rows(), rows(), backend_of(p_)))>(heed::plan<float>(m, scores(), rows(), rows(), backend_of(p_)));
        tables_.allocate(plan->tables_bytes()), scratch_.allocate(plan->scratch_bytes());
        plan->make_tables({tables_.data(), tables_.size()});
        run_ = [this, plan] {
            plan->run(tensor_view<float const>(numbers(z_), scores()), sequence_major<float const>(numbers(v_), rows()), sequence_major(numbers(out_), rows()),
                      std::span<std::byte const>(tables_.data(), tables_.size()), std::span<std::byte>(scratch_.data(), scratch_.size()));
        };
        return plan->describe();
    }

public:
    spectral_run(problem const& p, std::uint64_t seed) : p_(p), seed_(seed) {}

    std::string prepare() {
        auto const take = [](raw_memory& x, shape s) {
            x.allocate(static_cast<std::size_t>(s.size()) * sizeof(float));
            return std::span<float>(numbers(x), static_cast<std::size_t>(s.size()));
        };
        fill_normal(take(z_, scores()), seed_, 0), fill_normal(take(v_, rows()), seed_, 1);
        std::ranges::fill(take(out_, rows()), std::numeric_limits<float>::quiet_NaN());
        if (p_.mechanism == "causal_circular") return prepare_own(causal_circular_attention());
        if (!is_mixing(p_)) return path_of(p_).empty() ? prepare_own(circular_attention()) : prepare_path(circular_attention());
        if (p_.backend == "cpu") return path_of(p_).empty() ? prepare_own(spectral{wrapped{}, convolution{}}) : prepare_path(spectral{wrapped{}, convolution{}});
        auto const opponent = p_.backend == "fftw" ? fftw_mixing(p_.queries, p_.dim_v) : eigen_mixing(p_.queries, p_.dim_v);
        run_ = [this, opponent] { opponent.run(numbers(z_), numbers(v_), numbers(out_)); };
        return opponent.what;
    }
    void run() { run_(); }
    void release() {
        run_ = {};
        z_ = {}, v_ = {}, out_ = {}, tables_ = {}, scratch_ = {};
    }
    // Some rows of the last head by direct sums in double.
    std::string verify() const {
        extent_t const n = p_.queries, d = p_.dim_v, head = p_.heads - 1, batch = p_.batch - 1;
        std::vector<double> w(static_cast<std::size_t>(n));
        double top = -INFINITY, sum = 0, squares = 0;
        for (extent_t t = 0; t < n; ++t) top = std::fmax(top, static_cast<double>(numbers(z_)[(batch * p_.heads + head) * n + t]));
        for (extent_t t = 0; t < n; ++t) {
            auto const z = static_cast<double>(numbers(z_)[(batch * p_.heads + head) * n + t]);
            sum += w[static_cast<std::size_t>(t)] = is_mixing(p_) ? z : std::exp(z - top);
        }
        auto const value = [&](raw_memory const& x, extent_t i, extent_t c) { return static_cast<double>(numbers(x)[((batch * n + i) * p_.heads + head) * d + c]); };
        bool const causal = p_.mechanism == "causal_circular", correlates = !causal && !is_mixing(p_);
        for (extent_t const i : {extent_t(0), n / 3, n - 1}) {
            for (extent_t const c : {extent_t(0), d - 1}) {
                double expected = 0, norm = causal ? 0 : is_mixing(p_) ? 1 : sum;
                squares = 0;
                for (extent_t t = 0; t < (causal ? i + 1 : n); ++t) {
                    double const weight = w[static_cast<std::size_t>(t)];
                    expected += weight * value(v_, correlates ? (i + t) % n : (i - t + n) % n, c);
                    norm += causal ? weight : 0;
                    squares += weight * weight;
                }
                double const got = value(out_, i, c), error = std::fabs(got - expected / norm);
                if (error <= 1e-5 * std::sqrt(squares) / norm) continue;
                std::ostringstream text;
                text << "row " << i << ", channel " << c << " is " << got << ", the direct sum " << expected / norm;
                return text.str();
            }
        }
        return {};
    }
};

timed_case spectral_case(problem const& p, std::shared_ptr<operand_store> const& store) {
    auto const refuse = [&](std::string const& why) { throw unsupported_error(name_of(p) + ": " + why); };
    if (p.dtype != element::f32 || p.verb != "forward") refuse("spectral rows are compiled for forward in f32 here");
    if (p.backend != "cpu") {
        if (p.backend != "eigen" && p.backend != "fftw") refuse("spectral rows run on the backends cpu, eigen and fftw");
        if (!is_mixing(p) || p.batch * p.heads != 1 || p.threads != 1) refuse("other libraries are compared at form=mixing, one head, one thread");
        if (p.backend == "fftw" && !has_fftw()) refuse("this build has no FFTW (libfftw3f)");
    }
    std::string const path = path_of(p);
    if (p.extra.size() > (is_mixing(p) ? 1u : 0u) + (path.empty() ? 0u : 1u) || (!p.extra.empty() && p.mechanism != "circular") || (!path.empty() && path != "products" && path != "transform" && path != "other")) {
        refuse("spectral rows have the settings form=mixing and path=products|transform|other, of circular");
    }
    if (!path.empty() && p.backend != "cpu") refuse("other libraries have one path");
    if (!p.isa.empty() || p.bias != bias_kind::none || p.softcap != 0 || p.alibi) refuse("spectral rows have no settings of scores");
    if ((p.mask == mask_kind::causal) != (p.mechanism == "causal_circular") || (p.mask != mask_kind::causal && p.mask != mask_kind::full)) {
        refuse("circular has no mask, causal_circular is causal: --set mask=causal");
    }
    if (p.heads != p.kv_heads || p.queries != p.keys) refuse("spectral rows have as many keys as queries and as many heads");
    if (p.threads > 1 && !has_teams()) refuse("this build has no OpenMP, so one thread only");
    auto const run = std::make_shared<spectral_run>(p, store->seed());
    timed_case c;
    c.name = name_of(p);
    c.threads = p.threads;
    c.flops = work(p);
    c.bytes = static_cast<double>(p.batch * p.heads * p.queries * (2 * p.dim_v + 1)) * sizeof(float);
    c.limit = limit_name("fma_f32", p.threads);
    c.prepare = [run] { return run->prepare(); };
    c.run = [run] { run->run(); };
    c.release = [run] { run->release(); };
    c.verify = [run] { return run->verify(); };
    return c;
}

row_registration const circular_rows({"circular", spectral_case, work}), causal_rows({"causal_circular", spectral_case, work});

problem mixing(std::int64_t n, std::string_view backend = "cpu") {
    problem p = square(n, 64);
    p.mechanism = "circular";
    p.heads = p.kv_heads = 1;
    p.backend = backend;
    p.extra["form"] = "mixing";
    return p;
}

void add_gates(int, std::vector<gate_group>& groups) {
    std::string const what = "circular mixing of 64 channels by one weight vector, values token-major, times as fast as ";
    gate_builder fftw(what + "FFTW"), eigen(what + "Eigen's FFT");
    for (std::int64_t const n : {4096, 65536}) {
        std::string const at = "N=" + std::to_string(n);
        if (has_fftw()) fftw.against(at, measure_of::speedup, mixing(n), mixing(n, "fftw"), 1.3, 1.7);
        eigen.against(at, measure_of::speedup, mixing(n), mixing(n, "eigen"), 6, 10);
    }
    if (has_fftw()) groups.push_back(fftw.finish());
    groups.push_back(eigen.finish());

    gate_builder lengths("circular mixing, time over that of another length");
    lengths.against("N = 4099, a prime, over 4096", measure_of::slowdown, mixing(4099), mixing(4096), 3, 2.2);
    lengths.against("N = 1M over 64k", measure_of::slowdown, mixing(1 << 20), mixing(1 << 16), 28, 24);
    groups.push_back(lengths.finish());

    // Where products and the transform cost about the same.
    gate_builder choice("circular attention, 64 heads of 64 channels, time of the plan's choice over that of the other way");
    for (std::int64_t const n : {12, 15, 16, 18, 22, 24, 31, 37}) {
        problem own = square(n, 64);
        own.mechanism = "circular";
        own.heads = own.kv_heads = 64;
        problem other = own;
        other.extra["path"] = "other";
        choice.against("N=" + std::to_string(n), measure_of::slowdown, own, other, 1.1, 1.03);
    }
    groups.push_back(choice.finish());

    gate_builder attention("circular attention, one head of 64 channels, times as fast as softmax attention");
    auto cat = mixing(4096), softmax = square(4096, 64);
    cat.extra.clear();
    softmax.heads = softmax.kv_heads = 1;
    attention.against("N = 4096", measure_of::speedup, cat, softmax, 25, 60);
    groups.push_back(attention.finish());
}
gate_registration const gates(add_gates);

} // namespace

} // namespace heed::bench
