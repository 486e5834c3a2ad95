// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/bench_options.hpp>
#include <timing/decode_case.hpp>
#include <timing/pair_count.hpp>
#include <timing/problem.hpp>

#include <random>
#include <set>

using namespace heed::bench;

TEST_CASE("names: eleven parts, then what is not the default, sorted") {
    problem p;
    CHECK(name_of(p) == "softmax/forward/f32/1/8/8/1024/1024/64/64/1");
    p.backend = "eigen";
    p.mask = mask_kind::window;
    p.window = 100;
    p.softcap = 12.5;
    p.alibi = true;
    p.bias = bias_kind::row;
    p.extra["temperature"] = "hot";
    p.kv_heads = 2;
    p.threads = 3;
    p.dtype = element::f64;
    CHECK(name_of(p) ==
          "softmax/forward/f64/1/8/2/1024/1024/64/64/3/alibi=1/backend=eigen/bias=row/mask=window/softcap=12.5/temperature=hot/window=100");
}

TEST_CASE("names: every name reads back as its problem") {
    bench_options o;
    o.batch = "1,3";
    o.heads = "12";
    o.kv_heads = "2,4";
    o.seq = "1..4";
    o.kv_seq = "4,7";
    o.dim = "5,64";
    o.dim_v = "33";
    o.dtype = "f32,f64,bf16,f16";
    o.threads = "1,2";
    o.backend = "cpu,reference,unfused,eigen";
    o.set = {"mask=full,causal,window", "bias=none,row,full", "softcap=0,1.5", "alibi=0,1"};
    auto const problems = problems_of(o);
    REQUIRE(problems.size() == 4 * 2 * 3 * 2 * 2 * 2 * 2 * 4 * 3 * 3 * 2 * 2);
    std::set<std::string> names;
    for (auto const& p : problems) {
        CHECK(parse_name(name_of(p)) == p);
        names.insert(name_of(p));
    }
    CHECK(names.size() == problems.size());
}

TEST_CASE("names: limits are told apart, broken ones refused") {
    CHECK(limit_name("fma_f32", 2) == "limit/fma_f32/2");
    CHECK(limit_name("fma_f32", 1, "avx2") == "limit/fma_f32/1/isa=avx2");
    CHECK(is_limit("limit/read/1"));
    CHECK_FALSE(is_limit("softmax/forward/f32/1/8/8/1024/1024/64/64/1"));
    for (auto const* name : {"", "limit/read/1", "softmax/forward/f32/1/8/8/1024", "softmax/forward/f32/1/8/8/1024/x/64/64/1",
                             "softmax/forward/f32/1/8/8/1024/1024/64/64/1/mask"}) {
        INFO(name);
        CHECK_THROWS_AS(parse_name(name), usage_error);
    }
}

TEST_CASE("settings choose their mask, unless a mask is given") {
    problem p;
    apply_settings({{"window", "16"}}, p);
    CHECK(p.mask == mask_kind::window);
    CHECK(p.window == 16);
    problem q;
    apply_settings({{"window", "16"}, {"mask", "full"}}, q);
    CHECK(q.mask == mask_kind::full);
    problem r;
    CHECK_THROWS_AS(apply_settings({{"mask", "diagonal"}}, r), usage_error);
    CHECK_THROWS_AS(apply_settings({{"bias", "left"}}, r), usage_error);
    CHECK_THROWS_AS(apply_settings({{"softcap", "-1"}}, r), usage_error);
    CHECK_THROWS_AS(apply_settings({{"softcap", "nan"}}, r), usage_error);
    CHECK_THROWS_AS(apply_settings({{"alibi", "2"}}, r), usage_error);
}

TEST_CASE("what this build does not time is unsupported, what makes no sense is wrong usage") {
    auto const with = [](auto change) {
        bench_options o;
        change(o);
        return problems_of(o);
    };
    CHECK(with([](auto& o) { o.backward = true; }).front().verb == "backward");
    CHECK_THROWS_AS(with([](auto& o) { o.backend = "cpu,cuda"; }), unsupported_error);
    CHECK_THROWS_AS(with([](auto& o) { o.dtype = "f7"; }), usage_error);
    CHECK_THROWS_AS(with([](auto& o) { o.backend = "gpu"; }), usage_error);
    CHECK_THROWS_AS(with([](auto& o) { o.kv_heads = "3"; }), usage_error);
    CHECK_THROWS_AS(with([](auto& o) { o.threads = "5000"; }), usage_error);
    CHECK_THROWS_AS(with([](auto& o) { o.set = {"documents=2000"}; }), usage_error);
    CHECK_THROWS_AS(with([](auto& o) { o.set = {"backend=eigen"}; }), usage_error);
    CHECK_THROWS_AS(with([](auto& o) { o.seq = o.batch = o.heads = "1000000m"; }), usage_error);
}

TEST_CASE("the quick benchmark: both widths, lengths and masks, on heed and on Eigen") {
    auto const problems = quick_problems();
    CHECK(problems.size() == 16);
    for (auto const& p : problems) { CHECK(p.threads == 1); }
}

