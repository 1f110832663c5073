#!/usr/bin/env python3
"""Times operators of libkvops beside PyTorch's CPU kernels for the same work.

    KVOPS_LIBRARY=build/libkvops.so PYTHONPATH=bindings/python tools/compare_torch.py --threads 2

One process, the same number of threads, samples in turn; medians. "ratio" is PyTorch's time over
ours: 0.95 is 5 % slower than PyTorch. Each side's result is held against the other's first. Results
go to memory that exists already wherever PyTorch offers that. --markdown writes a table for
docs/performance.md, --strict fails when a ratio is below 0.95.
"""
import argparse
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import kvops
from kvops._library import lib

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
ALLOWED = {"f32": 1e-4, "bf16": 2.0**-5, "f16": 2.0**-8}  # of the largest magnitude


class Pair:
    """ours() and theirs() do the same work; each returns the tensors that it wrote."""

    def __init__(self, ours, theirs, outputs=None):
        self.ours, self.theirs, self.outputs = ours, theirs, outputs or (ours, theirs)

    def worst(self):
        a, b = (function() for function in self.outputs)
        worst = 0.0
        for x, y in zip(a, b):
            x, y = x.double().flatten(), y.double().flatten()
            worst = max(worst, ((x - y).abs().max() / y.abs().max()).item())
        return worst


def call(op, *outputs, **arguments):
    """A function that runs an operator on its arguments and returns the outputs."""
    prepared = kvops.prepare(op, **arguments)

    def run():
        prepared()
        return outputs

    return run


def has(*ops):
    return all("cpu" in kvops.ops[op].backends for op in ops)


# ---- norms, activations, rotary embedding -------------------------------------------------------


def rms_norm(n, d, T):
    x, w = torch.randn(n, d).to(T), torch.randn(d).to(T)
    out = torch.empty_like(x)
    return Pair(call("rms_norm", out, input=x, weight=w, out=out, epsilon=1e-6),
                lambda: (F.rms_norm(x, (d,), w, 1e-6),))


def gated(op, activation):
    def build(n, d, T):
        x = torch.randn(n, 2 * d).to(T)
        out, theirs, between = (torch.empty(n, d, dtype=T) for _ in range(3))
        a, b = x[:, :d], x[:, d:]

        def run():
            activation(a, between)
            torch.mul(between, b, out=theirs)
            return (theirs,)

        return Pair(call(op, out, input=x, out=out), run)

    return build


def rotary_embedding(n, heads, kv_heads, size, T):
    positions = torch.randperm(4096)[:n] if n <= 4096 else torch.randint(4096, (n,))
    angle = torch.arange(4096)[:, None] * 10000.0**(-torch.arange(0, size, 2) / size)
    cache = torch.cat((angle.cos(), angle.sin()), -1).to(T)
    query, key = torch.randn(n, heads * size).to(T), torch.randn(n, kv_heads * size).to(T)

    def rotated(x, cos, sin):
        x = x.view(n, -1, size)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).view(n, -1)

    def run(q, k):
        cos, sin = cache.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
        return rotated(q, cos, sin), rotated(k, cos, sin)

    def ours_on(q, k):
        return call("rotary_embedding", q, k, positions=positions, query=q, key=k,
                    cos_sin_cache=cache, head_size=size, is_neox=1)

    q, k = query.clone(), key.clone()
    return Pair(ours_on(query, key), lambda: run(query, key), (ours_on(q.clone(), k.clone()),
                                                               lambda: run(q, k)))


# ---- attention ----------------------------------------------------------------------------------


