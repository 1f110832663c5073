# Checkpoints of every kind the program claims to load, each against the dense forward pass; and the
# command line as its users meet it.
import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import FOLDER, ROOT, generate, load
from dense import Dense
from generate.errors import UsageError

BASE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 60,
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 500.0, "max_position_embeddings": 128,
        "tie_word_embeddings": True}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
KINDS = {
    "tied_bf16": ({}, ml_dtypes.bfloat16, 1),
    "untied_f32": ({"tie_word_embeddings": False}, np.float32, 1),
    "shards_f16": ({"head_dim": 16}, np.float16, 3),
    "rope_linear": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, np.float32, 1),
    "rope_llama3": ({"rope_scaling": LLAMA3, "num_key_value_heads": 6}, np.float32, 1),
    "biases_mqa": ({"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
                   ml_dtypes.bfloat16, 2),
}


def write_checkpoint(folder, changes, dtype, shards, seed=3):
    """A checkpoint of random weights, large enough that the logits differ."""
    c = {**BASE, **changes}
    random = np.random.RandomState(seed)
    width, hidden = c["hidden_size"], c["intermediate_size"]
    size = c.get("head_dim") or width // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * size, c["num_key_value_heads"] * size
    shapes = {"model.embed_tokens": (c["vocab_size"], width), "model.norm": (width,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head"] = (c["vocab_size"], width)
    for i in range(c["num_hidden_layers"]):
        base = f"model.layers.{i}."
        shapes |= {base + "input_layernorm": (width,), base + "post_attention_layernorm": (width,)}
        shapes |= {f"{base}self_attn.{n}_proj": (rows, width)
                   for n, rows in (("q", q), ("k", kv), ("v", kv))}
        shapes |= {base + "self_attn.o_proj": (width, q), base + "mlp.down_proj": (width, hidden)}
        shapes |= {f"{base}mlp.{n}_proj": (hidden, width) for n in ("gate", "up")}
    tensors = {f"{n}.weight": random.randn(*s) * (s[-1] ** -0.5 if len(s) > 1 else 1)
               for n, s in shapes.items()}
    for kind, on in (("self_attn", "attention_bias"), ("mlp", "mlp_bias")):
        if c.get(on):
            tensors |= {f"{n}.bias": random.randn(s[0]) for n, s in shapes.items() if kind in n}
    tensors = {n: t.astype(dtype) for n, t in tensors.items()}
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        files = {n: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors"
                 for i, n in enumerate(names)}
        for file in set(files.values()):
            save_file({n: tensors[n] for n in names if files[n] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "config.json").write_text(json.dumps(c))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints(kind, tmp_path):
    write_checkpoint(tmp_path, *KINDS[kind])
    model, dense = load(tmp_path), Dense(tmp_path)
    prompts = [list(np.random.RandomState(i).randint(0, 60, 9 + 20 * i)) for i in range(3)]
    runner, outputs = generate(model, prompts, 20, batch_tokens=24, layout="packed")
    for sequence, output in zip(runner.sequences, outputs):
        logits = dense.logits(sequence.tokens[:-1])[sequence.prompt - 1 :]
        top = np.sort(logits, axis=1)
        assert np.min(top[:, -1] - top[:, -2]) > 1e-4  # these seeds have no close call
        assert output == list(logits.argmax(axis=1))


def test_the_end_token_ends_a_text(tmp_path):
    write_checkpoint(tmp_path, {}, np.float32, 1)
    prompt = list(range(20))
    _, (free,) = generate(load(tmp_path), [prompt], 20)
    end = free[5]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, 59]}))
    _, (ended, other) = generate(load(tmp_path), [prompt, [3, 4]], 20, ignore_end=False)
    assert ended == free[: free.index(end) + 1] and len(other) > 0


def test_f8_needs_sixteen_elements(tmp_path):
    write_checkpoint(tmp_path, {}, np.float32, 1)  # 48 / 6: heads of 8
    with pytest.raises(UsageError, match="the head size is 8, expected a multiple of 16 .for a f8"):
        generate(load(tmp_path), [[1]], 2, dtype="f8_e4m3")


