# A Llama model: its weights, with matrices that are used together joined, and its rotary table.
import math
from dataclasses import dataclass

import numpy as np

from .forward import Forward


@dataclass
class Layer:
    """Matrices are [inputs, outputs]; a bias is None where the checkpoint has none."""

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


class Llama:
    def __init__(self, config, weights):
        self.config = config
        self.embed = weights("model.embed_tokens.weight", (config.vocabulary, config.width))
        self.layers = [_layer(config, weights, i) for i in range(config.layers)]
        self.norm = weights("model.norm.weight", (config.width,))
        tied = config.tied or "lm_head.weight" not in weights
        self.head = (self.embed if tied else weights("lm_head.weight", self.embed.shape)).T
        self.rope = rope_table(config)

    def bind(self, cache, width):
        """The forward pass over a cache, for tables of `width` blocks."""
        return Forward(self, cache, width)