TEST_CASE("the repeat line names what differs from the defaults, and everything random") {
    bench_options o;
    CHECK(repeat_line(o) == "heed bench --repetitions 7 --min-time 0.1 --seed 1");
    o.seq = "1k..4k";
    o.set = {"mask=full,causal", "window=8"};
    o.backend = "cpu,eigen";
    o.verify = false;
    o.seed = 9;
    CHECK(repeat_line(o) == "heed bench --set mask=full,causal --set window=8 --seq 1k..4k --backend cpu,eigen --no-verify --repetitions 7 "
                            "--min-time 0.1 --seed 9");
}

TEST_CASE("pairs: closed forms agree with the definition, pair by pair") {
    auto const seed = std::random_device{}();
    INFO("seed " << seed);
    std::mt19937 random(seed);
    auto const below = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<unsigned>(n)); };
    for (int round = 0; round < 400; ++round) {
        problem p;
        p.queries = 1 + below(40);
        p.keys = 1 + below(40);
        p.window = 1 + below(50);
        p.documents = 1 + below(std::min(p.queries, p.keys));
        p.mask =
            std::array{mask_kind::full, mask_kind::causal, mask_kind::window, mask_kind::document}[static_cast<std::size_t>(round % 4)];
        INFO(name_of(p));
        std::int64_t pairs = 0;
        for (std::int64_t i = 0; i < p.queries; ++i) {
            auto const span = keys_of(p, i);
            for (std::int64_t j = 0; j < p.keys; ++j) {
                pairs += attends(p, i, j);
                REQUIRE(attends(p, i, j) == (span.begin <= j && j < span.end));
            }
        }
        REQUIRE(pairs_per_head(p) == pairs);
        REQUIRE(flops(p) == 2.0 * static_cast<double>(pairs * p.batch * p.heads * (p.dim + p.dim_v)));
    }
}

TEST_CASE("pairs: documents cover the sequence in order") {
    for (std::int64_t length : {1, 7, 64, 1000}) {
        for (std::int64_t documents : {1, 2, 4, 7}) {
            std::int64_t covered = 0;
            for (std::int64_t d = 0; d < documents; ++d) {
                REQUIRE(document_begin(d, length, documents) == covered);
                covered = document_begin(d + 1, length, documents);
                for (auto i = document_begin(d, length, documents); i < covered; ++i) { REQUIRE(document_of(i, length, documents) == d); }
            }
            REQUIRE(covered == length);
        }
    }
}

TEST_CASE("work: operations and bytes of a known shape") {
    problem p;
    p.batch = 2;
    p.heads = 4;
    p.kv_heads = 2;
    p.queries = 10;
    p.keys = 20;
    p.dim = 8;
    p.dim_v = 6;
    CHECK(flops(p) == 2.0 * 4 * 10 * 20 * 2 * (8 + 6));
    CHECK(bytes(p) == 4.0 * 2 * (4 * 10 * (8 + 6) + 2 * 20 * (8 + 6)));
    p.bias = bias_kind::full;
    CHECK(bytes(p) == 4.0 * 2 * (4 * 10 * (8 + 6) + 2 * 20 * (8 + 6)) + 4.0 * 4 * 10 * 20);
    p.mask = mask_kind::causal; // query i sees i + 11 keys
    CHECK(flops(p) == 2.0 * 4 * (11 + 12 + 13 + 14 + 15 + 16 + 17 + 18 + 19 + 20) * 2 * (8 + 6));
}

TEST_CASE("decode rows: new tokens against a cache, whose bytes are counted") {
    bench_options o;
    o.decode = true;
    o.seq = "8k";
    o.heads = "32";
    o.kv_heads = "8";
    o.dim = "128";
    o.dtype = "f32,bf16,int8";
    o.set = {"layout=contiguous,paged"};
    auto const problems = problems_of(o);
    REQUIRE(problems.size() == 6);
    CHECK(name_of(problems[0]) == "softmax/decode/f32/1/32/8/1/8192/128/128/1");
    CHECK(name_of(problems[3]) == "softmax/decode/bf16/1/32/8/1/8192/128/128/1/layout=paged");
    CHECK(parse_name(name_of(problems[3])) == problems[3]);
    CHECK(decode_bytes(problems[0]) == 8.0 * 8192 * 256 * 4);
    CHECK(decode_bytes(problems[2]) == 8.0 * 8192 * 256 * 2);
    CHECK(decode_bytes(problems[4]) == 8.0 * 8192 * (256 + 8)); // a scale for each key and value
    o.set = {"mask=window", "window=100", "tokens=5", "layout=ring"};
    o.dtype = "f16";
    auto const ring = problems_of(o).front();
    CHECK(ring.queries == 5);
    CHECK(decode_bytes(ring) == 8.0 * 104 * 256 * 2); // of five neighbouring windows
    CHECK_THROWS_AS(decode_case(ring.mask == mask_kind::window ? [&] { auto p = ring; p.mask = mask_kind::full; return p; }() : ring, 1), unsupported_error);
    CHECK_NOTHROW(decode_case(ring, 1));
}
