# DeepSeek-V3.2's sparse attention from end to end: records and indexer keys are written into pages,
# gathered, scored, selected and attended to, by prefill (a workspace) and by decode (in place).
import numpy as np
import pytest

from mla import (BF16, BLOCK, E4M3, ENTRY, LATENT, ROPE, attend, ds_mla_records, ds_mla_rows, ops,
                 pages, pow2_scale, rope_table, same_bytes, slots_of, starts_of)

pytestmark = pytest.mark.usefixtures("place")

HEADS, INDEX_HEADS, INDEX_SIZE, TOP_K = 32, 64, 128, 2048


def bf16(rng, *shape):
    return rng.standard_normal(shape).astype(BF16)


def write_records(rng, lengths):
    """Tokens of requests in an fp8_ds_mla cache: cache, table, latents, ropes and slots."""
    table, blocks = pages(rng, lengths)
    cache = np.full((blocks, BLOCK, 656), 0xA5, np.uint8)
    tokens = sum(lengths)
    latent, rope = bf16(rng, tokens, LATENT), bf16(rng, tokens, ROPE)
    slots = np.concatenate([slots_of(table, b, range(n)) for b, n in enumerate(lengths)])
    ops.concat_and_cache_mla(kv_c=latent, k_pe=rope, kv_cache=cache, slot_mapping=slots,
                               format="fp8_ds_mla")
    return cache, table, latent, rope, slots


def upconvert(cache, table, lengths, seq_starts=None):
    """Rows of a workspace: bf16 [sum of lengths, 576]."""
    out = np.zeros((sum(lengths), ENTRY), BF16)
    faults = np.zeros(1, np.int64)
    ops.cp_gather_and_upconvert_fp8_kv_cache(
        kv_cache=cache, block_table=table, workspace_starts=starts_of(lengths), out=out,
        seq_starts=None if seq_starts is None else np.array(seq_starts, np.int32), faults=faults)
    assert faults[0] == 0
    return out


LENGTHS = (1, 63, 64, 65, 200, 0)


def test_records_through_pages(rng):
    cache, table, latent, rope, slots = write_records(rng, LENGTHS)
    records = ds_mla_records(latent, rope)
    flat = cache.reshape(-1, 656)
    assert same_bytes(flat[slots], records)
    assert np.all(np.delete(flat, slots, 0) == 0xA5), "only the tokens' entries are written"
    assert same_bytes(upconvert(cache, table, LENGTHS), ds_mla_rows(records))


def test_chunks_of_records(rng):
    cache, table, *_ = write_records(rng, LENGTHS)
    whole = upconvert(cache, table, LENGTHS)
    begin = starts_of(LENGTHS)
    for seq_starts in ([0, 0, 0, 0, 0, 0], [0, 1, 63, 64, 65, 0], [1, 63, 7, 30, 199, 0],
                       [1, 63, 64, 65, 200, 0]):
        rest = [n - s for n, s in zip(LENGTHS, seq_starts)]
        expected = np.concatenate([whole[begin[b] + s:begin[b + 1]]
                                   for b, s in enumerate(seq_starts)])
        assert same_bytes(upconvert(cache, table, rest, seq_starts), expected)


def indexer_reference(keys):
    """Codes [n, 128] and scales [n] of indexer keys."""
    x = keys.astype(np.float32)
    scale = pow2_scale(np.maximum(np.abs(x).max(-1), np.float32(1e-4)), 0)
    return (x / scale[:, None]).astype(E4M3), scale


def write_indexer(cache, keys, slots, cut):
    """In two calls, as a prefill and a step of decoding would."""
    for part in (slice(0, cut), slice(cut, None)):
        ops.indexer_k_quant_and_cache(k=keys[part], kv_cache=cache, slot_mapping=slots[part],
                                        quant_block_size=INDEX_SIZE, scale_rule="pow2")


def gather_indexer(cache, table, lengths, spare=0):
    total = sum(lengths) + spare
    codes, scales = np.full((total, INDEX_SIZE), 123, np.uint8), np.full((total, 4), 123, np.uint8)
    ops.cp_gather_indexer_k_quant_cache(kv_cache=cache, block_table=table, out_k=codes,
                                          out_scale=scales, cu_seq_lens=starts_of(lengths))
    return codes, scales


@pytest.mark.parametrize("lengths", [(9,), (1, 63, 0, 65, 64), (130, 17)])
def test_indexer_through_pages(rng, lengths):
    table, blocks = pages(rng, lengths)
    cache = np.full((blocks, BLOCK, INDEX_SIZE + 4), 0xA5, np.uint8)
    keys = bf16(rng, sum(lengths), INDEX_SIZE) * np.exp2(
        rng.randint(-9, 9, (sum(lengths), 1))).astype(BF16)
    slots = np.concatenate([slots_of(table, b, range(n)) for b, n in enumerate(lengths)])
    write_indexer(cache, keys, slots, len(slots) - 1)
    codes, scales = gather_indexer(cache, table, lengths, spare=4)
    want_codes, want_scales = indexer_reference(keys)
    assert same_bytes(codes[:-4], want_codes.view(np.uint8))
    assert same_bytes(scales[:-4], want_scales[:, None].view(np.uint8))
    assert np.all(codes[-4:] == 123) and np.all(scales[-4:] == 123)
    decoded = codes[:-4].view(E4M3).astype(np.float32) * scales[:-4].view(np.float32)
    assert np.all(np.abs(decoded - keys.astype(np.float32)) <= 16 * want_scales[:, None])


