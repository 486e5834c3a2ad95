// SPDX-License-Identifier: BSD-3-Clause
// Gradients of local regressions (mechanism/local_linear.hpp). With g the loss's derivative by out, b_j = 1 - z_j.rho, D = sum w b, e_j = g.(v_j - out) / D, beta = sum w e z and
// eta = S^-1 beta (a second system of the same matrix), f_j = e_j - z_j.eta:
//
//   ds_j = scale w_j b_j f_j    dv_j = w_j b_j g / D    dq = sum ds_j k_j + (sum w f) rho + (sum w b) eta    dk_j = ds_j q - w_j (f_j rho + b_j eta)
//
// and with r given, p = w / sum w, tau = sum p t, gamma = sum p g.v, c_j = 1 + tau - t_j:
//
//   ds_j = scale p_j (g.v_j c_j + gamma t_j - g.out - gamma tau)    dt_j = p_j (gamma - g.v_j)    dv_j = p_j c_j g    dq = sum ds k, dr = sum dt k, dk_j = ds_j q + dt_j r
//
// An item is a batch entry and a head of keys: its query heads and tiles in order, gradients of keys and values held in the type of computation until the end, M (d + dv) numbers a thread.
#pragma once

#include <heed/engine/cpu/local_linear.hpp>

namespace heed {

template <class E>
struct local_gradients {
    tensor_view<E const> dout;
    tensor_view<E> dq, dk, dv, dr; // null: not wanted
};

template <class E, class A>
class local_linear_backward : local_tiles<E, A> {
    using base = local_tiles<E, A>;
    using typename base::form;
    using typename base::problem;
    using typename base::product;
    using typename base::row;
    using typename base::T;
    using typename base::V;
    using gradients = local_gradients<E>;
    using base::count_, base::len_, base::s_, base::t_, base::dp_, base::vp_, base::q_, base::r_, base::k_, base::v_, base::o_, base::sum_, base::along_, base::qr_, base::rest_;
    static constexpr extent_t rows = base::rows, keys = base::keys;

    gradients d_;
    bool rows_finite_ = true;
    T *g_out_, *vt_, *eta_, *y_, *w_, *dq_, *dr_, *dk_, *dv_;
    T *go_, *weight_f_, *q_eta_, *gamma_; // g.out, sums of w f, q.eta, gamma

