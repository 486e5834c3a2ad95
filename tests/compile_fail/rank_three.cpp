// SPDX-License-Identifier: BSD-3-Clause
// An mdspan of another rank is refused.
// expect: heed: a tensor has rank 4: batch, head, sequence, feature
#include "call.hpp"

// as much of std::mdspan as heed looks at
template <int Rank>
struct matrix {
    using element_type = float;
    float* data_handle() const { return storage<float>; }
    int extent(int) const { return 1; }
    int stride(int) const { return 1; }
    static constexpr int rank() { return Rank; }
};

int main() {
#ifdef HEED_BAD
    heed::forward(heed::softmax_attention(), matrix<3>{}, k, v, out);
#else
    heed::forward(heed::softmax_attention(), matrix<4>{}, k, v, out);
#endif
}
