# The next token from logits: the largest (temperature 0), or one drawn from softmax(logits / T) cut
# to the top_k likeliest and to the fewest whose probabilities reach top_p. A sequence draws from a
# generator of its own, so its text does not depend on what runs beside it.
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0


def generator(sampling, index):
    """The random numbers of sequence `index`."""
    return np.random.Generator(np.random.PCG64([sampling.seed, index]))


def pick(logits, sampling, random):
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    mass = np.cumsum(np.exp(scaled - scaled[0]))
    # Those before which less than top_p of the mass lies: at least one.
    kept = np.searchsorted(mass, sampling.top_p * mass[-1], side="left") + 1
    mass = mass[:kept]
    drawn = np.searchsorted(mass, random.random() * mass[-1], side="right")
    return int(order[min(drawn, len(mass) - 1)])
