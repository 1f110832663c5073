#!/usr/bin/env python3
# What a call through torch.ops costs, in microseconds, until it returns: operators on one token, so
# that almost nothing is computed. Queues are emptied between rounds; the best of several rounds, as
# other programs only ever add time.
#
#   ops      torch.ops._C_cache_ops.<operator>(...)
#   vLLM's   the same under torch.inference_mode(), as vLLM's model runner calls it
#   ours     the part below torch's dispatcher
#   C        a prepared call: the library alone, validation to launch
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


def mla(device):
    """Five tensors: concat_and_cache_mla to an fp8 cache."""
    kv_c, k_pe = torch.ones(1, 512, device=device), torch.ones(1, 64, device=device)
    cache = torch.zeros(2, 16, 576, dtype=torch.uint8, device=device)
    slots, one = torch.zeros(1, dtype=torch.int64, device=device), torch.ones(1, device=device)
    return "concat_and_cache_mla", (kv_c, k_pe, cache, slots, "fp8", one), dict(
        kv_c=kv_c, k_pe=k_pe, kv_cache=(cache, "f8_e4m3"), slot_mapping=slots, kv_scale=one)


def packed(device):
    """Seven tensors, of which five are read: reshape_and_cache to a cache of the same dtype."""
    key, value = (torch.ones(1, 1, 64, device=device) for _ in range(2))
    caches = (torch.zeros(2, 1, 16, 16, 4, device=device), torch.zeros(2, 1, 64, 16, device=device))
    slots, one = torch.zeros(1, dtype=torch.int64, device=device), torch.ones(1, device=device)
    return "reshape_and_cache", (key, value, *caches, slots, "auto", one, one), dict(
        key=key, value=value, key_cache=caches[0], value_cache=caches[1], slot_mapping=slots)


def measure(device, make):
    name, arguments, named = make(device)
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else None
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    views = {}
    for key, t in named.items():
        t, dtype = t if isinstance(t, tuple) else (t, str(t.dtype).replace("torch.", ""))
        views[key] = kvops.Tensor(t.data_ptr(), dtype, t.shape, t.stride(), device)
    prepared = kvops.prepare(name, stream=stream, **views)
    through, direct = getattr(torch.ops._C_cache_ops, name), KERNELS[name]
    found = {"ops": best(lambda: through(*arguments), synchronise)}
    with torch.inference_mode():
        found["vLLM's"] = best(lambda: through(*arguments), synchronise)
    found["ours"] = best(lambda: direct(*arguments), synchronise)
    found["C"] = best(prepared, synchronise)
    return name, found


if __name__ == "__main__":
    kvops.torch.register()
    kvops.set_num_threads(1)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for make in (mla, packed):
            name, found = measure(device, make)
            times = "  ".join(f"{what} {time:5.2f}" for what, time in found.items())
            print(f"{device:5} {name:22} {times}  us")