class Layer:
    """One layer of requests whose last `queries` tokens are asked about."""

    def __init__(self, rng, lengths, queries):
        self.lengths, self.queries = lengths, queries
        self.table, blocks = pages(rng, lengths)
        self.slots = [slots_of(self.table, b, range(n)) for b, n in enumerate(lengths)]
        self.main = np.full((blocks, BLOCK, 656), 0xA5, np.uint8)
        self.index = np.full((blocks, BLOCK, INDEX_SIZE + 4), 0xA5, np.uint8)
        self.positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int64)
        self.asked = np.concatenate([np.arange(e - queries, e) for e in np.cumsum(lengths)])
        self.owner = np.repeat(np.arange(len(lengths)), queries)
        table = rope_table(rng, max(lengths))
        self.write_main(rng, table)
        self.write_index(rng, table)

    def write_main(self, rng, table):
        """Rotate, store, absorb: self.query is [queries, heads, 576]."""
        tokens, asked = len(self.positions), self.asked
        latent, k_pe = bf16(rng, tokens, LATENT), bf16(rng, tokens, ROPE)
        q_pe = bf16(rng, len(asked), HEADS, ROPE)
        rotation = {"cos_sin_cache": table, "head_size": ROPE, "is_neox": False}
        ops.rotary_embedding(positions=self.positions, query=k_pe, **rotation)
        ops.rotary_embedding(positions=self.positions[asked], query=q_pe, **rotation)
        ops.concat_and_cache_mla(kv_c=latent, k_pe=k_pe, kv_cache=self.main,
                                   slot_mapping=np.concatenate(self.slots), format="fp8_ds_mla")
        nope = rng.standard_normal((HEADS, len(asked), 128))
        absorbed = (nope @ (rng.standard_normal((HEADS, 128, LATENT)) / 16)).astype(BF16)
        self.query = np.empty((len(asked), HEADS, ENTRY), BF16)
        ops.concat_mla_q(ql_nope=absorbed.transpose(1, 0, 2), q_pe=q_pe, out=self.query)
        assert same_bytes(self.query, np.concatenate([absorbed.transpose(1, 0, 2), q_pe], -1))

    def write_index(self, rng, table):
        """Rotate-half on the first 64 dimensions; queries are quantised per token and head."""
        asked = self.asked
        keys = bf16(rng, len(self.positions), INDEX_SIZE)
        queries = bf16(rng, len(asked), INDEX_HEADS, INDEX_SIZE)
        rotation = {"cos_sin_cache": table, "head_size": INDEX_SIZE, "is_neox": True}
        ops.rotary_embedding(positions=self.positions, query=keys, **rotation)
        ops.rotary_embedding(positions=self.positions[asked], query=queries, **rotation)
        write_indexer(self.index, keys, np.concatenate(self.slots), len(keys) - 1)
        x = queries.astype(np.float32)
        scale = pow2_scale(np.maximum(np.abs(x).max(-1), np.float32(1e-10)), 0)
        self.index_query = (x / scale[..., None]).astype(E4M3).astype(np.float32)
        self.weights = (rng.standard_normal(scale.shape) * scale *
                        (INDEX_SIZE * INDEX_HEADS)**-0.5).astype(np.float32)
        self.keys = keys

    def logits(self, m, codes, scales):
        """Of query m over keys: ks[n] * sum_h w[h] * relu(<q[h], k[n]>)."""
        dots = np.maximum(self.index_query[m] @ codes.view(E4M3).astype(np.float32).T, 0)
        return self.weights[m] @ dots * scales.view(np.float32)[:, 0]

    def length(self, m):
        """Tokens that query m may see, itself included."""
        return int(self.positions[self.asked[m]]) + 1

    def prefill_indices(self):
        """Gather the keys, score them, keep the best: relative to each request's first token."""
        codes, scales = gather_indexer(self.index, self.table, self.lengths)
        begin = starts_of(self.lengths)[self.owner]
        end = begin + np.array([self.length(m) for m in range(len(self.asked))], np.int32)
        logits = np.full((len(self.asked), len(codes)), np.nan, np.float32)  # never read elsewhere
        for m, (lo, hi) in enumerate(zip(begin, end)):
            logits[m, lo:hi] = self.logits(m, codes[lo:hi], scales[lo:hi])
        indices = np.full((len(self.asked), TOP_K), -7, np.int32)
        arguments = {"logits": logits, "row_starts": begin, "row_ends": end, "indices": indices}
        ops.top_k_per_row_prefill(**arguments)
        return indices, logits, begin, end

    def decode_indices(self, rows):
        """The same for the queries `rows`, scored where the keys lie: no gather."""
        lengths = np.array([self.length(m) for m in rows], np.int32)
        logits = np.full((len(rows), lengths.max()), np.nan, np.float32)
        flat = self.index.reshape(len(self.index), -1)
        for i, m in enumerate(rows):
            blocks, o = np.divmod(self.slots[self.owner[m]][:lengths[i]], BLOCK)
            codes = flat[blocks[:, None], o[:, None] * INDEX_SIZE + np.arange(INDEX_SIZE)]
            at = BLOCK * INDEX_SIZE + 4 * o[:, None] + np.arange(4)
            logits[i, :lengths[i]] = self.logits(m, codes, flat[blocks[:, None], at])
        indices = np.full((len(rows), TOP_K), -7, np.int32)
        arguments = {"logits": logits, "seq_lens": lengths, "indices": indices, "next_n": 1}
        ops.top_k_per_row_decode(**arguments)
        return indices

    def prefill_rows(self, indices):
        """Rows of the workspace at ws_start + token."""
        workspace = upconvert(self.main, self.table, self.lengths)
        begin = starts_of(self.lengths)
        return [workspace[begin[b] + tokens[tokens >= 0]]
                for b, tokens in zip(self.owner, indices)]

    def decode_rows(self, rows, indices):
        """Rows of the main cache at physical slots."""
        flat = self.main.reshape(-1, 656)
        found = []
        for m, tokens in zip(rows, indices):
            tokens = tokens[tokens >= 0]
            physical = self.table[self.owner[m], tokens // BLOCK] * BLOCK + tokens % BLOCK
            found.append(ds_mla_rows(flat[physical]))
        return found


def test_a_context_below_top_k_is_dense(rng):
    layer = Layer(rng, (300, 77, 1500), queries=3)
    codes, scales = gather_indexer(layer.index, layer.table, layer.lengths)
    want_codes, want_scales = indexer_reference(layer.keys)
    assert same_bytes(codes, want_codes.view(np.uint8))
    assert same_bytes(scales, want_scales[:, None].view(np.uint8))
    indices, *_ = layer.prefill_indices()
    for m, rows in enumerate(layer.prefill_rows(indices)):
        n = layer.length(m)
        assert sorted(indices[m, :n]) == list(range(n)) and np.all(indices[m, n:] == -1)
        every = ds_mla_rows(layer.main.reshape(-1, 656)[layer.slots[layer.owner[m]][:n]])
        sparse, lse = attend(layer.query[m], rows)
        dense, dense_lse = attend(layer.query[m], every)
        np.testing.assert_allclose(sparse, dense, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(lse, dense_lse, rtol=1e-9)
        shuffled, _ = attend(layer.query[m], rows[rng.permutation(n)])
        np.testing.assert_allclose(shuffled, sparse, rtol=1e-9, atol=1e-9)
    asked = [2, 5, 8]  # the last token of each request
    for m, tokens in zip(asked, layer.decode_indices(asked)):
        assert set(tokens) == set(indices[m])


def test_prefill_and_decode_choose_and_read_the_same(rng):
    layer = Layer(rng, (5000, 2300), queries=2)
    indices, logits, begin, end = layer.prefill_indices()
    for m, (lo, hi) in enumerate(zip(begin, end)):
        order = np.argsort(-logits[m, lo:hi], kind="stable")
        ranked = logits[m, lo:hi][order]
        assert ranked[TOP_K - 1] > ranked[TOP_K], "the test wants logits without ties there"
        assert set(indices[m]) == set(order[:TOP_K]) and len(set(indices[m])) == TOP_K
    everything = range(len(layer.asked))
    again = layer.decode_indices(everything)
    gathered = layer.prefill_rows(indices)
    in_place = layer.decode_rows(everything, again)
    for m in everything:
        assert set(again[m]) == set(indices[m])
        by_token = dict(zip(indices[m].tolist(), gathered[m]))
        assert all(same_bytes(by_token[t], row) for t, row in zip(again[m].tolist(), in_place[m]))
        out, _ = attend(layer.query[m], gathered[m])
        other, _ = attend(layer.query[m], in_place[m])
        np.testing.assert_allclose(out.astype(BF16).astype(np.float32),
                                   other.astype(BF16).astype(np.float32), atol=2e-2)


def test_requests_in_chunks_of_a_workspace(rng):
    """Workspaces restart at 0 for each chunk of whole requests."""
    lengths = (10, 15, 20, 5)
    cache, table, latent, rope, _ = write_records(rng, lengths)
    rows = ds_mla_rows(ds_mla_records(latent, rope))
    begin = starts_of(lengths)
    for chunk, starts in (((0, 1), [0, 10]), ((2, 3), [0, 20])):
        part = [lengths[b] for b in chunk]
        assert list(starts_of(part)[:-1]) == starts
        got = upconvert(cache, table[list(chunk)], part)
        assert same_bytes(got, rows[begin[chunk[0]]:begin[chunk[-1] + 1]])
