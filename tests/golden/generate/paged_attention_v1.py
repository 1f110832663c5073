"""One query token per sequence over a paged cache: softmax(scale * q.k) v and its variants.

Every slot that no live token fills holds NaN, every block table entry past a sequence a wild
number: neither may be seen. Also imported by paged_attention_v2.py: the operators are the same.
"""
import numpy as np

from common import decode, encode, random_state, rounded, save_case, tensor

NEUTRAL = dict(softcap=0.0, max_seq_len=0, window=0, batch_invariant=0, tp_rank=0,
               blocksparse_local_blocks=0, blocksparse_vert_stride=0, blocksparse_block_size=0,
               blocksparse_head_sliding_step=0)


def keeps(c, first, head, heads, kv_heads, length):
    """Does the block-sparse pattern keep the cache block that starts at token `first`?"""
    stride, size = c["blocksparse_vert_stride"], c["blocksparse_block_size"]
    if stride <= 1:
        return True
    step, group = c["blocksparse_head_sliding_step"], head // (heads // kv_heads)
    offset = 1 + ((c["tp_rank"] * heads + head) * step if step >= 0
                  else (c["tp_rank"] * kv_heads + group) * -step)
    at, last = first // size, (length - 1) // size
    return (at + offset) % stride == 0 or at > last - c["blocksparse_local_blocks"]


