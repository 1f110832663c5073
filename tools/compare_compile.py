#!/usr/bin/env python3
"""Times operators of libkvops on a GPU beside torch.compile of the same arithmetic.

    KVOPS_LIBRARY=build/libkvops.so PYTHONPATH=bindings/python tools/compare_compile.py

Both sides run as CUDA graphs of launches back to back, which cycle through sets of buffers of more
than four times the L2; replays alternate, medians of events. "ratio" is torch.compile's time over
ours. Each side's result is held against the other's first. --markdown writes a table for
docs/performance.md.
"""
import argparse
import statistics
import sys

import torch
from compare_torch import ALLOWED, DTYPES, text_of

import kvops

SPREAD = 240 << 20  # bytes that the buffer sets of a graph hold together, where 256 sets can
MAX_SETS, MAX_LAUNCHES, GRAPH_SECONDS, REPLAYS = 256, 1024, 0.004, 15


class Work:
    """What an operator does to a set of buffers: arguments for ours, a function for torch."""

    def __init__(self, op, scalars, function, outputs):
        self.op, self.scalars, self.outputs = op, scalars, outputs
        self.compiled = torch.compile(function, dynamic=False)

    def theirs(self, tensors):
        return lambda: self.compiled(**tensors)

    def ours(self, tensors, stream):
        return kvops.prepare(self.op, stream=stream, **tensors, **self.scalars)


def normalised(x, weight):
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).to(weight.dtype) * weight


def rms_norm(input, weight, out):
    out.copy_(normalised(input, weight))


def fused_add_rms_norm(input, residual, weight):
    residual.copy_(input + residual)
    input.copy_(normalised(residual, weight))


def silu_and_mul(input, out):
    d = out.shape[-1]
    out.copy_(torch.nn.functional.silu(input[:, :d]) * input[:, d:])


def buffers(op, n, d, T):
    def normal(*shape):
        return torch.randn(*shape, device="cuda").to(T)

    if op == "silu_and_mul":
        return {"input": normal(n, 2 * d), "out": normal(n, d)}
    last = {"residual": normal(n, d)} if op == "fused_add_rms_norm" else {"out": normal(n, d)}
    return {"input": normal(n, d), "weight": normal(d), **last}


WORKS = {
    "rms_norm": ({"epsilon": 1e-6}, rms_norm, ["out"]),
    "fused_add_rms_norm": ({"epsilon": 1e-6}, fused_add_rms_norm, ["input", "residual"]),
    "silu_and_mul": ({}, silu_and_mul, ["out"]),
}
CASES = [
    *((op, n, d) for op in ("rms_norm", "fused_add_rms_norm") for d in (4096, 8192)
      for n in (1, 64, 4096)),
    *(("silu_and_mul", n, 14336) for n in (1, 64, 4096)),
]


def differ(work, tensors, stream):
    """The largest difference of both sides' outputs, of the largest magnitude."""
    sides = [{name: tensor.clone() for name, tensor in tensors.items()} for _ in range(2)]
    work.ours(sides[0], stream)()
    work.theirs(sides[1])()
    torch.cuda.synchronize()
    worst = 0.0
    for name in work.outputs:
        a, b = (side[name].double() for side in sides)
        worst = max(worst, ((a - b).abs().max() / b.abs().max()).item())
    return worst


class Recorded:
    """Launches on successive sets, as a graph."""

    def __init__(self, functions, launches, stream):
        self.graph, self.launches, self.stream = torch.cuda.CUDAGraph(), launches, stream
        with torch.cuda.graph(self.graph, stream=stream):
            for i in range(launches):
                functions[i % len(functions)]()

    def seconds(self):
        """Of one launch."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self.stream):
            begin.record()
            self.graph.replay()
            end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / self.launches


def recorded(functions, stream):
    """A graph of about GRAPH_SECONDS."""
    for function in functions[:3]:
        function()
    trial = Recorded(functions, min(64, len(functions)), stream)
    each = min(trial.seconds() for _ in range(3))
    count = max(len(functions), int(GRAPH_SECONDS / each))
    return Recorded(functions, min(MAX_LAUNCHES, count), stream)


def measure(op, n, d, T):
    """(seconds of ours, of torch.compile), or the difference of their results."""
    stream = torch.cuda.Stream()
    scalars, function, outputs = WORKS[op]
    torch.compiler.reset()
    work = Work(op, scalars, function, outputs)
    first = buffers(op, n, d, T)
    if (worst := differ(work, first, stream)) > ALLOWED[{v: k for k, v in DTYPES.items()}[T]]:
        return worst
    size = sum(t.numel() * t.element_size() for t in first.values())
    sets = [first] + [buffers(op, n, d, T) for _ in range(min(MAX_SETS, SPREAD // size + 2) - 1)]
    torch.cuda.synchronize()
    sides = [recorded([work.ours(tensors, stream) for tensors in sets], stream),
             recorded([work.theirs(tensors) for tensors in sets], stream)]
    times = [[side.seconds() for side in sides] for _ in range(REPLAYS)]
    return tuple(statistics.median(side) for side in zip(*times))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(1)
    row = "| {} | {} | {} | {} | {} |" if options.markdown else "{:<20} {:<20} {:>10} {:>14} {:>6}"
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    print(row.format("operator", "shape", "kvops", "torch.compile", "ratio"))
    if options.markdown:
        print("|---|---|--:|--:|--:|")
    wrong = 0
    for op, n, d in CASES:
        times = measure(op, n, d, DTYPES[options.dtype])
        if isinstance(times, float):
            print(f"{op} n={n} d={d}: results differ by {times:.2e}", file=sys.stderr)
            wrong += 1
            continue
        ours, theirs = times
        print(row.format(op, f"n={n} d={d} {options.dtype}", text_of(ours), text_of(theirs),
                         f"{theirs / ours:.2f}"), flush=True)
    return wrong > 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
