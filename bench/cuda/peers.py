# SPDX-License-Identifier: BSD-3-Clause
"""heed's GPU engines beside other libraries: one loop holds a bf16 product 8192^3, the peers and heed; medians by CUDA events, the host ahead of the GPU.

usage: peers.py heed_peers.so [fa3.so] [--only dense,widths,masks,gradients]

Peers: torch's cuDNN and FlexAttention, and, where a library with fa3_fwd_<d>[_causal] and fa3_bwd_<d>[_causal] is given, FlashAttention-3.
TFLOP/s count 4 B H N M d (backward 2.5 times that) over the pairs that exist; ratio is the peer's time over heed's. Inputs are random normal.
"""
import ctypes, math, statistics, sys
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

libraries = [a for a in sys.argv[1:] if a.endswith(".so")]
heed = ctypes.CDLL(libraries[0])
heed.heed_engine.restype = ctypes.c_char_p
fa3 = ctypes.CDLL(libraries[1]) if len(libraries) > 1 else None
only = sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else []
torch.manual_seed(1)
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
c, semaphores = torch.empty_like(a), torch.zeros(1024, device="cuda", dtype=torch.int32)


def matmul():
    torch.mm(a, b, out=c)


def address(t):
    return ctypes.c_void_p(t.data_ptr() if t is not None else 0)


def addresses(tensors):
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def medians(calls, rounds):
    times = {name: [] for name in calls}
    for r in range(rounds + 2):
        events = []
        for name, run in calls.items():
            begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
            begin.record(), run(), end.record()
            events.append((name, begin, end))
        torch.cuda.synchronize()
        for name, begin, end in events if r >= 2 else []:
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(t) for name, t in times.items()}


def error(x, exact):
    return ((x.double() - exact).norm() / exact.norm()).item()


def forward(mechanism, q, k, v, ids=None):
    B, H, N, D = q.shape
    out = torch.full((B, H, N, v.shape[3]), float("nan"), device="cuda", dtype=q.dtype)
    lse = torch.empty(B, H, N, device="cuda")
    call = heed.heed_forward(mechanism.encode(), B, H, k.shape[1], N, D, v.shape[3], addresses([q, k, v]), address(out), address(lse), address(ids), None)
    return lambda: heed.heed_run(call), out, lse, heed.heed_engine(call).decode()


def backward(mechanism, q, k, v, out, lse, dout, ids=None):
    B, H, N, D = q.shape
    gradients = [torch.full_like(t, float("nan")) for t in (q, k, v)]
    call = heed.heed_backward(mechanism.encode(), B, H, k.shape[1], N, D, v.shape[3], addresses([q, k, v, out, dout]), address(lse), addresses(gradients), address(ids), None)
    return lambda: heed.heed_run(call), gradients, heed.heed_engine(call).decode()


def exact_forward(q, k, v, causal):
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)


def exact_backward(q, k, v, dout, causal):
    leaves = [t.double().detach().requires_grad_() for t in (q, k, v)]
    return torch.autograd.grad(exact_forward(*leaves, causal), leaves, dout.double())


def row(name, times, operations, rest=""):
    ours, cells = times["heed"], []
    for peer, t in times.items():
        rate = (2 * 8192**3 if peer == "matmul" else operations) / t * 1e-9
        cells.append(f"{rate:.0f}" if peer == "matmul" else f"{peer} {t:.4f} / {rate:.0f}" + ("" if peer == "heed" else f", ratio {t / ours:.3f}"))
    print(f"| {name} | " + " | ".join(cells) + f" | {rest} |", flush=True)


def operations(q, v, share):
    return 2.0 * q.shape[0] * q.shape[1] * q.shape[2] ** 2 * (q.shape[3] + v.shape[3]) * share


def cudnn_forward(q, k, v, causal):
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def fa3_forward(q, k, v, causal):
    B, H, N, D = q.shape
    out, lse = torch.empty_like(q), torch.empty(B, H, N, device="cuda")
    f = getattr(fa3, f"fa3_fwd_{D}" + ("_causal" if causal else ""))
    return lambda: f(address(q), address(k), address(v), address(out), address(lse), address(semaphores), B, H, H, N, -1, None), out


def one_forward(q, k, v, causal):
    run, out, _, engine = forward("causal" if causal else "full", q, k, v)
    calls = {"matmul": matmul, "heed": run, "cuDNN": lambda: cudnn_forward(q, k, v, causal)}
    others = {}
    if fa3 and q.shape[3] == v.shape[3] and q.shape[3] in (64, 128):
        calls["FA3"], others["FA3"] = fa3_forward(q, k, v, causal)
    times = medians(calls, 11)
    rest = ""
    if q.shape[2] <= 4096:
        exact = exact_forward(q[:1, :4], k[:1, :4], v[:1, :4], causal)
        others = {"heed": out, "cuDNN": cudnn_forward(q, k, v, causal), **others}
        rest = ", ".join(f"{name} {error(x[:1, :4], exact):.2e}" for name, x in others.items())
    row(f"d={q.shape[3]}/{v.shape[3]} N={q.shape[2]} {'causal' if causal else 'plain'} {engine}", times, operations(q, v, 0.5 if causal else 1), rest)


