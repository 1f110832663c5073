# examples/ on the path, the shipped model in both forms, and runs through the engine.
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).resolve().parent)]

from dense import Dense  # noqa: E402
from generate import checkpoint, engine, llama, place, sampling  # noqa: E402

FOLDER = ROOT / "examples" / "generate" / "model"


def load(folder, kind="f32"):
    return llama.Llama(checkpoint.read_config(folder), checkpoint.Weights(folder), place.Host(kind))


def generate(model, prompts, tokens, how=sampling.Sampling(), ignore_end=True, **options):
    """(the engine after its run, generated tokens of every prompt)."""
    runner = engine.Engine(model, engine.Options(ignore_end=ignore_end, **options))
    for prompt in prompts:
        runner.submit(prompt, tokens, how)
    for _ in runner.run():
        pass
    model.place.pull(runner.cache.faults)
    assert runner.cache.faults[0] == 0
    return runner, [s.tokens[s.prompt :] for s in runner.sequences]


@pytest.fixture(scope="session")
def model():
    return load(FOLDER)


@pytest.fixture(scope="session")
def dense():
    return Dense(FOLDER)


@pytest.fixture(scope="session")
def tokenizer():
    return checkpoint.read_tokenizer(FOLDER)
