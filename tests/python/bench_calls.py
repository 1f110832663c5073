#!/usr/bin/env python3
# What a call costs from Python, in microseconds: operators of one row of 8 elements, so that almost
# nothing is computed. The best of several rounds: other programs only ever add time.
import json
import sys
import timeit

import numpy as np

import kvops


def best(function, calls=20000, rounds=7):
    return min(timeit.repeat(function, number=calls, repeat=rounds)) / calls * 1e6


def measure():
    x = np.ones((1, 8), np.float32)
    out = np.empty_like(x)
    weight = np.ones(8, np.float32)
    kvops.set_num_threads(1)
    arguments = {"input": x, "weight": weight, "out": out, "epsilon": 1e-6}
    call = kvops.prepare("rms_norm", **arguments)
    call()
    raw, pointer = call.op.run, call._pointer
    return {
        "C function through ctypes": best(lambda: raw(pointer)),
        "prepared call": best(call),
        "rms_norm(...), three NumPy arrays": best(lambda: kvops.rms_norm(**arguments)),
        "prepare(...)": best(lambda: kvops.prepare("rms_norm", **arguments)),
        "query(...)": best(lambda: kvops.query("rms_norm", **arguments)),
    }


if __name__ == "__main__":
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:36} {time:6.2f} us" for name, time in found.items()))
