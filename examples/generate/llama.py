# A Llama model: its weights, with matrices that are used together joined, and its rotary table.
import math
from dataclasses import dataclass

import numpy as np

from .forward import Forward
from .linear import Linear
from .place import Host


@dataclass
class Layer:
    """Two norms, and matrices of [inputs, outputs]."""

    norm: np.ndarray  # [width]
    qkv: Linear  # [width, (heads + 2 kv_heads) head_dim]
    out: Linear  # [heads head_dim, width]
    mlp_norm: np.ndarray  # [width]
    gate_up: Linear  # [width, 2 hidden]
    down: Linear  # [hidden, width]


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


def _linear(place, weights, names, rows, columns):
    """The matrices `names`, side by side and transposed, and their biases if they have any."""
    matrix = np.concatenate([weights(f"{n}.weight", (r, columns)) for n, r in zip(names, rows)])
    if f"{names[0]}.bias" not in weights:
        return place.linear(matrix.T, None)
    bias = np.concatenate([weights(f"{n}.bias", (r,)) for n, r in zip(names, rows)])
    return place.linear(matrix.T, bias)


def _layer(config, place, weights, index):
    base = f"model.layers.{index}"
    width, hidden = config.width, config.hidden
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = [f"{base}.self_attn.{n}_proj" for n in "qkvo"]
    mlp = [f"{base}.mlp.{n}_proj" for n in ("gate", "up", "down")]
    qkv = _linear(place, weights, attention[:3], (q, kv, kv), width)
    out = _linear(place, weights, attention[3:], (width,), q)
    gate_up = _linear(place, weights, mlp[:2], (hidden, hidden), width)
    down = _linear(place, weights, mlp[2:], (width,), hidden)
    norms = [place.constant(weights(f"{base}.{n}_layernorm.weight", (width,)))
             for n in ("input", "post_attention")]
    return Layer(norms[0], qkv, out, norms[1], gate_up, down)


class Llama:
    """place: where it computes, and how its matrices are kept; the head is f32."""

    def __init__(self, config, weights, place=None):
        self.config, self.place = config, place or Host()
        place = self.place
        embed = weights("model.embed_tokens.weight", (config.vocabulary, config.width))
        self.layers = [_layer(config, place, weights, i) for i in range(config.layers)]
        self.norm = place.constant(weights("model.norm.weight", (config.width,)))
        tied = config.tied or "lm_head.weight" not in weights
        head = embed if tied else weights("lm_head.weight", embed.shape)
        self.head = place.linear(head.T, None, "f32")
        self.embed = place.constant(embed, place.dtype)
        self.rope = place.constant(rope_table(config))

    def bind(self, cache, width):
        """The forward pass over a cache, for tables of `width` blocks."""
        return Forward(self, cache, width)
