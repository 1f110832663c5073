# The forward pass over a batch of rows: each row is one token at one position of one sequence, so
# decode steps and prefill chunks mix freely. Everything but taking the embeddings is a call of
# libkvops: norms, rotary embedding, activation, cache writes, attention, its merging, and the
# matrix products (linear.py).
#
#   residual = embed[token]
#   per layer:  x = norm(residual);       qkv = x Wqkv; rotate q, k; write k, v; x = attend(q) Wo
#               x = norm(residual += x);  x = (silu(x Wgate) * (x Wup)) Wdown;   residual += x
#   logits = norm(residual) Whead, for the rows that are asked for
#
# For a given number of rows all of this is laid out once, as buffers and prepared calls; a step
# then fills in tokens, positions, slots and tables, and runs the list. Activations are f32; around
# a bf16 cache queries, keys, values and the result of attention are rounded to bf16.
from collections import OrderedDict
from functools import partial

import kvops
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
        c = model.config
        self.positions, self.slots = (np.zeros(rows, np.int64) for _ in range(2))
        self.table, self.lengths = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
        self.prefix_table = np.zeros((sharing, width), np.int32)
        self.prefix_lengths = np.zeros(sharing, np.int32)
        self.seen = cache.rows(self.table, self.lengths)
        self.seen_prefix = cache.rows(self.prefix_table, self.prefix_lengths) if sharing else None
        self.residual, self.x = (np.empty((rows, c.width), np.float32) for _ in range(2))
        self._make_attention_buffers(c)
        self.gate_up = np.empty((rows, 2 * c.hidden), np.float32)
        self.act = np.empty((rows, c.hidden), np.float32)
        self.calls = []
        for index, layer in enumerate(model.layers):
            self._norm(layer.norm, first=index == 0)
            self._attention(layer, index)
            self._norm(layer.mlp_norm)
            self._mlp(layer)
        self._norm(model.norm)

    def _make_attention_buffers(self, c):
        n, q, kv = self.rows, c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.qkv = np.empty((n, q + 2 * kv), np.float32)
        self.q, self.k, self.v = (part.reshape(n, -1, c.head_dim) for part in
                                  np.split(self.qkv, [q, q + kv], axis=1))
        dtype = self.cache.row_dtype
        self.result = np.empty((n, c.heads, c.head_dim), dtype)
        self.flat = self.result.reshape(n, q)
        self.narrow = dtype != np.float32
        if self.narrow:
            self.narrow_qkv = [np.empty(part.shape, dtype) for part in (self.q, self.k, self.v)]
            self.flat = np.empty((n, q), np.float32)
        m = self.sharing
        self.prefix = np.empty((m, c.heads, c.head_dim), dtype)
        self.lse, self.prefix_lse = (np.empty((r, c.heads), np.float32) for r in (n, m))

    def _call(self, op, **arguments):
        self.calls.append(kvops.prepare(op, **arguments))

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
        for name in ("positions", "slots", "lengths", "prefix_lengths"):
            getattr(self, name)[:] = getattr(batch, name)
        for name in ("table", "prefix_table"):
            given = getattr(batch, name)
            mine, columns = getattr(self, name), given.shape[1]
            mine[:, :columns], mine[:, columns:] = given, 0
        self.seen.update()
        if self.seen_prefix:
            self.seen_prefix.update()
        np.take(self.model.embed, batch.tokens, axis=0, out=self.residual)
        for call in self.calls:
            call()
        return self.model.head(self.x[batch.wanted])
