# The forward pass of a Llama model over a batch of token rows from many sequences.
# Each row is one token at one position of one sequence, so decode steps and prefill chunks mix
# freely. Norms, rotary embedding, activation, cache writes, attention and its merging are calls of
# libkvops; the matrix products are NumPy's. Activations are f32.
#
#   residual = embed[token]
#   per layer:  x = norm(residual);       qkv = x Wqkv; rotate q, k; write k, v; x = attend(q) Wo
#               x = norm(residual += x);  x = (silu(x Wgate) * (x Wup)) Wdown;   residual += x
#   logits = norm(residual) Whead, for the rows that are asked for
import math
from dataclasses import dataclass

import kvops
import numpy as np


@dataclass
class Layer:
    norm: np.ndarray  # [width]
    qkv: np.ndarray  # [width, (heads + 2 kv_heads) head_dim]
    qkv_bias: np.ndarray | None
    out: np.ndarray  # [heads head_dim, width]
    out_bias: np.ndarray | None
    mlp_norm: np.ndarray  # [width]
    gate_up: np.ndarray  # [width, 2 hidden]
    gate_up_bias: np.ndarray | None
    down: np.ndarray  # [hidden, width]
    down_bias: np.ndarray | None


def inverse_frequencies(config):
    """Radians per position of every rotated pair, as the checkpoint's rope_type says."""
    rope = config.rope
    pairs = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    turn = float(rope["rope_theta"]) ** -pairs
    if rope["rope_type"] == "linear":
        return turn / rope["factor"]
    if rope["rope_type"] == "llama3":
        # Slow pairs are slowed down by factor, fast ones kept, those between are blended.
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * turn / (2 * math.pi)
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return turn * (keep + (1 - keep) / rope["factor"])
    return turn


def rope_table(config):
    """[positions, head_dim]: per position the cosines of all pairs, then their sines."""
    angle = np.outer(np.arange(config.positions, dtype=np.float64), inverse_frequencies(config))
    return np.concatenate((np.cos(angle), np.sin(angle)), axis=1).astype(np.float32)


def _linear(weights, names, rows, columns):
    """The matrices `names`, side by side and transposed, and their biases if they have any."""
    matrix = np.concatenate([weights(f"{n}.weight", (r, columns)) for n, r in zip(names, rows)])
    if f"{names[0]}.bias" not in weights:
        return matrix.T, None
    return matrix.T, np.concatenate([weights(f"{n}.bias", (r,)) for n, r in zip(names, rows)])


def _layer(config, weights, index):
    base = f"model.layers.{index}"
    width, hidden = config.width, config.hidden
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = [f"{base}.self_attn.{n}_proj" for n in "qkvo"]
    mlp = [f"{base}.mlp.{n}_proj" for n in ("gate", "up", "down")]
    qkv = _linear(weights, attention[:3], (q, kv, kv), width)
    out = _linear(weights, attention[3:], (width,), q)
    gate_up = _linear(weights, mlp[:2], (hidden, hidden), width)
    down = _linear(weights, mlp[2:], (width,), hidden)
    return Layer(weights(f"{base}.input_layernorm.weight", (width,)), *qkv, *out,
                 weights(f"{base}.post_attention_layernorm.weight", (width,)), *gate_up, *down)


def _product(x, matrix, bias):
    y = x @ matrix
    if bias is not None:
        y += bias
    return y


class Llama:
    def __init__(self, config, weights):
        self.config = config
        self.embed = weights("model.embed_tokens.weight", (config.vocabulary, config.width))
        self.layers = [_layer(config, weights, i) for i in range(config.layers)]
        self.norm = weights("model.norm.weight", (config.width,))
        tied = config.tied or "lm_head.weight" not in weights
        self.head = (self.embed if tied else weights("lm_head.weight", self.embed.shape)).T
        self.rope = rope_table(config)

    def forward(self, batch, cache):
        """Logits [rows asked for, vocabulary]; the keys and values of all rows enter the cache."""
        epsilon = self.config.epsilon
        residual = self.embed[batch.tokens]
        x = np.empty_like(residual)
        for index, layer in enumerate(self.layers):
            if index:
                kvops.fused_add_rms_norm(input=x, residual=residual, weight=layer.norm,
                                         epsilon=epsilon)
            else:
                kvops.rms_norm(input=residual, weight=layer.norm, out=x, epsilon=epsilon)
            x = self._attention(layer, x, batch, cache, index)
            kvops.fused_add_rms_norm(input=x, residual=residual, weight=layer.mlp_norm,
                                     epsilon=epsilon)
            x = self._mlp(layer, x)
        kvops.fused_add_rms_norm(input=x, residual=residual, weight=self.norm, epsilon=epsilon)
        return x[batch.wanted] @ self.head

    def _attention(self, layer, x, batch, cache, index):
        c = self.config
        n, q_size, kv_size = len(x), c.heads * c.head_dim, c.kv_heads * c.head_dim
        qkv = _product(x, layer.qkv, layer.qkv_bias)
        query = qkv[:, :q_size].reshape(n, c.heads, c.head_dim)
        key = qkv[:, q_size : q_size + kv_size].reshape(n, c.kv_heads, c.head_dim)
        value = qkv[:, q_size + kv_size :].reshape(n, c.kv_heads, c.head_dim)
        kvops.rotary_embedding(positions=batch.positions, query=query, key=key,
                               cos_sin_cache=self.rope, head_size=c.head_dim, is_neox=1)
        cache.write(index, key, value, batch.slots)
        out = cache.attend(index, query, batch)
        return _product(out.reshape(n, q_size), layer.out, layer.out_bias)

    def _mlp(self, layer, x):
        gate_up = _product(x, layer.gate_up, layer.gate_up_bias)
        y = np.empty((len(x), self.config.hidden), np.float32)
        kvops.silu_and_mul(input=gate_up, out=y)
        return _product(y, layer.down, layer.down_bias)
