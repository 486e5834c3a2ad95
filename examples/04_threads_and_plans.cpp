// SPDX-License-Identifier: BSD-3-Clause
// 04: your threads, your memory. heed starts no thread and a plan's run allocates nothing; results do not depend on the number of threads.
#include <heed/heed.hpp>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <thread>
#include <vector>

// Anything with bulk(n, f) is an executor: call f(0) ... f(n - 1), on any threads, and return when all are done.
struct my_threads {
    int count;
    template <class F>
    void bulk(int n, F&& f) const {
        std::vector<std::thread> threads;
        for (int i = 1; i < n; ++i) { threads.emplace_back([&f, i] { f(i); }); }
        f(0);
        for (std::thread& t : threads) { t.join(); }
    }
    int concurrency() const { return count; }
};

int main() {
    heed::shape const s{1, 4, 500, 64};
    std::vector<float> q(s.size()), k(s.size()), v(s.size()), one(s.size()), three(s.size());
    for (std::size_t i = 0; i < q.size(); ++i) {
        q[i] = static_cast<float>(i % 13) * 0.1f;
        k[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
        v[i] = static_cast<float>(i % 29);
    }
    heed::tensor_view queries{q.data(), s}, keys{k.data(), s}, values{v.data(), s};
    auto const mechanism = heed::softmax_attention(heed::causal_top_left{} & heed::window{200});

    auto plan = heed::plan<float>(mechanism, s, s, s, heed::cpu{my_threads{3}}); // made once, used for every step of the same shape
    std::cout << plan << "\n";
    std::vector<std::byte> workspace(plan.workspace_bytes());
    for (int step = 0; step < 3; ++step) { plan.run(queries, keys, values, heed::tensor_view{three.data(), s}, workspace); }

    heed::forward(mechanism, queries, keys, values, heed::tensor_view{one.data(), s}); // the calling thread
    bool const same = std::memcmp(one.data(), three.data(), one.size() * sizeof(float)) == 0;
    std::printf("one thread and three give the same bits: %s\n", same ? "yes" : "no");
    return same ? 0 : 1;
}
