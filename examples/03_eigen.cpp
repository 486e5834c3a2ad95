// SPDX-License-Identifier: BSD-3-Clause
// 03: Eigen matrices in and out. A matrix is one head: rows are positions. Either storage order, blocks and maps too.
#include <heed/heed.hpp>
#include <heed/view/eigen.hpp>

#include <cstdio>

int main() {
    Eigen::MatrixXf const q = Eigen::MatrixXf::Random(40, 32), k = Eigen::MatrixXf::Random(60, 32), v = Eigen::MatrixXf::Random(60, 24);
    Eigen::MatrixXf out(40, 24);
    heed::forward(heed::softmax_attention(), q, k, v, out);

    // what Eigen alone would write: the whole score matrix
    Eigen::MatrixXf scores = q * k.transpose() / std::sqrt(32.f);
    Eigen::MatrixXf weights = (scores.colwise() - scores.rowwise().maxCoeff()).array().exp();
    Eigen::VectorXf const sums = weights.rowwise().sum();
    Eigen::MatrixXf const expected = (weights.array().colwise() / sums.array()).matrix() * v;

    float const worst = (out - expected).cwiseAbs().maxCoeff();
    std::printf("largest difference from Eigen's own products: %.2e\n", double(worst));
    return worst < 1e-5f ? 0 : 1;
}