def dense():
    for d, heads in ((128, 16), (64, 32)):
        for n in (1024, 4096, 16384):
            for causal in (False, True):
                one_forward(*(random(16384 // n, heads, n, d) for _ in range(3)), causal)


def widths():
    for d, dv, heads in ((96, 96, 20), (192, 192, 10), (256, 256, 8), (192, 128, 16)):
        for causal in (False, True):
            one_forward(random(4, heads, 4096, d), random(4, heads, 4096, d), random(4, heads, 4096, dv), causal)


def gradients():
    for d, dv, heads, lengths in ((128, 128, 16, (1024, 4096, 16384)), (64, 64, 32, (1024, 4096, 16384)), (96, 96, 20, (4096,)), (192, 192, 10, (4096,)), (256, 256, 8, (4096,)), (192, 128, 16, (4096,))):
        for n in lengths:
            for causal in (False, True):
                B = 16384 // n
                q, k, v, dout = random(B, heads, n, d), random(B, heads, n, d), random(B, heads, n, dv), random(B, heads, n, dv)
                make, out, lse, _ = forward("causal" if causal else "full", q, k, v)
                make()
                run, ours, engine = backward("causal" if causal else "full", q, k, v, out, lse, dout)
                leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
                made = cudnn_forward(*leaves, causal)
                cudnn = lambda: torch.autograd.grad(made, leaves, dout, retain_graph=True)
                calls = {"matmul": matmul, "heed": run, "cuDNN": cudnn}
                others = {}
                if fa3 and d == dv and d in (64, 128):
                    f = getattr(fa3, f"fa3_bwd_{d}" + ("_causal" if causal else ""))
                    others["FA3"] = [torch.empty_like(q) for _ in range(3)]
                    sums, base, centres = torch.empty(B, heads, n + 256, d, device="cuda"), torch.empty(B, heads, n + 256, device="cuda"), torch.empty(B, heads, n + 256, device="cuda")
                    calls["FA3"] = lambda: f(*map(address, (q, k, v, out, lse, dout, *others["FA3"], sums, base, centres)), B, heads, heads, n, None)
                times = medians(calls, 9)
                rest = ""
                if n <= 4096:
                    exact = exact_backward(q[:1, :2], k[:1, :2], v[:1, :2], dout[:1, :2], causal)
                    others = {"heed": ours, "cuDNN": cudnn(), **others}
                    rest = ", ".join(name + " " + "/".join(f"{error(x[:1, :2], e):.2e}" for x, e in zip(xs, exact)) for name, xs in others.items())
                row(f"backward d={d}/{dv} N={n} {'causal' if causal else 'plain'} {engine}", times, 2.5 * operations(q, v, 0.5 if causal else 1), rest)


def masks():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    flex = torch.compile(flex_attention, dynamic=False)
    n, lengths = 16384, (504, 3600, 1200, 2000, 900, 2600, 1700, 2180, 1700)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to("cuda", torch.int32)
    earlier = lambda b, h, i, j: i >= j
    triangle = n * (n + 1) / 2
    cases = {
        "causal": (earlier, None, triangle),
        "window": (lambda b, h, i, j: (i >= j) & (i - j < 1024), None, 1024 * n - 1024 * 1023 / 2),
        "documents": (lambda b, h, i, j: ids[i] == ids[j], None, float(sum(m * m for m in lengths))),
        "softcap": (earlier, lambda s, b, h, i, j: 30 * torch.tanh(s / 30), triangle),
    }
    for d, heads in ((128, 16), (64, 32)):
        q, k, v = (random(1, heads, n, d) for _ in range(3))
        for name, (mask, score, pairs) in cases.items():
            block_mask = create_block_mask(mask, None, None, n, n, device="cuda")
            run, out, _, engine = forward(name, q, k, v, ids)
            times = medians({"matmul": matmul, "heed": run, "FlexAttention": lambda: flex(q, k, v, block_mask=block_mask, score_mod=score)}, 7)
            row(f"{name} d={d} N={n} {engine}", times, operations(q, v, pairs / n / n), f"difference {error(out, flex(q, k, v, block_mask=block_mask, score_mod=score).double()):.2e}")


print(torch.cuda.get_device_name(), "torch", torch.__version__)
for part in (dense, widths, masks, gradients):
    if not only or part.__name__ in only:
        part()