class Context:
    """Keys and values of `seqs` sequences, dense for PyTorch; queries of the last `new` tokens."""

    def __init__(self, seqs, new, length, heads, kv_heads, size, T):
        self.seqs, self.new, self.length = seqs, new, length
        self.heads, self.kv_heads, self.size, self.T = heads, kv_heads, size, T
        self.key, self.value = (torch.randn(seqs, kv_heads, length, size).to(T) for _ in range(2))
        self.query = torch.randn(seqs, new, heads, size).to(T)
        self.out = torch.empty(seqs * new, heads, size, dtype=T)

    def rows(self, cache):
        """[tokens, kv_heads, size] of all sequences, as an operator writes them to its cache."""
        return cache.transpose(1, 2).reshape(-1, self.kv_heads, self.size).contiguous()

    def paged(self, block):
        """A block table with scattered blocks, their number, and the slots of all tokens."""
        width = -(-self.length // block)
        table = torch.randperm(self.seqs * width).view(self.seqs, width).to(torch.int32)
        token = torch.arange(self.length)
        slots = table[:, token // block].long() * block + token % block
        return table, self.seqs * width, slots.flatten()

    def theirs(self):
        query = self.query.transpose(1, 2)
        gqa = self.heads != self.kv_heads

        def run():
            out = F.scaled_dot_product_attention(query, self.key, self.value,
                                                 is_causal=self.new > 1, enable_gqa=gqa)
            return (out.transpose(1, 2),)

        return run

    def by_paged_attention(self):
        block, x = 16, 16 // self.key.element_size()
        table, blocks, slots = self.paged(block)
        keys = torch.zeros(blocks, self.kv_heads, self.size // x, block, x, dtype=self.T)
        values = torch.zeros(blocks, self.kv_heads, self.size, block, dtype=self.T)
        kvops.reshape_and_cache(key=self.rows(self.key), value=self.rows(self.value),
                                key_cache=keys, value_cache=values, slot_mapping=slots)
        lengths = torch.full((self.seqs,), self.length, dtype=torch.int32)
        query = self.query.view(-1, self.heads, self.size)
        return call("paged_attention_v1", self.out, query=query, key_cache=keys,
                    value_cache=values, block_table=table, seq_lens=lengths, out=self.out,
                    scale=self.size**-0.5, max_seq_len=self.length)

    def by_cpu_attention(self):
        tiles = self.T != torch.float32 and lib.kvops_cpu_attn_has_isa(3)
        block, isa = 32, "amx" if tiles else "vec"
        table, blocks, slots = self.paged(block)
        keys, values = (torch.zeros(blocks, self.kv_heads, block, self.size, dtype=self.T)
                        for _ in range(2))
        kvops.cpu_attn_reshape_and_cache(key=self.rows(self.key), value=self.rows(self.value),
                                         key_cache=keys, value_cache=values, slot_mapping=slots,
                                         isa=isa)
        lengths = torch.full((self.seqs,), self.length, dtype=torch.int32)
        starts = torch.arange(self.seqs + 1, dtype=torch.int32) * self.new
        every = {"causal": 1, "window_left": -1, "window_right": -1}
        request = dict(every, seq_lens=lengths, query_start_loc=starts, num_heads=self.heads,
                       num_kv_heads=self.kv_heads, head_size=self.size, isa=isa,
                       query_dtype={v: k for k, v in DTYPES.items()}[self.T], enable_kv_split=1)
        op = "cpu_attn_get_scheduler_metadata"
        shape = kvops.Tensor(None, "u8", (1 << 40,))
        plan = torch.zeros(kvops.workspace_bytes(op, scheduler_metadata=shape, **request),
                           dtype=torch.uint8)
        kvops.call(op, scheduler_metadata=plan, **request)
        request = dict(every, query=self.query.view(-1, self.heads, self.size), key_cache=keys,
                       value_cache=values, query_start_loc=starts, seq_lens=lengths,
                       block_table=table, scheduler_metadata=plan, out=self.out,
                       scale=self.size**-0.5)
        op = "cpu_attention_with_kv_cache"
        space = torch.zeros(max(1, kvops.workspace_bytes(op, **request)), dtype=torch.uint8)
        return call(op, self.out, workspace=space, **request)


def attention(**shape):
    context = Context(**shape)
    if has("cpu_attention_with_kv_cache"):
        return Pair(context.by_cpu_attention(), context.theirs())
    if context.new == 1:
        return Pair(context.by_paged_attention(), context.theirs())
    return None


# ---- matrix products ----------------------------------------------------------------------------


def linear(m, k, n, T):
    if not has("create_onednn_mm", "onednn_mm"):
        return None
    x, w, bias = (torch.randn(*s).to(T) / k**0.5 for s in ((m, k), (n, k), (n,)))
    handle = torch.zeros(1, dtype=torch.int64)
    kvops.create_onednn_mm(weight=w.t(), handle=handle)
    out = torch.empty(m, n, dtype=T)
    return Pair(call("onednn_mm", out, input=x, bias=bias, out=out, handle=handle.item()),
                lambda: (F.linear(x, w, bias),))


# ---- cases --------------------------------------------------------------------------------------

silu = gated("silu_and_mul", lambda a, out: torch.ops.aten.silu.out(a, out=out))
gelu = gated("gelu_and_mul",
             lambda a, out: torch.ops.aten.gelu.out(a, approximate="none", out=out))
gelu_tanh = gated("gelu_tanh_and_mul",
                  lambda a, out: torch.ops.aten.gelu.out(a, approximate="tanh", out=out))
DECODE = {"new": 1, "heads": 32, "kv_heads": 8, "size": 128}
PROMPT = {"seqs": 1, "kv_heads": 8, "heads": 32, "size": 128}
CASES = [  # name, how it is built, shape
    *(("rms_norm", rms_norm, {"n": n, "d": 4096}) for n in (1, 64, 4096)),
    *(("silu * mul", silu, {"n": n, "d": 14336}) for n in (1, 64, 2048)),
    *(("gelu * mul", gelu, {"n": n, "d": 14336}) for n in (1, 64, 2048)),
    *(("gelu_tanh * mul", gelu_tanh, {"n": n, "d": 14336}) for n in (1, 64)),
    *(("rotary", rotary_embedding, {"n": n, "heads": 32, "kv_heads": 8, "size": 128})
      for n in (1, 64, 2048)),
    *(("decode", attention, {"seqs": seqs, "length": length, **DECODE})
      for seqs, length in ((1, 512), (1, 8192), (16, 1024))),
    *(("prefill", attention, {"new": new, "length": new, **PROMPT}) for new in (128, 1024)),
    ("prefill", attention, {"new": 1024, "length": 1024, **PROMPT, "kv_heads": 32}),
    *(("linear", linear, {"m": m, "k": 4096, "n": 4096}) for m in (1, 16, 256)),
    ("linear", linear, {"m": 16, "k": 4096, "n": 14336}),
]


def sample(function, calls):
    # The other side's threads look for work a while longer before they sleep.
    time.sleep(0.01)
    function()
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls


def measure(pair, seconds):
    """Medians of both sides, in seconds a call."""
    functions = pair.ours, pair.theirs
    calls = [max(1, min(2000, int(seconds / 30 / max(sample(f, 1), 1e-7)))) for f in functions]
    times, end = ([], []), time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for side in (0, 1):
            times[side].append(sample(functions[side], calls[side]))
    return tuple(statistics.median(t) for t in times)


def text_of(seconds):
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("cases", nargs="*", help="words of case names (default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.5, help="per case")
    parser.add_argument("--dtypes", default="bf16,f32")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    kvops.set_num_threads(options.threads)
    row = "| {:<16} | {:<48} | {:>11} | {:>11} | {:>6} |" if options.markdown else (
        "{:<16} {:<48} {:>11} {:>11} {:>6}")
    print(f"torch {torch.__version__}, {options.threads} threads\n")
    print(row.format("work", "shape", "kvops", "PyTorch", "ratio"))
    if options.markdown:
        print("|---|---|--:|--:|--:|")
    slower = wrong = 0
    for name, build, shape in CASES:
        for dtype in options.dtypes.split(","):
            if options.cases and not any(word in name for word in options.cases):
                continue
            described = " ".join(f"{k}={v}" for k, v in shape.items()) + f" {dtype}"
            pair = build(**shape, T=DTYPES[dtype])
            if pair is None:
                print(row.format(name, described, "none", "", ""))
                continue
            if (worst := pair.worst()) > ALLOWED[dtype]:
                print(f"{name} {described}: results differ by {worst:.2e}", file=sys.stderr)
                wrong += 1
                continue
            ours, theirs = measure(pair, options.seconds)
            slower += theirs < 0.95 * ours
            print(row.format(name, described, text_of(ours), text_of(theirs),
                             f"{theirs / ours:.2f}"), flush=True)
    return wrong > 0 or (options.strict and slower > 0)


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
