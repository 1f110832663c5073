# A checkpoint in Hugging Face's layout: config.json, model.safetensors (or shards with an index),
# tokenizer.json. Weights of any float dtype are widened to f32, the type the products run in.
import json
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes  # noqa: F401  (gives NumPy, and so safetensors, its bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from .errors import UsageError


@dataclass(frozen=True)
class Config:
    """The numbers of config.json that the forward pass needs."""

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    epsilon: float
    tied: bool
    rope: dict = field(hash=False)  # rope_type, rope_theta and what the type needs
    ends: frozenset = frozenset()  # tokens that end a text


def _json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: --model names a folder with config.json, "
                         "model.safetensors and tokenizer.json") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None


def _rope(raw):
    """Both spellings: rope_theta beside rope_scaling, or one rope_parameters."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type", rope.pop("type", "default"))
    if rope["rope_type"] not in ("default", "linear", "llama3"):
        raise UsageError(f"config.json: rope_type is {rope['rope_type']}, "
                         "expected default, linear or llama3")
    return rope


def _ends(folder, raw):
    path = folder / "generation_config.json"
    ends = (_json(path) if path.exists() else {}).get("eos_token_id", raw.get("eos_token_id"))
    return frozenset([ends] if isinstance(ends, int) else ends or [])


def read_config(folder):
    """Config of a checkpoint, or a UsageError for an architecture that this program is not for."""
    raw = _json(folder / "config.json")
    architecture = (raw.get("architectures") or [raw.get("model_type")])[0]
    if architecture not in ("LlamaForCausalLM", "llama"):
        raise UsageError(f"config.json: architecture is {architecture}, expected LlamaForCausalLM")
    if raw.get("hidden_act", "silu") != "silu":
        raise UsageError(f"config.json: hidden_act is {raw['hidden_act']}, expected silu")
    try:
        heads = raw["num_attention_heads"]
        config = Config(
            vocabulary=raw["vocab_size"], width=raw["hidden_size"],
            hidden=raw["intermediate_size"], layers=raw["num_hidden_layers"], heads=heads,
            kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            positions=raw.get("max_position_embeddings", 2048),
            epsilon=raw.get("rms_norm_eps", 1e-6), tied=raw.get("tie_word_embeddings", False),
            rope=_rope(raw), ends=_ends(folder, raw))
    except KeyError as error:
        raise UsageError(f"config.json: {error.args[0]} is missing") from None
    if config.heads % config.kv_heads:
        raise UsageError(f"config.json: num_attention_heads is {config.heads}, expected a multiple "
                         f"of num_key_value_heads, {config.kv_heads}")
    return config


class Weights:
    """Tensors by name, read when asked for, as f32."""

    def __init__(self, folder):
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.exists():
            self.files = dict(_json(index)["weight_map"])
        else:
            path = folder / "model.safetensors"
            self.files = dict.fromkeys(self._open(path).keys(), path.name)
        self.opened = {}

    @staticmethod
    def _open(path):
        try:
            return safe_open(str(path), framework="np")
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{path}: cannot be read as safetensors: {error}") from None

    def __contains__(self, name):
        return name in self.files

    def __call__(self, name, shape):
        """The tensor `name`, which must have this shape."""
        if name not in self.files:
            raise UsageError(f"{self.folder}: the tensor {name} is missing")
        file = self.files[name]
        if file not in self.opened:
            self.opened[file] = self._open(self.folder / file)
        tensor = self.opened[file].get_tensor(name)
        if tensor.shape != tuple(shape):
            raise UsageError(f"{file}: {name} has shape {list(tensor.shape)}, "
                             f"expected {list(shape)} (config.json)")
        if tensor.dtype.name not in ("float32", "float16", "bfloat16"):
            raise UsageError(f"{file}: {name} has dtype {tensor.dtype.name}, "
                             "expected float32, float16 or bfloat16")
        return np.ascontiguousarray(tensor, np.float32)


def read_tokenizer(folder):
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UsageError(f"{path} is missing")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises a bare Exception for a malformed file
        raise UsageError(f"{path}: {error}") from None


def find(folder):
    """The folder as a Path, or a UsageError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: --model names one with config.json, "
                         "model.safetensors and tokenizer.json")
    return folder
