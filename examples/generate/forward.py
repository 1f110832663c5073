# The forward pass over a batch of rows: each row is one token at one position of one sequence, so
# decode steps and prefill chunks mix freely. Everything is a call of libkvops: embeddings, norms,
# rotary embedding, activation, cache writes, attention, its merging, and the matrix products
# (linear.py; on a GPU they are cuBLAS's). place.py says where it runs.
#
#   residual = embed[token]
#   per layer:  x = norm(residual);       qkv = x Wqkv; rotate q, k; write k, v; x = attend(q) Wo
#               x = norm(residual += x);  x = (silu(x Wgate) * (x Wup)) Wdown;   residual += x
#   logits = norm(residual) Whead, for the rows that are asked for
#
# For a given number of rows all of this is laid out once, as buffers and prepared calls; a step
# then fills in tokens, positions, slots and tables, and runs the list. Activations are f32 on the
# CPU; there, around a bf16 cache, queries, keys, values and the result of attention are rounded.
from collections import OrderedDict
from functools import partial

import numpy as np

KEPT = 16  # programs: decoding goes on with one for long, prompts pass by


class Forward:
    """forward(batch): logits [rows asked for, vocabulary]; all keys and values enter the cache."""

    def __init__(self, model, cache, width):
        self.model, self.cache, self.width = model, cache, width
        self.programs = OrderedDict()

    def __call__(self, batch):
        shape = len(batch.tokens), batch.sharing
        program = self.programs.pop(shape, None) or Program(self.model, self.cache, self.width,
                                                            *shape)
        self.programs[shape] = program
        if len(self.programs) > KEPT:
            self.programs.popitem(last=False)
        return program.run(batch)


