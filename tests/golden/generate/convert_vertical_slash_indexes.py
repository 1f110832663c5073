"""Key blocks and columns of every row block, by the steps of the header, one after the other."""
import numpy as np

from common import random_state, save_case, tensor


def convert(q, lq, lk, verticals, slashes, m, n, causal):
    """The blocks and columns of the row block that begins at query q < lq."""
    verticals = [v for v in verticals if 0 <= v < lk]
    bound = q + m + (lk - lq if causal else lk)
    blocks, columns, v, s, none = [], [], 0, 0, bound if causal else lk

    def add(lo, hi):
        if lo >= 0:
            blocks.extend(range(lo, min(hi, lk), n))

    if not len(slashes):
        lo = hi = none
    else:
        while slashes[s] >= bound and s + 1 < len(slashes):
            s += 1
        hi = max(bound - slashes[s], m)
        lo = hi - m
        if slashes[s] > bound:
            lo, hi = none, none + n
        s += 1
    while True:
        if v < len(verticals) and verticals[v] < hi:
            if verticals[v] < lo:
                columns.append(verticals[v])
            v += 1
        elif s < len(slashes) and (causal or slashes[s] >= q):
            e = max(bound - slashes[s], m)
            s += 1
            if e > hi + m:
                add(lo, hi)
                lo, hi = e - m, e
            elif e > hi:
                hi += m
        else:
            add(lo, hi)
            return blocks, columns if causal else columns + verticals[v:]


def inputs_of(random, batch, heads, rows, nv, ns, m):
    span = rows * m
    q = random.randint(1, span + 1, batch)
    kv = q + random.randint(0, span, batch)
    verticals = np.sort(random.randint(-2, 2 * span + 3, (batch, heads, nv)), axis=-1)
    slashes = -np.sort(-random.randint(0, 2 * span, (batch, heads, ns)), axis=-1)
    if ns:
        slashes[0, :, -1] = 0
    verticals[-1, -1] = random.permutation(verticals[-1, -1])  # lists out of order are legal
    slashes[-1, -1] = random.permutation(slashes[-1, -1])
    return q, kv, verticals, slashes


def case(op, name, batch, heads, rows, nv, ns, m, n, causal, counts=None, faults=True):
    random = random_state(op, name)
    q, kv, verticals, slashes = inputs_of(random, batch, heads, rows, nv, ns, m)
    if not faults:
        verticals = np.minimum(verticals, kv[:, None, None] - 1)
    nvs, nss = counts or ([nv] * heads, [ns] * heads)
    before = {"block_offset": random.randint(-99, 0, (batch, heads, rows, ns)),
              "column_index": random.randint(-99, 0, (batch, heads, rows, nv))}
    after = {name: values.copy() for name, values in before.items()}
    after["block_count"] = np.zeros((batch, heads, rows), int)
    after["column_count"] = after["block_count"].copy()
    bad = 0
    for b, h, r in np.ndindex(batch, heads, rows):
        v = verticals[b, h, :min(max(nvs[h], 0), nv)]
        s = slashes[b, h, :min(max(nss[h], 0), ns)]
        bad += int((v >= kv[b]).sum()) if r == 0 else 0
        if r * m >= q[b]:
            continue
        found = convert(r * m, q[b], kv[b], v, s, m, n, causal)
        for part, count, values in zip(("block_offset", "column_index"),
                                       ("block_count", "column_count"), found):
            after[count][b, h, r] = len(values)
            after[part][b, h, r, :len(values)] = values
    inputs = {"q_seq_lens": q, "kv_seq_lens": kv, "vertical_indexes": verticals,
              "slash_indexes": slashes, **before}
    if counts:
        inputs["vertical_indices_count"], inputs["slash_indices_count"] = nvs, nss
    inputs = {name: tensor("i32", values) for name, values in inputs.items()}
    expected = {name: tensor("i32", values) for name, values in after.items()}
    assert faults or not bad
    if faults:
        expected["faults"] = tensor("i64", [5 + bad])
    scalars = {"block_size_m": m, "block_size_n": n, "causal": int(causal)}
    save_case(op, name, inputs, expected, {k: v for k, v in scalars.items() if v})


if __name__ == "__main__":
    OP = "convert_vertical_slash_indexes"
    case(OP, "causal", 3, 2, 6, 13, 17, 8, 8, True)
    case(OP, "not-causal", 3, 2, 6, 13, 17, 8, 12, False, faults=False)
