# One dense forward pass of a Llama checkpoint in float64: every token of a text at once, no cache,
# no pages, no libkvops, nothing of examples/generate. What the paged program is compared with.
import json
import math
from pathlib import Path

import ml_dtypes  # noqa: F401  (safetensors needs NumPy to know bfloat16)
import numpy as np
from safetensors.numpy import load_file


class Dense:
    def __init__(self, folder):
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        index = folder / "model.safetensors.index.json"
        files = {"model.safetensors"}
        if index.exists():
            files = set(json.loads(index.read_text())["weight_map"].values())
        loaded = [load_file(folder / file) for file in sorted(files)]
        self.weights = {k: v.astype(np.float64) for part in loaded for k, v in part.items()}

    def logits(self, tokens):
        """[len(tokens), vocabulary]: row i is what the model expects after tokens[: i + 1]."""
        c, w = self.config, self.weights
        x = w["model.embed_tokens.weight"][np.array(tokens)]
        for i in range(c["num_hidden_layers"]):
            x = x + self._attention(f"model.layers.{i}.", self._norm(
                x, f"model.layers.{i}.input_layernorm.weight"))
            x = x + self._mlp(f"model.layers.{i}.mlp.", self._norm(
                x, f"model.layers.{i}.post_attention_layernorm.weight"))
        x = self._norm(x, "model.norm.weight")
        return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T

    def _norm(self, x, name):
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.config["rms_norm_eps"]) * self.weights[name]

    def _apply(self, x, name):
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights.get(f"{name}.bias", 0.0)

    def _mlp(self, base, x):
        gate = self._apply(x, base + "gate_proj")
        return self._apply(gate / (1 + np.exp(-gate)) * self._apply(x, base + "up_proj"),
                           base + "down_proj")

    def _angles(self, n):
        c, d = self.config, self._head_dim()
        rope = c.get("rope_scaling") or {}
        per_position = [c.get("rope_theta", 10000.0) ** (-2 * j / d) for j in range(d // 2)]
        kind = rope.get("rope_type") or rope.get("type")
        if kind == "linear":
            per_position = [a / rope["factor"] for a in per_position]
        elif kind == "llama3":
            per_position = [self._llama3(a, rope) for a in per_position]
        return np.outer(np.arange(n), per_position)

    @staticmethod
    def _llama3(a, rope):
        wavelength, old = 2 * math.pi / a, rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if wavelength < old / high:
            return a
        if wavelength > old / low:
            return a / rope["factor"]
        smooth = (old / wavelength - low) / (high - low)
        return (1 - smooth) * a / rope["factor"] + smooth * a

    def _head_dim(self):
        return self.config.get("head_dim") or (
            self.config["hidden_size"] // self.config["num_attention_heads"])

    def _attention(self, base, x):
        c, d, n = self.config, self._head_dim(), len(x)
        angles = self._angles(n)[:, None, :]
        cos, sin = np.cos(angles), np.sin(angles)

        def heads(name):
            return self._apply(x, f"{base}self_attn.{name}_proj").reshape(n, -1, d)

        def rotated(y):
            low, high = y[..., : d // 2], y[..., d // 2 :]
            return np.concatenate((low * cos - high * sin, high * cos + low * sin), axis=-1)

        q, k, v = rotated(heads("q")), rotated(heads("k")), heads("v")
        group = c["num_attention_heads"] // k.shape[1]
        future = np.triu(np.ones((n, n), bool), 1)
        out = np.empty_like(q)
        for h in range(q.shape[1]):
            scores = q[:, h] @ k[:, h // group].T / math.sqrt(d)
            scores[future] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, h] = weights / weights.sum(axis=1, keepdims=True) @ v[:, h // group]
        return self._apply(out.reshape(n, -1), f"{base}self_attn.o_proj")


def bits_per_byte(dense, texts, context, end):
    """Held-out loss of byte tokens, texts joined by and between `end` tokens: windows of `context`
    tokens that advance by half, each token scored once, in the window where most precedes it."""
    tokens = [end]
    for text in texts:
        tokens += [*text.encode(), end]
    nats = 0.0
    for start in range(0, len(tokens) - 1, context // 2):
        window = tokens[start : start + context + 1]
        skip = context // 2 if start else 0
        if len(window) - 1 <= skip:
            break
        logits = dense.logits(window[:-1])[skip:]
        top = logits.max(axis=1)
        total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        nats -= (logits[np.arange(len(total)), window[1 + skip :]] - total).sum()
    return nats / math.log(2) / sum(t != end for t in tokens)