    local_linear_backward(form const& m, problem const& p, gradients const& d, arena& room) : base(m, p, room), d_(d) {
        auto const take = [&](extent_t n) { return room.take<T>(n); };
        g_out_ = take(rows * vp_), vt_ = take(vp_ * keys), eta_ = take(rows * dp_), y_ = take(rows * keys), w_ = take(rows * keys), dq_ = take(rows * dp_), dr_ = take(rows * dp_);
        dk_ = take(p.k.extent(2) * dp_), dv_ = take(p.k.extent(2) * vp_);
        for (T** to : {&go_, &weight_f_, &q_eta_, &gamma_}) { *to = take(rows); }
    }

public:
    static constexpr std::string_view name = "local regressions backward";
    static std::size_t slot_bytes(form const& m, problem const& p) {
        arena count(nullptr);
        local_linear_backward const one(m, p, {}, count);
        return count.bytes();
    }
    static extent_t items(problem const& p) { return p.k.extent(0) * p.k.extent(1); }
    template <class X>
    static void run(form const& m, problem const& p, gradients const& d, X& executor, int slots, std::byte* workspace) {
        std::byte* const at = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p);
        detail::for_each_item<A>(executor, slots, items(p), [&](extent_t item, int slot) {
            arena room(at + static_cast<std::size_t>(slot) * bytes);
            local_linear_backward one(m, p, d, room);
            extent_t const b = item / p.k.extent(1), g = item % p.k.extent(1), group = p.q.extent(1) / p.k.extent(1), n = p.k.length(b);
            base::clear(one.dk_, n * one.dp_), base::clear(one.dv_, n * one.vp_);
            for (extent_t h = g * group; h < (g + 1) * group; ++h) {
                for (extent_t first = 0; first < p.q.length(b); first += rows) { one.tile(b, h, first, p.q.length(b) - first < rows ? p.q.length(b) - first : rows); }
            }
            if (d.dk.data_handle() != nullptr) { unpack_rows<A>(one.dk_, one.dp_, n, p.k.extent(3), d.dk.row(b, g, 0), d.dk.stride(2), d.dk.stride(3)); }
            if (d.dv.data_handle() != nullptr) { unpack_rows<A>(one.dv_, one.vp_, n, p.v.extent(3), d.dv.row(b, g, 0), d.dv.stride(2), d.dv.stride(3)); }
        });
    }

private:
    void tile(extent_t b, extent_t h, extent_t first, extent_t count) {
        this->start(b, h, first, count);
        rows_finite_ = base::read(d_.dout, b, h, first, count, g_out_, vp_);
        for (extent_t e = 0; e < count * dp_; e += V::lanes) { rows_finite_ &= all(V::load(q_ + e) * V(0) == V(0)); }
        base::read(tensor_view<E const>(this->p_.out), b, h, first, count, o_, vp_);
        for (extent_t i = 0; i < count; ++i) { go_[i] = base::dot(g_out_ + i * vp_, o_ + i * vp_, vp_), weight_f_[i] = gamma_[i] = T(0); }
        base::clear(dq_, count * dp_), base::clear(dr_, count * dp_);
        this->m_.solves() ? regression() : given();
        give(d_.dq, dq_, b, h, first), give(d_.dr, dr_, b, h, first);
    }
    void give(tensor_view<E> const& to, T const* from, extent_t b, extent_t h, extent_t first) const {
        if (to.data_handle() != nullptr) { unpack_rows<A>(from, dp_, count_, to.extent(3), to.row(b, h, first), to.stride(2), to.stride(3)); }
    }
    // y_ = g v^T
    void times_values() {
        pack_transposed<A>(v_, vp_, extent_t(1), len_, this->p_.v.extent(3), vt_, keys, row::padded(len_));
        product::run(count_, row::padded(len_), this->p_.v.extent(3), g_out_, vp_, 1, vt_, keys, y_, keys, put::write);
    }
    // rows of keys += (or -=) w^T x
    void add_back(T const* w, T const* x, extent_t pitch, T* to, put mode = put::add) const {
        T* const at = to + this->j0_ * pitch;
        if (this->finite_ && rows_finite_) {
            product::run(len_, pitch, count_, w, 1, keys, x, pitch, at, pitch, mode);
            return;
        }
        for (extent_t i = 0; i < count_; ++i) { product::run(this->seen_here(i), pitch, 1, w + i * keys, 1, keys, x + i * pitch, pitch, at, pitch, mode); }
    }
    void regression() {
        T* const rho = this->x_;
        this->moments();
        this->solve(rho);
        this->products_with_solution(rho);
        base::clear(rest_, count_ * dp_);
        for (extent_t i = 0; i < count_; ++i) { along_[i] = T(0); }
        this->sweep(true, [&] { // D, and beta D
            this->weights();
            this->heights(rho);
            this->weigh_products(along_);
            times_values();
            this->weighted(y_, weight_f_, [&](extent_t i, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * (V::load(y_ + c) - V(go_[i])); });
            this->add_rows(y_, k_, dp_, rest_);
        });
        for (extent_t i = 0; i < count_; ++i) {
            row::add(q_ + i * dp_, -weight_f_[i], rest_ + i * dp_, dp_);
            T const by = sum_[i] == T(0) ? T(0) : T(1) / along_[i];
            row::scale(rest_ + i * dp_, by, dp_);
            gamma_[i] = by; // 1 / D
        }
        this->solve(eta_);
        for (extent_t i = 0; i < count_; ++i) { q_eta_[i] = base::dot(q_ + i * dp_, eta_ + i * dp_, dp_), weight_f_[i] = along_[i] = T(0); }
        this->products_with_solution(rho);
        for (extent_t i = 0; i < count_; ++i) { row::scale(g_out_ + i * vp_, gamma_[i], vp_), go_[i] *= gamma_[i]; } // g / D from here on
        this->sweep(true, [&] {
            this->weights();
            times_values();
            this->times_keys(eta_, w_);
            this->weighted(y_, weight_f_, [&](extent_t i, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * (V::load(y_ + c) - V(go_[i]) - V::load(w_ + c) + V(q_eta_[i])); }); // w f
            this->heights(rho);
            V const scale(this->m_.scale);
            this->weighted(w_, nullptr, [&](extent_t, extent_t c) HEED_INLINE_LAMBDA { return V::load(y_ + c) * V::load(t_ + c) * scale; }); // ds
            this->weigh_products(along_);                                                                                                   // t_ = w b
            this->add_rows(w_, k_, dp_, dq_);
            add_back(w_, q_, dp_, dk_), add_back(y_, rho, dp_, dk_, put::subtract), add_back(t_, eta_, dp_, dk_, put::subtract);
            add_back(t_, g_out_, vp_, dv_);
        });
        for (extent_t i = 0; i < count_; ++i) { row::add(rho + i * dp_, weight_f_[i], dq_ + i * dp_, dp_), row::add(eta_ + i * dp_, along_[i], dq_ + i * dp_, dp_); }
    }
    void given() {
        this->start_sums();
        this->sweep(false, [&] { this->raise(o_, 0, nullptr, 0); });
        this->sweep(true, [&] {
            this->weights();
            this->times_keys(r_, t_);
            this->weigh_products(along_);
            times_values();
            this->weighted(y_, gamma_, [&](extent_t, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * V::load(y_ + c); });
        });
        for (extent_t i = 0; i < count_; ++i) {
            sum_[i] = sum_[i] == T(0) ? T(0) : T(1) / sum_[i];
            along_[i] *= sum_[i], gamma_[i] *= sum_[i], go_[i] += gamma_[i] * along_[i];
        }
        V const scale(this->m_.scale);
        this->sweep(true, [&] {
            this->weights();
            this->times_keys(r_, t_);
            times_values();
            this->weighted(w_, nullptr, [&](extent_t i, extent_t c) HEED_INLINE_LAMBDA { // ds
                V const t = V::load(t_ + c), y = V::load(y_ + c), open = V(T(1) + along_[i]) - t;
                return scale * (V::load(s_ + c) * V(sum_[i])) * (fma(y, open, V(gamma_[i]) * t) - V(go_[i]));
            });
            this->add_rows(w_, k_, dp_, dq_), add_back(w_, q_, dp_, dk_);
            this->weighted(w_, nullptr, [&](extent_t i, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * V(sum_[i]) * (V(gamma_[i]) - V::load(y_ + c)); }); // dt
            this->add_rows(w_, k_, dp_, dr_), add_back(w_, r_, dp_, dk_);
            this->weighted(t_, nullptr, [&](extent_t i, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * V(sum_[i]) * (V(T(1) + along_[i]) - V::load(t_ + c)); });
            add_back(t_, g_out_, vp_, dv_);
        });
    }
};

} // namespace heed
