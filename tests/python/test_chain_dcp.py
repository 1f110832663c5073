# Decode-context parallelism from end to end, on simulated ranks: each rank stores the tokens that
# it owns, gathers its shard of the context chunk by chunk, and attention over what all ranks
# gathered, merged by log-sum-exp, is attention over the whole context.
import ml_dtypes
import numpy as np
import pytest

from mla import (BF16, BLOCK, E4M3, ENTRY, LATENT, ROPE, attend, ds_mla_records, ds_mla_rows, ops,
                 pages, pow2_scale, rope_table, same_bytes, starts_of)

pytestmark = pytest.mark.usefixtures("place")

CONTEXTS = (11, 300, 0, 517, 64)
FORMATS = ("plain", "fp8", "fp8_ds_mla")
KV_SCALE = np.float32(0.037)


class World:
    """N ranks that take turns of S tokens. N pages, one of each, have one entry of the table."""

    def __init__(self, ranks, turn, block=BLOCK):
        self.ranks, self.turn, self.block = ranks, turn, block

    def owner(self, position):
        return position % (self.block * self.ranks) // self.turn % self.ranks

    def local(self, position):
        """Where the owner keeps a token, counted over its own tokens of the request."""
        virtual, v = np.divmod(position, self.block * self.ranks)
        return virtual * self.block + v // (self.ranks * self.turn) * self.turn + v % self.turn

    def slots(self, line, positions, rank):
        """Of one request with this line of the table; -1: another rank stores the token."""
        local = self.local(positions)
        slot = line[local // self.block].astype(np.int64) * self.block + local % self.block
        return np.where(self.owner(positions) == rank, slot, -1)

    def count(self, rank, length):
        """Tokens of a request of this length that a rank owns."""
        base = length // self.turn // self.ranks * self.turn
        return base + np.clip(length - base * self.ranks - rank * self.turn, 0, self.turn)

    def padded(self, length):
        """The same on every rank, and never less than a rank has."""
        return -(-length // (self.turn * self.ranks)) * self.turn


@pytest.mark.parametrize("ranks,turn,block", [(2, 1, 4), (2, 4, 4), (4, 2, 8), (8, 1, 64),
                                              (4, 64, 64)])
def test_local_positions_are_dense(ranks, turn, block):
    world = World(ranks, turn, block)
    for length in (0, 1, 11, 3 * block * ranks + 5):
        positions = np.arange(length)
        for rank in range(ranks):
            mine = world.local(positions[world.owner(positions) == rank])
            assert np.array_equal(mine, np.arange(world.count(rank, length)))
            assert len(mine) <= world.padded(length) <= -(-length // (block * ranks)) * block


def stored(form, rows):
    """What a cache keeps of bf16 rows [tokens, 576]."""
    if form == "plain":
        return rows
    if form == "fp8":
        return (rows.astype(np.float32) / KV_SCALE).astype(E4M3)
    return ds_mla_records(rows[:, :LATENT], rows[:, LATENT:])


def read(form, entries):
    """Kept entries back to bf16."""
    if form == "plain":
        return entries
    if form == "fp8":
        return (entries.astype(np.float32) * KV_SCALE).astype(BF16)
    return ds_mla_rows(entries)


class Shards:
    """The caches of all ranks, with a context of some requests; unused bytes are 0xA5."""

    def __init__(self, rng, world, form, contexts=CONTEXTS, rows=None):
        self.world, self.form, self.contexts = world, form, contexts
        self.table, blocks = pages(rng, contexts, world.block * world.ranks)
        kind = {"plain": BF16, "fp8": E4M3, "fp8_ds_mla": np.uint8}[form]
        width = 656 if form == "fp8_ds_mla" else ENTRY
        self.rows = (rng.standard_normal((sum(contexts), ENTRY)).astype(BF16)
                     if rows is None else rows)
        self.caches = [np.full((blocks, world.block, width * np.dtype(kind).itemsize), 0xA5,
                               np.uint8).view(kind) for _ in range(world.ranks)]
        for rank, cache in enumerate(self.caches):
            slots = [world.slots(self.table[b], np.arange(n), rank)
                     for b, n in enumerate(contexts)]
            ops.concat_and_cache_mla(
                kv_c=self.rows[:, :LATENT], k_pe=self.rows[:, LATENT:], kv_cache=cache,
                slot_mapping=np.concatenate(slots), kv_scale=np.array([KV_SCALE]),
                format="fp8_ds_mla" if form == "fp8_ds_mla" else "plain")

    def gather(self, rank, lengths, first):
        """Rows [first, first + length) of every request, counted locally; stale ones included."""
        form, cu = self.form, starts_of(lengths)
        out = np.empty((sum(lengths), ENTRY), BF16)
        faults = np.zeros(1, np.int64)
        common = {"kv_cache": self.caches[rank], "block_table": self.table, "out": out,
                  "seq_starts": np.full(len(lengths), first, np.int32), "faults": faults}
        if form == "plain":
            ops.cp_gather_cache(cu_seq_lens=cu, **common)
        elif form == "fp8":
            ops.gather_and_maybe_dequant_cache(cu_seq_lens=cu, kv_scale=np.array([KV_SCALE]),
                                                 **common)
        else:
            ops.cp_gather_and_upconvert_fp8_kv_cache(workspace_starts=cu, **common)
        assert faults[0] == 0, "stale rows lie inside allocated pages"
        return out

    def expected(self, rank, lengths, first):
        """The same by plain indexing."""
        flat, found = self.caches[rank].reshape(-1, self.caches[rank].shape[-1]), []
        for b, n in enumerate(lengths):
            at = np.arange(first, first + n)
            found.append(flat[self.table[b, at // self.world.block].astype(np.int64) *
                              self.world.block + at % self.world.block])
        with np.errstate(all="ignore"):
            return read(self.form, np.concatenate(found))

    def chunks(self, tokens):
        """Per chunk: its first local row, and the padded length of every request."""
        step = self.world.padded(tokens)
        padded = [self.world.padded(n) for n in self.contexts]
        for first in range(0, max(padded), step):
            yield first, [int(np.clip(n - first, 0, step)) for n in padded]

    def parts(self, first, lengths):
        """What a chunk brings together: [request][rank] -> its real rows."""
        gathered = [self.gather(rank, lengths, first) for rank in range(self.world.ranks)]
        begin = starts_of(lengths)
        keep = [[min(max(0, self.world.count(rank, n) - first), lengths[b])
                 for rank in range(self.world.ranks)] for b, n in enumerate(self.contexts)]
        return [[gathered[rank][begin[b]:begin[b] + n] for rank, n in enumerate(ns)]
                for b, ns in enumerate(keep)]


WORLDS = [(1, 1), (2, 1), (2, 4), (2, 64), (4, 1), (4, 4), (4, 64)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("ranks,turn", WORLDS)
def test_chunks_of_all_ranks_are_the_context(rng, ranks, turn, form):
    world = World(ranks, turn)
    shards = Shards(rng, world, form)
    begin = starts_of(CONTEXTS)
    seen = [[] for _ in CONTEXTS]
    for first, lengths in shards.chunks(200):
        for rank in range(ranks):
            with np.errstate(all="ignore"):
                got = shards.gather(rank, lengths, first)
                want = shards.expected(rank, lengths, first)
            assert same_bytes(got, want) or same_numbers(got, want)
        for b, parts in enumerate(shards.parts(first, lengths)):
            positions = np.arange(CONTEXTS[b])
            for rank, rows in enumerate(parts):
                mine = positions[world.owner(positions) == rank][first:first + lengths[b]]
                want = read(form, stored(form, shards.rows[begin[b] + mine]))
                assert same_bytes(rows, want), "rank-major, ascending within a rank"
                seen[b] += mine.tolist()
    assert [sorted(s) for s in seen] == [list(range(n)) for n in CONTEXTS]


def same_numbers(a, b):
    """Stale records may decode to NaN, whose payload is nobody's business."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


def test_order_of_the_example():
    world = World(2, 1)
    order = [p for rank in range(2) for p in range(11) if world.owner(p) == rank]
    assert order == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9]
    assert world.padded(11) == 6 and [world.count(r, 11) for r in range(2)] == [6, 5]
    world = World(2, 4, 4)
    assert [world.count(r, 11) for r in range(2)] == [7, 4]


def test_ranks_rotate_every_token_and_store_their_own(rng):
    """Slots of -1 mean another rank's token, or padding: all rows are rotated."""
    world, tokens, padding, heads = World(2, 4), 150, 6, 4
    table, blocks = pages(rng, (tokens,), world.block * world.ranks)
    k_pe = rng.standard_normal((tokens + padding, ROPE)).astype(BF16)
    q_pe = rng.standard_normal((tokens + padding, heads, ROPE)).astype(BF16)
    latent = rng.standard_normal((tokens + padding, LATENT)).astype(BF16)
    positions = np.concatenate([np.arange(tokens), np.zeros(padding)]).astype(np.int64)
    cos_sin = rope_table(rng, tokens)

    def rotated(x):
        """Interleaved pairs, three roundings to bf16."""
        f = np.float32
        c, s = (p[:, None].astype(f) for p in np.split(cos_sin[positions], 2, -1))
        y = x.reshape(len(x), -1, ROPE)
        a, b = y[..., 0::2].astype(f), y[..., 1::2].astype(f)
        out = np.empty_like(y)
        product = lambda u, v: (u * v).astype(BF16).astype(f)  # noqa: E731
        out[..., 0::2] = (product(a, c) - product(b, s)).astype(BF16)
        out[..., 1::2] = (product(b, c) + product(a, s)).astype(BF16)
        return out.reshape(x.shape)

    want_q, want_k = rotated(q_pe), rotated(k_pe)
    for rank in range(world.ranks):
        q, k = q_pe.copy(), k_pe.copy()
        cache = np.full((blocks, BLOCK, ENTRY * 2), 0xA5, np.uint8).view(BF16)
        slots = world.slots(table[0], np.arange(tokens), rank)
        ops.concat_and_cache_mla_rope_fused(
            positions=positions, q_pe=q, k_pe=k, kv_c=latent, cos_sin_cache=cos_sin,
            kv_cache=cache, slot_mapping=slots, is_neox=False)
        assert same_bytes(q, want_q) and same_bytes(k, want_k)
        mine = np.flatnonzero(slots >= 0)
        out = np.empty((len(mine), ENTRY), BF16)
        ops.cp_gather_cache(kv_cache=cache, block_table=table, out=out,
                              cu_seq_lens=np.array([0, len(mine)], np.int32))
        assert same_bytes(out, np.concatenate([latent[mine], want_k[mine]], -1))
        rest = np.delete(cache.reshape(-1, ENTRY), slots[mine], 0).view(np.uint8)
        assert np.all(rest == 0xA5)


class Merger:
    """Attention of all queries, merged part by part with merge_attn_states."""

    def __init__(self, queries, dtype):
        self.queries, self.dtype = queries, dtype  # [requests][heads, 576]
        heads = queries[0].shape[0]
        self.out = np.zeros((len(queries), heads, LATENT), dtype)
        self.lse = np.full((heads, len(queries)), -np.inf, np.float32)

    def add(self, rows):
        """rows: what each query attends to next."""
        out, lse = np.zeros_like(self.out), np.full_like(self.lse, -np.inf)
        for b, part in enumerate(rows):
            if len(part):
                values, lse[:, b] = attend(self.queries[b], part)
                out[b] = values.astype(self.dtype)
        ops.merge_attn_states(prefix_output=self.out, prefix_lse=self.lse, suffix_output=out,
                                suffix_lse=lse, out=self.out, out_lse=self.lse)


@pytest.mark.parametrize("each_rank", [False, True], ids=["gathered", "each-rank"])
@pytest.mark.parametrize("dtype,atol", [(np.float32, 1e-3), (BF16, 2e-2)], ids=["f32", "bf16"])
@pytest.mark.parametrize("ranks,turn", WORLDS)
def test_attention_over_chunks_and_ranks(rng, ranks, turn, dtype, atol, each_rank):
    """Context without a mask, then the new token itself."""
    queries = [rng.standard_normal((6, ENTRY)) for _ in CONTEXTS]
    new = rng.standard_normal((len(CONTEXTS), 1, ENTRY)).astype(BF16)
    shards = Shards(rng, World(ranks, turn), "plain")
    merged = Merger(queries, dtype)
    for first, lengths in shards.chunks(200):
        parts = shards.parts(first, lengths)
        if each_rank:
            for rank in range(ranks):
                merged.add([p[rank] for p in parts])
        else:
            merged.add([np.concatenate(p) for p in parts])
    merged.add(new)
    begin = starts_of(CONTEXTS)
    for b in range(len(CONTEXTS)):
        rows = np.concatenate([shards.rows[begin[b]:begin[b + 1]], new[b]])
        want, lse = attend(queries[b], rows)
        np.testing.assert_allclose(merged.out[b].astype(np.float64), want, atol=atol)
        np.testing.assert_allclose(merged.lse[:, b], lse, atol=atol)


def indexer_scores(query, weights, codes, scales):
    keys = codes.view(E4M3).astype(np.float32)
    return weights @ np.maximum(query @ keys.T, 0) * scales.view(np.float32)[:, 0]


@pytest.mark.parametrize("ranks,turn", [(2, 1), (4, 4), (2, 64)])
def test_sparse_attention_over_ranks(rng, ranks, turn):
    """The best tokens of every rank hold the best of all; each rank attends to what it owns."""
    world, contexts, top, d, heads = World(ranks, turn), (700, 90, 333), 128, 128, 6
    tokens, begin = sum(contexts), starts_of(contexts)
    shards = Shards(rng, world, "fp8_ds_mla", contexts)
    keys = rng.standard_normal((tokens, d)).astype(BF16)
    query = rng.standard_normal((len(contexts), 8, d)).astype(E4M3).astype(np.float32)
    weights = rng.standard_normal((len(contexts), 8)).astype(np.float32)
    queries = [rng.standard_normal((heads, ENTRY)) for _ in contexts]
    chosen = [[] for _ in contexts]  # (score, position)
    for rank in range(ranks):
        cache = np.full((len(shards.caches[0]), BLOCK, d + 4), 0xA5, np.uint8)
        slots = np.concatenate([world.slots(shards.table[b], np.arange(n), rank)
                                for b, n in enumerate(contexts)])
        ops.indexer_k_quant_and_cache(k=keys, kv_cache=cache, slot_mapping=slots,
                                        quant_block_size=d, scale_rule="pow2")
        counts = [int(world.count(rank, n)) for n in contexts]
        cu = starts_of(counts)
        codes, scales = np.empty((cu[-1], d), np.uint8), np.empty((cu[-1], 4), np.uint8)
        ops.cp_gather_indexer_k_quant_cache(kv_cache=cache, block_table=shards.table, out_k=codes,
                                              out_scale=scales, cu_seq_lens=cu)
        logits = np.stack([indexer_scores(query[b], weights[b], codes, scales)
                           for b in range(len(contexts))]).astype(np.float32)
        indices = np.empty((len(contexts), top), np.int32)
        arguments = {"logits": logits, "row_starts": cu[:-1], "row_ends": cu[1:],
                     "indices": indices}
        ops.top_k_per_row_prefill(**arguments)
        for b, found in enumerate(indices):
            mine = np.flatnonzero(world.owner(np.arange(contexts[b])) == rank)
            chosen[b] += [(logits[b, cu[b] + i], mine[i]) for i in found[found >= 0]]
    merged = Merger(queries, np.float32)
    best = [np.array([p for _, p in sorted(c, key=lambda pair: -pair[0])[:top]]) for c in chosen]
    for b, n in enumerate(contexts):
        x = keys[begin[b]:begin[b + 1]].astype(np.float32)
        scale = pow2_scale(np.maximum(np.abs(x).max(-1), np.float32(1e-4)), 0)
        scores = indexer_scores(query[b], weights[b], (x / scale[:, None]).astype(E4M3),
                                np.ascontiguousarray(scale[:, None]))
        assert set(best[b]) == set(np.argsort(-scores, kind="stable")[:top])
    for rank, cache in enumerate(shards.caches):
        rows = []
        for b, positions in enumerate(best):
            slots = world.slots(shards.table[b], positions, rank)
            rows.append(ds_mla_rows(cache.reshape(-1, 656)[slots[slots >= 0]]))
        merged.add(rows)
    for b, positions in enumerate(best):
        row = shards.rows[begin[b] + positions]
        want, _ = attend(queries[b], ds_mla_rows(ds_mla_records(row[:, :LATENT], row[:, LATENT:])))
        np.testing.assert_allclose(merged.out[b], want, atol=1e-3)


def test_slots_of_the_example():
    world = World(2, 1, 4)
    line, positions = np.array([10]), np.arange(8)
    assert world.slots(line, positions, 0)[0::2].tolist() == [40, 41, 42, 43]
    assert np.all(world.slots(line, positions, 0)[1::2] == -1)


@pytest.mark.parametrize("entry", [320, 512, 576, 100])
@pytest.mark.parametrize("out", [np.float32, np.float16, BF16])
@pytest.mark.parametrize("cache", ["auto", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_entries_of_every_size(rng, cache, out, entry):
    contexts = (70, 0, 3, 129)
    table, blocks = pages(rng, contexts, 16)
    kind = np.dtype(out if cache == "auto" else cache)
    codes = rng.randint(0, 256, (blocks, 16, entry * kind.itemsize)).astype(np.uint8).view(kind)
    got, begin = np.empty((sum(contexts), entry), out), starts_of(contexts)
    ops.gather_and_maybe_dequant_cache(kv_cache=codes, block_table=table, cu_seq_lens=begin,
                                         kv_scale=np.array([KV_SCALE]), out=got)
    for b, n in enumerate(contexts):
        at = np.arange(n)
        want = codes[table[b, at // 16], at % 16]
        rows = got[begin[b]:begin[b + 1]]
        if cache == "auto":
            assert same_bytes(rows, want)
        else:
            with np.errstate(all="ignore"):
                want = (want.astype(np.float32) * KV_SCALE).astype(out)
            nan = np.isnan(want.astype(np.float32))
            assert np.array_equal(nan, np.isnan(rows.astype(np.float32)))
            assert same_bytes(rows[~nan], want[~nan])
