// SPDX-License-Identifier: BSD-3-Clause
// The backward door of the spectral family: backward(mechanism, z, v, out, dout, dz, dv, options...), and its plan.
#pragma once

#include <heed/front/spectral.hpp>

namespace heed {

// What a backward call will do; its tables are not those of forward where the lengths differ.
template <Spectral M, class T, class B>
class spectral_backward_plan : public detail::spectral_plan_base<typename spectral_engine_for<M, T, B>::gradient_type, B> {
    using engine_type = typename spectral_engine_for<M, T, B>::gradient_type;
    using base = detail::spectral_plan_base<engine_type, B>;
    using typename base::A;
    using typename base::door;
    M mechanism_;
    shape z_, v_, out_;

public:
    spectral_backward_plan(M const& mechanism, shape z, shape v, shape out, B const& backend)
        : base(backend, (detail::check_spectral_shapes<T, A>(mechanism, z, v, out), engine_type::of(detail::slots_of(mechanism), z, v, out))), mechanism_(mechanism), z_(z), v_(v), out_(out) {}

    // Runs with tables made before, in scratch_bytes() of workspace.
    void run(spectral_gradient_problem<T> const& x, std::span<std::byte const> tables, std::span<std::byte> workspace) {
        check(x);
        this->run_in(x, tables, workspace);
    }
    // Runs in workspace_bytes(), tables included.
    void run(spectral_gradient_problem<T> const& x, std::span<std::byte> workspace) {
        check(x);
        this->run_with_tables(x, workspace);
    }

private:
    void check(spectral_gradient_problem<T> const& x) const {
        using detail::argument;
        argument const call[] = {argument::of("z", x.z), argument::of("v", x.v), argument::of("out", x.out)};
        detail::check_spectral<M, A>(mechanism_, call);
        if (!(x.z.shape() == z_) || !(x.v.shape() == v_) || !(x.out.shape() == out_)) { door::refuse("heed: the plan was made for other shapes of z, v or out; make a new plan"); }
        argument const all[] = {call[0], call[1], call[2], argument::of("dout", x.dout), argument::of("dz", x.dz), argument::of("dv", x.dv)};
        door::check_same(all[3], all[2]);
        door::check_same(all[4], all[0]);
        door::check_same(all[5], all[1]);
        for (int i = 3; i < 6; ++i) {
            if (all[i].offsets) { door::refuse(sentence<A>("heed: ", all[i].name, " is ragged; sequences of different lengths have different transforms, call once for each")); }
        }
        door::check_outputs(all, 6);
    }
};

// dz and dv of sum(out dout), z and v as forward had them, out what it gave (read by prefix_softmax only). A gradient of what is shared by batch entries
// or heads is summed over them. Everything is written, nothing accumulated. A NaN in v or dout reaches
// the gradients of its head and of all channels that are transformed with it; with prefix weights, which go row by row, its own rows alone.
// Throws shape_error before anything is written. Makes one allocation.
template <class A = native_arch, Spectral M, class Z, class V, class O, class DO, class DZ, class DV, class B = cpu<serial, A>>
void backward(M const& mechanism, Z const& z, V const& v, O const& out, DO const& dout, DZ&& dz, DV&& dv, B const& backend = {}) {
    static_assert(detail::is_backend<B>, "heed: the option of a spectral backward is a backend, heed::cpu{...}");
    tensor_view const dv_view = as_view(dv);
    using T = typename decltype(dv_view)::element_type;
    detail::check_spectral_elements<T>();
    spectral_backward_plan<M, T, B> p(mechanism, as_view(z).shape(), as_view(v).shape(), as_view(out).shape(), backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run({as_view(z), as_view(v), as_view(out), as_view(dout), as_view(dz), dv_view}, std::span<std::byte>(memory.get(), bytes));
}

} // namespace heed