def run(*arguments, text=None):
    return subprocess.run([sys.executable, "-B", str(ROOT / "examples" / "generate"), *arguments],
                          input=text, capture_output=True, text=True, env=os.environ)


@pytest.mark.parametrize("arguments, sentence", [
    (["--model", "/nowhere", "x"], "/nowhere is not a folder"),
    (["--model", str(ROOT / "tests"), "x"], "config.json is missing"),
    (["-f", "/nowhere"], "/nowhere: No such file or directory"),
    ([], "standard input has no prompt"),
    ([""], "prompt 1 is empty"),
    (["x", "--blocks", "3"], "prompt 1 may need 16 blocks of 16 tokens, the cache has 3: raise "
     "--blocks or lower --max-tokens"),
    (["x", "--max-tokens", "1024"], "prompt 1 has 1 tokens, and 1024 more make 1025: the model is "
     "made for 1024"),
    (["x", "--top-p", "0"], "argument --top-p: is 0, expected more than 0, at most 1"),
    (["x", "--temperature", "-1"], "argument --temperature: is -1, expected at least 0"),
    (["x", "--temperature", "nan"], "argument --temperature: is nan, expected at least 0"),
    (["x", "--kv-dtype", "f64"], "argument --kv-dtype: invalid choice"),
])
def test_bad_input_gets_one_sentence(arguments, sentence):
    result = run(*arguments, text="")
    assert result.returncode in (1, 2) and result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("generate: ") and sentence in last and "Traceback" not in result.stderr


@pytest.mark.parametrize("change, sentence", [
    ({"architectures": ["GPT2LMHeadModel"]}, "architecture is GPT2LMHeadModel"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type is yarn, expected default, linear or"),
    ({"hidden_act": "gelu"}, "hidden_act is gelu, expected silu"),
    ({"hidden_size": 40}, "expected [60, 40] (config.json)"),
    ({"num_hidden_layers": 3}, "the tensor model.layers.2"),
])
def test_bad_checkpoints_get_one_sentence(change, sentence, tmp_path):
    write_checkpoint(tmp_path, {}, np.float32, 1)
    (tmp_path / "config.json").write_text(json.dumps({**BASE, **change}))
    (tmp_path / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    result = run("x", "--model", str(tmp_path))
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert sentence in result.stderr and "Traceback" not in result.stderr


def test_prompts_from_everywhere(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("The cache\n\nA slot \u00b5\n")
    how = ["--max-tokens", "12", "--json"]
    given = run("The cache", "A slot \u00b5", *how)
    assert given.returncode == 0 and "tokens/s" in given.stderr and "blocks" in given.stderr
    assert run("-f", str(file), *how).stdout == given.stdout
    assert run(*how, text=file.read_text()).stdout == given.stdout
    lines = sorted(map(json.loads, given.stdout.splitlines()), key=lambda line: line["index"])
    assert [line["prompt"] for line in lines] == ["The cache", "A slot \u00b5"]
    assert all(line["tokens"] == 12 and line["finish"] == "length" for line in lines)
    shown = run("-f", str(file), "--max-tokens", "12", "-q")
    assert shown.stderr == ""
    assert shown.stdout == "\n\n".join(f"[{i + 1}] {line['prompt']}{line['text']}"
                                       for i, line in enumerate(lines)) + "\n"
    whole = run("-f", str(file), "--whole", *how)
    assert json.loads(whole.stdout)["prompt"] == file.read_text()


def test_a_seed_names_a_text():
    how = ["The cache", "--samples", "3", "--max-tokens", "40", "--temperature", "0.8", "-q"]
    first = run(*how, "--seed", "4")
    assert first.stdout == run(*how, "--seed", "4", "--concurrency", "1").stdout
    assert first.stdout != run(*how, "--seed", "5").stdout
    texts = [part.partition("] ")[2] for part in first.stdout.split("\n\n[")]
    assert len(set(texts)) == 3  # every sample has random numbers of its own