class Program:
    """The calls for `rows` rows, the first `sharing` of which share prefixes."""

    def __init__(self, model, cache, width, rows, sharing):
        self.model, self.cache, self.rows, self.sharing = model, cache, rows, sharing
        self.place, self.picks = model.place, {}
        c, place = model.config, model.place
        self._make_inputs(width)
        self.seen = cache.rows(self.table, self.lengths)
        self.seen_prefix = cache.rows(self.prefix_table, self.prefix_lengths) if sharing else None
        self.residual, self.x = (place.empty((rows, c.width), place.dtype) for _ in range(2))
        self._make_attention_buffers(c)
        self.gate_up = place.empty((rows, 2 * c.hidden), place.dtype)
        self.act = place.empty((rows, c.hidden), place.dtype)
        self.calls = []
        starts = place.given(np.arange(rows + 1, dtype=np.int32))
        self._call("cp_gather_cache", kv_cache=model.embed[:, None], block_table=self.tokens,
                   cu_seq_lens=starts, out=self.residual, faults=cache.faults)
        for index, layer in enumerate(model.layers):
            self._norm(layer.norm, first=index == 0)
            self._attention(layer, index)
            self._norm(layer.mlp_norm)
            self._mlp(layer)
        self._norm(model.norm)

    def _make_inputs(self, width):
        """What a step fills in: one array, so that one copy brings it to a device."""
        n, m = self.rows, self.sharing
        shapes = {"tokens": ((n, 1), np.int32), "positions": ((n,), np.int64),
                  "slots": ((n,), np.int64), "table": ((n, width), np.int32),
                  "lengths": ((n,), np.int32), "prefix_table": ((m, width), np.int32),
                  "prefix_lengths": ((m,), np.int32)}
        sizes = {k: int(np.prod(s)) * np.dtype(t).itemsize for k, (s, t) in shapes.items()}
        ends = np.cumsum([-(-size // 64) * 64 for size in sizes.values()])
        self.inputs = self.place.zeros(ends[-1], np.uint8)
        for end, (name, (shape, dtype)) in zip(ends, shapes.items()):
            begin = end - -(-sizes[name] // 64) * 64
            view = self.inputs[begin : begin + sizes[name]].view(dtype).reshape(shape)
            setattr(self, name, view)

    def _make_attention_buffers(self, c):
        n, q, kv = self.rows, c.heads * c.head_dim, c.kv_heads * c.head_dim
        place, dtype = self.place, self.cache.row_dtype
        self.qkv = place.empty((n, q + 2 * kv), place.dtype)
        self.q, self.k, self.v = (part.reshape(n, -1, c.head_dim) for part in
                                  np.split(self.qkv, [q, q + kv], axis=1))
        self.result = place.empty((n, c.heads, c.head_dim), dtype)
        self.flat = self.result.reshape(n, q)
        self.narrow = dtype != place.dtype
        if self.narrow:
            self.narrow_qkv = [np.empty(part.shape, dtype) for part in (self.q, self.k, self.v)]
            self.flat = np.empty((n, q), np.float32)
        m = self.sharing
        self.prefix = place.empty((m, c.heads, c.head_dim), dtype)
        self.lse, self.prefix_lse = (place.empty((r, c.heads), np.float32) for r in (n, m))

    def _call(self, op, **arguments):
        self.calls.append(self.place.prepare(op, **arguments))

    def _norm(self, weight, first=False):
        epsilon = self.model.config.epsilon
        if first:
            self._call("rms_norm", input=self.residual, weight=weight, out=self.x, epsilon=epsilon)
        else:
            self._call("fused_add_rms_norm", input=self.x, residual=self.residual, weight=weight,
                       epsilon=epsilon)

    def _product(self, x, linear, out):
        self.calls += linear.calls(x, out)

    def _attention(self, layer, index):
        c = self.model.config
        self._product(self.x, layer.qkv, self.qkv)
        self._call("rotary_embedding", positions=self.positions, query=self.q, key=self.k,
                   cos_sin_cache=self.model.rope, faults=self.cache.faults,
                   head_size=c.head_dim, is_neox=1)
        q, k, v = self.q, self.k, self.v
        if self.narrow:
            for wide, narrow in zip((q, k, v), self.narrow_qkv):
                self.calls.append(partial(np.copyto, narrow, wide, casting="same_kind"))
            q, k, v = self.narrow_qkv
        self.calls.append(self.cache.write(index, k, v, self.slots))
        self._attend(index, q)
        if self.narrow:
            self.calls.append(partial(np.copyto, self.flat, self.result.reshape(self.flat.shape)))
        self._product(self.flat, layer.out, self.x)

    def _attend(self, index, q):
        """Rows that share a prefix attend to it and to the rest apart; the two results are merged
        by their log-sum-exps."""
        read, m = self.cache.read, self.sharing
        if not m:
            self.calls.append(read(index, q, self.seen, self.result))
            return
        self.calls.append(read(index, q, self.seen, self.result, self.lse))
        self.calls.append(read(index, q[:m], self.seen_prefix, self.prefix, self.prefix_lse))
        self._call("merge_attn_states", prefix_output=self.prefix, prefix_lse=self.prefix_lse.T,
                   suffix_output=self.result[:m], suffix_lse=self.lse[:m].T, out=self.result[:m])

    def _mlp(self, layer):
        self._product(self.x, layer.gate_up, self.gate_up)
        self._call("silu_and_mul", input=self.gate_up, out=self.act)
        self._product(self.act, layer.down, self.x)

    def run(self, batch):
        self.tokens[:, 0] = batch.tokens
        for name in ("positions", "slots", "lengths", "prefix_lengths"):
            getattr(self, name)[:] = getattr(batch, name)
        for name in ("table", "prefix_table"):
            given = getattr(batch, name)
            mine, columns = getattr(self, name), given.shape[1]
            mine[:, :columns], mine[:, columns:] = given, 0
        self.seen.update()
        if self.seen_prefix:
            self.seen_prefix.update()
        self.place.push(self.inputs)
        for call in self.calls:
            call()
        count = len(batch.wanted)
        if not count:
            return np.empty((0, self.model.head.outputs), np.float32)
        if count not in self.picks:
            self.picks[count] = Pick(self, count)
        return self.picks[count].run(batch.wanted)


class Pick:
    """The logits of `count` of a program's rows."""

    def __init__(self, program, count):
        model, self.place = program.model, program.place
        self.wanted = self.place.zeros((count, 1), np.int32)
        self.logits = self.place.empty((count, model.head.outputs), np.float32)
        rows = self.place.empty((count, model.config.width), self.place.dtype)
        starts = self.place.given(np.arange(count + 1, dtype=np.int32))
        self.calls = [self.place.prepare(
            "cp_gather_cache", kv_cache=program.x[:, None], block_table=self.wanted,
            cu_seq_lens=starts, out=rows, faults=program.cache.faults)]
        self.calls += model.head.calls(rows, self.logits)

    def run(self, wanted):
        self.wanted[:, 0] = wanted
        self.place.push(self.wanted)
        for call in self.calls:
            call()
        self.place.pull(self.logits)
        return self.logits
