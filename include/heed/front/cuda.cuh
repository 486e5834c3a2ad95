// SPDX-License-Identifier: BSD-3-Clause
// Plans for the GPU: the same doors, plans and sentences as for the CPU, with a backend cuda{stream}.
#pragma once

#include <heed/engine/cuda/engine_for.cuh>
#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/front/decode.hpp>

namespace heed {

// What a call on the GPU will do: the engine, the bytes of workspace. The engine that a plan names is that of row-major views; which engine runs views of other
// strides or alignment, engine(q, k, v, out) says.
template <class M, class T, class A, class P>
class forward_plan<M, T, cuda<A, P>> {
    using engines = forward_engine<M, T, cuda<A, P>>;
    using door = detail::forward_door<M, T, A>;
    M mechanism_;
    shape q_, k_, v_;
    cuda<A, P> backend_;
    cuda_device device_;
    std::size_t bytes_;

    // The name of the engine of a problem and its tiles.
    struct choice {
        std::string_view name;
        extent_t queries, keys;
    };
    choice choose(pairwise_problem<T> const& x) const {
        choice c{};
        engines::with(x, device_, [&](auto engine) { c = {decltype(engine)::type::name, decltype(engine)::type::tile_queries, decltype(engine)::type::tile_keys}; });
        return c;
    }
    choice chosen() const { return choose(detail::problem_of<T>(q_, k_, v_)); }

public:
    forward_plan(M const& mechanism, shape q, shape k, shape v, cuda<A, P> const& backend)
        : mechanism_(mechanism), q_(q), k_(k), v_(v), backend_(backend), device_(cuda_device::current<A>()) {
        door::check_shapes(mechanism_, q, k, v);
        bytes_ = line_bytes - 1 + engines::workspace_bytes(detail::problem_of<T>(q_, k_, v_), device_);
    }

    std::string_view engine() const { return chosen().name; }
    template <class Q, class K, class V, class O>
    std::string_view engine(Q const& q, K const& k, V const& v, O const& out) const {
        return choose(door::problem(q, k, v, out, detail::no_save{})).name;
    }
    extent_t tile_queries() const { return chosen().queries; }
    extent_t tile_keys() const { return chosen().keys; }
    std::size_t workspace_bytes() const { return bytes_; }

    // Puts the call on the stream, in the caller's device memory (at least workspace_bytes(), any alignment), which must live until the stream has passed it.
    template <class Q, class K, class V, class O, class Save = detail::no_save>
    void run(Q const& q, K const& k, V const& v, O const& out, std::span<std::byte> workspace, Save const& saved = {}) {
        pairwise_problem<T> const problem = door::problem(q, k, v, out, saved);
        door::check(mechanism_, problem, detail::is_save<Save>, q_, k_, v_, workspace.size(), bytes_);
        if (q_.batch * q_.head * q_.seq == 0) { return; }
        engines::with(problem, device_, [&](auto engine) { decltype(engine)::type::run(mechanism_, problem, backend_, device_, workspace.data()); });
    }

    std::string describe() const {
        choice const c = chosen();
        return sentence<A>(c.name, " on compute capability ", device_.major, ".", device_.minor, ", tiles of ", c.queries, " queries x ", c.keys, " keys, ", bytes_, " workspace bytes");
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, forward_plan const& p) {
        s << p.describe();
        return s;
    }
};

namespace detail {

template <class... Engines>
struct gradient_engine<engine_list<Engines...>> {
    using list = engine_list<Engines...>;
    template <class Problem>
    static std::string_view name(Problem const& x) {
        std::string_view found;
        list::with(x, cuda_device::current(), [&](auto engine) { found = decltype(engine)::type::name; });
        return found;
    }
    // How sums are made where that is a choice.
    template <class Problem, class A>
    static std::string_view manner(Problem const& x, cuda<A> const& backend) {
        bool choice = false;
        list::with(x, cuda_device::current(), [&](auto engine) { choice = requires { requires decltype(engine)::type::sums_as_they_come; }; });
        return !choice ? "" : backend.sums == summed::in_order ? ", dq summed in a fixed order" : ", dq summed as its parts come";
    }
    template <class Problem>
    static std::size_t workspace_bytes(Problem const& x) {
        return list::workspace_bytes(x, cuda_device::current());
    }
    template <class Problem, class A>
    static void run(Problem const& x, cuda<A> const& backend, std::byte* workspace) {
        cuda_device const device = cuda_device::current<A>();
        list::with(x, device, [&](auto engine) { decltype(engine)::type::run(x, backend, device, workspace); });
    }
};

// Taken from and given back to the stream's pool, in the order of the stream.
template <class A, class P>
class call_memory<cuda<A, P>> {
    cudaStream_t stream_;
    void* data_ = nullptr;
    std::size_t bytes_;

public:
    call_memory(cuda<A> const& backend, std::size_t n) : stream_(backend.stream), bytes_(n) { check_cuda<A>(cudaMallocAsync(&data_, n == 0 ? 1 : n, stream_), "cudaMallocAsync of a workspace"); }
    call_memory(call_memory const&) = delete;
    call_memory& operator=(call_memory const&) = delete;
    ~call_memory() { static_cast<void>(cudaFreeAsync(data_, stream_)); }
    std::span<std::byte> span() const { return {static_cast<std::byte*>(data_), bytes_}; }
};

} // namespace detail
} // namespace heed
