// SPDX-License-Identifier: BSD-3-Clause
// DLPack tensors as views: what Python frameworks hand over. Empty where <dlpack/dlpack.h> is not installed; CPU memory only.
// The axes are batch, head, sequence, feature; fewer axes than four are the last ones.
#pragma once

#include <heed/view/adapt.hpp>

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>

namespace heed {

// A view of a DLTensor's memory. Throws shape_error if the rank is over 4, the type is not T, or the memory is not the CPU's.
template <class T>
HEED_INLINE tensor_view<T> dlpack_view(DLTensor const& t) {
    constexpr int code = [] {
        if constexpr (requires { T::dlpack_code; }) { return static_cast<int>(T::dlpack_code); } // a storage type
        return static_cast<int>(std::is_floating_point_v<T> ? kDLFloat : std::is_signed_v<T> ? kDLInt : kDLUInt);
    }();
    if (t.ndim > 4) { HEED_THROW(shape_error(sentence("heed: a DLPack tensor has rank ", t.ndim, "; at most 4 axes are batch, head, sequence, feature"))); }
    if (t.dtype.code != code || t.dtype.bits != sizeof(T) * 8 || t.dtype.lanes != 1) {
        HEED_THROW(shape_error(sentence("heed: a DLPack tensor has type code ", int(t.dtype.code), " with ", int(t.dtype.bits), " bits; the view asked for has ", code, " with ",
                                        int(sizeof(T) * 8), " bits")));
    }
    if (t.device.device_type != kDLCPU) { HEED_THROW(shape_error(sentence("heed: a DLPack tensor lies on device type ", int(t.device.device_type), "; this view needs CPU memory"))); }
    extent_t n[4] = {1, 1, 1, 1}, st[4] = {0, 0, 0, 1}, dense = 1;
    for (int r = t.ndim - 1, a = 3; r >= 0; --r, --a) {
        n[a] = t.shape[r];
        st[a] = t.strides != nullptr ? t.strides[r] : dense;
        dense *= t.shape[r];
    }
    return {reinterpret_cast<T*>(static_cast<char*>(t.data) + t.byte_offset), {n[0], n[1], n[2], n[3]}, {st[0], st[1], st[2], st[3]}};
}

} // namespace heed
#endif
