"""The k largest logits of every row between its own start and end."""
import numpy as np

from common import random_state, save_case, tensor
from common_top_k import ORDERS, f32_bits, logits, top_k


def case(name, rows, columns, k, order="unordered", kind="normal", whole=False):
    random = random_state("top_k_per_row_prefill", name)
    bits = logits(random, rows, columns, kind)
    starts, ends = np.zeros(rows, int), np.full(rows, columns)
    if not whole:  # also empty, crossing and past the columns on either side
        starts = random.randint(-columns // 4, columns, rows)
        ends = starts + random.randint(-3, columns, rows)
        if rows:
            starts[:3], ends[:3] = (-5, columns, 4), (columns + 9, columns + 3, 4 + k)
    best = np.array([top_k(b, s, e, k, order) for b, s, e in zip(bits, starts, ends)])
    inputs = {"logits": f32_bits(bits), "row_starts": tensor("i32", starts),
              "row_ends": tensor("i32", ends)}
    save_case("top_k_per_row_prefill", name, inputs,
              {"indices": tensor("i32", best.reshape(rows, k))},
              {"order": ORDERS[order]} if ORDERS[order] else {})


if __name__ == "__main__":
    case("unordered", 14, 70, 19)
    case("by-value", 12, 50, 17, "by_value", "few")
    case("by-index", 12, 50, 17, "by_index", "few")
    case("special-by-value", 10, 60, 23, "by_value", "special")
    case("special-by-index", 10, 60, 23, "by_index", "special")
    case("low-bits", 1, 9001, 600, "by_index", "low-bits", whole=True)
    case("no-row", 0, 5, 3)