def reference(q, k, v, table, lens, c, alibi=None, sinks=None):
    """k, v: [blocks, kv_heads, block, size] in float64. Returns out, lse, faults."""
    (seqs, heads, size), (blocks, kv_heads, block, _) = q.shape, k.shape
    out, lse, faults = np.zeros(q.shape), np.full((seqs, heads), -np.inf), set()
    limit = table.shape[1] * block
    if c["max_seq_len"]:
        limit = min(limit, c["max_seq_len"])
    for s in range(seqs):
        if lens[s] > limit:
            faults.add(("length", s))
        length = min(int(lens[s]), limit)
        first = max(0, length - c["window"]) if c["window"] else 0
        for h in range(heads):
            logits, values, group = [], [], h // (heads // kv_heads)
            for t in range(first, length):
                if not keeps(c, t // block * block, h, heads, kv_heads, length):
                    continue
                b = int(table[s, t // block])
                if not 0 <= b < blocks:
                    faults.add((s, t // block))
                    continue
                a = c["scale"] * (q[s, h] @ k[b, group, t % block])
                if c["softcap"]:
                    a = c["softcap"] * np.tanh(a / c["softcap"])
                logits.append(a + (alibi[h] * (t - length + 1) if alibi is not None else 0))
                values.append(v[b, group, t % block])
            sink = -np.inf if sinks is None else sinks[h]
            top = max(logits + [sink])
            if top == -np.inf:
                continue
            weights = np.exp(np.array(logits) - top)
            z = weights.sum() + np.exp(sink - top)
            lse[s, h] = np.log(z) + top
            if logits:
                out[s, h] = weights @ np.array(values) / z
    return out, lse, len(faults)


def case(name, q="bf16", cache=None, heads=4, kv_heads=2, size=16, block=16,
         lens=(0, 1, 15, 16, 17, 40), k_scale=None, v_scale=None, alibi=False, sinks=False,
         lse=False, bad=(), width=None, faults=None, spread=1.0, probe=False, layouts=False,
         op="paged_attention_v1", **options):
    """bad: ((sequence, column, block id), ...). probe: keys are zero but for one element each."""
    random = random_state("paged_attention", name)
    cache, seqs = cache or q, len(lens)
    columns = [-(-max(n, 0) // block) for n in lens]
    width = max(columns + [1]) + 1 if width is None else width
    blocks = sum(min(n, width) for n in columns) + 1
    options["scale"] = size**-0.5 * spread
    c = dict(NEUTRAL, **options)
    query = rounded(random.standard_normal((seqs, heads, size)), q)
    shape = (blocks, kv_heads, block, size)
    k = decode(encode(random.standard_normal(shape) / (k_scale or 1), cache), cache)
    v = decode(encode(random.standard_normal(shape) / (v_scale or 1), cache), cache)
    # Every sequence has blocks of its own, in no order; block 0 belongs to nobody.
    table = random.randint(-2**31, 2**31 - 1, (seqs, width))
    free = list(1 + random.permutation(blocks - 1))
    live = np.zeros((blocks, block), bool)
    for s, n in enumerate(lens):
        for j in range(min(columns[s], width)):
            table[s, j] = free.pop()
            live[table[s, j], :max(0, min(block, n - j * block))] = True
    for s, j, b in bad:
        table[s, j] = b
    if probe:
        mark = np.zeros(shape, bool)
        for s, n in enumerate(lens):
            t = random.randint(n)
            k[table[s, t // block], :, t % block] = 0
            mark[table[s, t // block], :, t % block, random.randint(size, size=kv_heads)] = True
        k = np.where(mark, 64.0, 0.0)
    for x in (k, v):
        x.swapaxes(1, 2)[~live] = np.nan
    f32 = lambda x: rounded(x, "f32")  # noqa: E731
    slopes = f32(random.standard_normal(heads)) if alibi else None
    sink = f32(random.standard_normal(heads)) if sinks else None
    ks, vs = f32(k_scale or 1.0), f32(v_scale or 1.0)
    with np.errstate(invalid="ignore"):
        out, logs, wrong = reference(query, k * ks, v * vs, table, lens, c, slopes, sink)
    x = {"f32": 4, "f16": 8, "bf16": 8}.get(cache, 16)
    packed = k.reshape(blocks, kv_heads, block, size // x, x)
    inputs = {"query": tensor(q, query),
              "key_cache": tensor(cache, packed.transpose(0, 1, 3, 2, 4)),
              "value_cache": tensor(cache, v.transpose(0, 1, 3, 2)),
              "block_table": tensor("i32", table),
              "seq_lens": tensor("i32", np.array(lens, np.int64))}
    expected = {"out": tensor(q, out)}
    for key, value in (("k_scale", k_scale), ("v_scale", v_scale)):
        if value is not None:
            inputs[key] = tensor("f32", np.array([value]))
    if alibi:
        inputs["alibi_slopes"] = tensor("f32", slopes)
    if sinks:
        inputs["sinks"] = tensor("f32", sink)
    if lse:
        expected["lse"] = tensor("f32", logs)
    if faults is not None:
        assert wrong == faults, (name, wrong)
        expected["faults"] = tensor("i64", [5 + faults])
    # NHD and HND caches are permuted views: the same bits must come out.
    orders = {"key_cache": ["03124", "01324"], "value_cache": ["0312", "0132"]} if layouts else None
    save_case(op, name, inputs, expected, options, orders=orders)


def cases():
    for dtype in ("f32", "f16", "bf16"):
        case("layouts-" + dtype, dtype, size=64, layouts=True)
        case("options-" + dtype, dtype, alibi=True, sinks=True, lse=True, softcap=2.0, window=19)
    scales = dict(k_scale=0.37, v_scale=1.7)
    for cache, dtype in (("f8_e4m3", "bf16"), ("f8_e5m2", "f16"), ("f8_e4m3fnuz", "f32"),
                         ("f8_e5m2fnuz", "bf16")):
        case("%s-%s" % (cache, dtype), dtype, cache, lens=(1, 23, 0), layouts=True, **scales)
    case("f8-block-3", "f32", "f8_e5m2", block=3, lens=(0, 1, 3, 4, 2, 9), **scales)
    case("group-5", "f32", heads=10, lens=(33, 2))
    for size in (120, 512):
        case("size-%d" % size, "f16", size=size, block=2, lens=(7,), heads=3, kv_heads=1)
    case("block-7", block=7, lens=(0, 1, 6, 7, 8, 17))
    for dtype in ("f32", "bf16"):
        case("probe-" + dtype, dtype, probe=True, spread=9.0, lens=(1, 16, 31, 50))
    case("f8-probe", "f16", "f8_e4m3", probe=True, spread=9.0, lens=(1, 16, 31, 50), k_scale=1.0,
         v_scale=1.0)
    case("sharp", "f32", spread=8.0, lens=(40, 3, 0, 77), lse=True)
    case("long", "f16", heads=2, kv_heads=1, lens=(1100, 513), lse=True)
    case("negative-length", "bf16", lens=(-1, 5, -2**31, 0), lse=True, faults=0)
    case("no-sequence", "bf16", lens=())
    case("window-20", "f32", window=20, faults=0, lse=True)
    # Faults: what is skipped, what is cut, what is not needed and so not looked at.
    wild = ((0, 0, -1), (1, 1, 11), (1, 2, 2**31 - 1), (2, 3, -2**31))
    case("bad-blocks", "f32", lens=(40, 50, 33), bad=wild, lse=True, faults=3)
    case("bad-blocks-all", lens=(16, 20), bad=((0, 0, 4), (1, 0, 99), (1, 1, -7)), lse=True,
         faults=3)
    case("bad-blocks-window", "f32", lens=(50,), bad=((0, 0, -1), (0, 3, -1)), window=20,
         faults=1)
    case("beyond-table", "f32", lens=(49, 48, 2**31 - 1), width=3, lse=True, alibi=True, faults=2)
    case("beyond-max-seq-len", "f32", lens=(41, 40, 39), max_seq_len=40, faults=1)
    sparse = dict(block=4, lens=(0, 1, 3, 8, 9, 37), blocksparse_block_size=8, lse=True)
    for step, rank in ((-2, 3), (0, 1), (1, 3), (3, 0)):
        case("sparse%+d-rank-%d" % (step, rank), "f32", tp_rank=rank, blocksparse_vert_stride=3,
             blocksparse_local_blocks=1, blocksparse_head_sliding_step=step, **sparse)
    case("sparse-no-local", "f32", blocksparse_vert_stride=9, blocksparse_head_sliding_step=1,
         **sparse)
    case("sparse-local-only", "bf16", blocksparse_vert_stride=1000, blocksparse_local_blocks=2,
         blocksparse_head_sliding_step=1, **sparse)
    # Column 4 of the one sequence is kept by head 0 alone, and bad; column 5 is kept by neither.
    case("sparse-bad-blocks", "f32", block=4, lens=(37,), blocksparse_block_size=4, heads=2,
         blocksparse_vert_stride=5, blocksparse_head_sliding_step=2, blocksparse_local_blocks=1,
         bad=((0, 4, -1), (0, 5, -1)), faults=1)


if __name__ == "__main__":
    cases()
