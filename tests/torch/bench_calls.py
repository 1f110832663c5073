#!/usr/bin/env python3
# What a call through torch.ops costs, in microseconds: reshape_and_cache of one token, so that
# almost nothing is computed. On a GPU: until the call returns, the queue being emptied between
# rounds. The best of several rounds: other programs only ever add time.
import timeit

import torch

import kvops
import kvops.torch
from kvops.torch.calls import KERNELS


def best(function, synchronise, calls=2000, rounds=9):
    times = []
    for _ in range(rounds):
        synchronise()
        times.append(timeit.timeit(function, number=calls) / calls * 1e6)
    return min(times)


def measure(device):
    key = torch.ones(1, 1, 64, device=device)
    caches = (torch.zeros(2, 1, 16, 16, 4, device=device), torch.zeros(2, 1, 64, 16, device=device))
    slots, one = torch.zeros(1, dtype=torch.int64, device=device), torch.ones(1, device=device)
    arguments = key, key, *caches, slots, "auto", one, one
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else None
    views = [kvops.Tensor(t.data_ptr(), "i64" if t is slots else "f32", t.shape, t.stride(),
                          device) for t in (key, *caches, slots)]
    prepared = kvops.prepare("reshape_and_cache", key=views[0], value=views[0], key_cache=views[1],
                             value_cache=views[2], slot_mapping=views[3], stream=stream)
    through = torch.ops._C_cache_ops.reshape_and_cache
    direct = KERNELS["reshape_and_cache"]
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    return {"torch.ops, 5 tensors of 7": best(lambda: through(*arguments), synchronise),
            "our part of it": best(lambda: direct(*arguments), synchronise),
            "prepared call": best(prepared, synchronise)}


if __name__ == "__main__":
    kvops.torch.register()
    kvops.set_num_threads(1)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for name, time in measure(device).items():
            print(f"{device:5} {name:28} {time:6.2f} us")
