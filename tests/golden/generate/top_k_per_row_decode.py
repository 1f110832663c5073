"""The k largest logits of every row up to a length: one per request, or one per row."""
import numpy as np

from common import random_state, save_case, tensor
from common_top_k import ORDERS, f32_bits, logits, top_k


def case(name, batch, next_n, columns, k, form, order="unordered", kind="normal"):
    random = random_state("top_k_per_row_decode", name)
    rows = batch * next_n
    bits = logits(random, rows, columns, kind)
    if form == "rows":
        lengths = random.randint(-2, columns + 4, (batch, next_n))
        ends = lengths.reshape(-1)
    else:
        lengths = random.randint(0, columns + 4, batch)
        lengths[0] = next_n - 1  # the first row of this request has nothing
        ends = np.repeat(lengths, next_n) - next_n + np.tile(np.arange(next_n), batch) + 1
        lengths = lengths.reshape(batch, 1) if form == "column" else lengths
    best = np.array([top_k(b, 0, max(0, e), k, order) for b, e in zip(bits, ends)])
    scalars = {"next_n": next_n}
    if ORDERS[order]:
        scalars["order"] = ORDERS[order]
    save_case("top_k_per_row_decode", name,
              {"logits": f32_bits(bits), "seq_lens": tensor("i32", lengths)},
              {"indices": tensor("i32", best.reshape(rows, k))}, scalars)


if __name__ == "__main__":
    case("requests", 3, 4, 40, 9, "requests", "by_value")
    case("column", 4, 3, 40, 9, "column", kind="few")
    case("rows", 3, 4, 40, 9, "rows", "by_index", "special")
