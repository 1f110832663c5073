# The proof: the paged program writes what a dense float64 forward pass over prompt and output
# expects at every position, with an f32 cache exactly, whatever the layout, however many prompts
# share blocks, and with sequences swapped out and back.
#
# Two correct f32 implementations differ by about 1e-5 in a logit (rounding in another order), so a
# choice between two tokens that are closer than that means nothing. The rule: a prompt on whose
# way the two largest logits ever come closer than MARGIN is left out, and the next of the list
# takes its place. The margin is measured on the dense logits. ("The GPU kernel" is such a prompt.)
import re

import numpy as np
import pytest

from conftest import FOLDER, generate, load
from dense import bits_per_byte
from generate import holdout, sampling
from generate.cache import LAYOUTS

TOKENS = 256
MARGIN = 1e-4
HELD_OUT = 1.809  # bits per byte, as README.md states
COMMON = "Notes on the paged cache, its blocks, and the operators that read and write it. "
PROMPTS = [
    "The cache ", "A slot mapping is", "The GPU kernel", "Every operator", "## 3. Rows",
    "The key and value ", "If a block", "Shapes and strides", "The query token", "A negative slot",
    "Bytes moved:", "vLLM's tests", "Each thread", "fp8 values ", "The output", "Scales are",
    "Heads share", "Two layouts", "A sequence of", "The last token", "Errors name", "A stream is",
    "Rounding", "// One row of ",
]
# With the prompts above: less than the sequences need together, so that some must give way.
PRESSED = dict(concurrency=16, blocks=200, batch_tokens=64)


def against_dense(dense, sequence):
    """(largest logits at the generated positions, logits of the generated tokens, runners-up)."""
    logits = dense.logits(sequence.tokens[:-1])[sequence.prompt - 1 :]
    best = np.sort(logits, axis=1)
    chosen = logits[np.arange(len(logits)), sequence.tokens[sequence.prompt :]]
    return best[:, -1], chosen, best[:, -2]


def check_exact(model, dense, prompts, count, **options):
    """Runs `count` of the prompts, by the rule above, and returns the engine."""
    for spare in range(len(prompts) - count + 1):
        runner, _ = generate(model, prompts[:count], TOKENS, **options)
        results = [against_dense(dense, s) for s in runner.sequences]
        close = [i for i, (best, _, second) in enumerate(results) if min(best - second) < MARGIN]
        for best, chosen, _ in (r for i, r in enumerate(results) if i not in close):
            assert np.array_equal(best, chosen)
        if not close:
            smallest = min(min(best - second) for best, _, second in results)
            print(f"{count} prompts x {TOKENS} tokens {options}: equal, smallest margin "
                  f"{smallest:.1e}, {spare} rounds of replacement, "
                  f"{count * TOKENS / runner.seconds:.0f} tokens/s")
            return runner
        prompts = [p for i, p in enumerate(prompts) if i not in close]
    pytest.fail("too many prompts have close calls")


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer.encode(p).ids for p in PROMPTS]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_five_prompts_equal_the_dense_model(model, dense, prompts, layout):
    check_exact(model, dense, prompts, 5, layout=layout)


@pytest.mark.parametrize("layout, host_blocks", [
    ("nhd", -1), ("packed", -1), ("hnd", 0), ("cpu", -1)])
def test_sixteen_prompts_shared_and_preempted(model, dense, tokenizer, layout, host_blocks):
    prompts = [tokenizer.encode(COMMON + p).ids for p in PROMPTS]
    runner = check_exact(model, dense, prompts, 16, layout=layout, host_blocks=host_blocks,
                         **PRESSED)
    s = runner.scheduler
    assert sum(q.shared > 0 for q in runner.sequences) >= 15 and runner.merged > 1000
    assert s.preemptions > 0 and s.pool.peak == 200
    if host_blocks:
        assert s.copied_out > 0 and s.copied_back > 0 and s.dropped == 0
    else:
        assert s.dropped == s.preemptions


def test_one_at_a_time_equals_the_dense_model(model, dense, prompts):
    check_exact(model, dense, prompts, 2, concurrency=1, sharing=False, block_size=5,
                batch_tokens=3)


@pytest.mark.parametrize("dtype, share, distance", [
    # bf16 keeps 8 bits of queries, keys, values and attention's result: errors of 2^-9 at most, and
    # about 1e-2 in a logit (their standard deviation is 3), so only close calls can change.
    ("bf16", 0.98, 0.1),
    # e4m3 keeps 4 bits of keys and values: errors of 2^-4 at most, 3 % in the mean, which the sums
    # over 32 elements and many tokens average out to about 0.1 in a logit. One choice in fifty is
    # that close; a wrong scale, sign or position loses most choices, by several units.
    ("f8_e4m3", 0.95, 1.0),
])
def test_narrow_caches_stay_close(model, dense, prompts, dtype, share, distance):
    """Of the tokens chosen over a narrow cache, `share` are the dense model's own choice after the
    same text, and the others' logits are at most `distance` below the largest. All layouts choose
    the same, but for "cpu": its attention adds in another order."""
    for layout, block_size in (("cpu", 32), ("packed", 16)):
        runner, outputs = generate(model, prompts[:5], TOKENS, dtype=dtype, layout=layout,
                                   block_size=block_size)
        gaps = np.concatenate([best - chosen for best, chosen, _ in
                               (against_dense(dense, s) for s in runner.sequences)])
        print(f"{dtype} {layout}: {np.mean(gaps == 0):.4f} equal, largest gap {gaps.max():.3f}")
        assert np.mean(gaps == 0) >= share and gaps.max() <= distance
    for layout in ("nhd", "hnd"):
        assert generate(model, prompts[:5], TOKENS, dtype=dtype, layout=layout)[1] == outputs


@pytest.mark.parametrize("kind, share, distance", [
    # bf16: errors of 2^-9 in activations (the shipped weights are bf16 and lose nothing), averaged
    # over sums of 256 terms or more: about 1e-2 in a logit, as with a bf16 cache.
    ("bf16", 0.99, 0.1),
    # int8: errors of 1/254 of the largest element of a row or column, 1 to 2 % of a typical one,
    # in weights and activations of every product: up to 0.1 in a logit.
    ("int8", 0.98, 0.3),
])
def test_narrow_weights_stay_close(dense, prompts, kind, share, distance):
    """The same rule for weights: of the tokens chosen, `share` are the dense model's own choice
    after the same text, and the others' logits at most `distance` below the largest."""
    runner, _ = generate(load(FOLDER, kind), prompts[:5], TOKENS)
    gaps = np.concatenate([best - chosen for best, chosen, _ in
                           (against_dense(dense, s) for s in runner.sequences)])
    print(f"{kind}: {np.mean(gaps == 0):.4f} equal, largest gap {gaps.max():.3f}")
    assert np.mean(gaps == 0) >= share and gaps.max() <= distance


def words(text):
    return re.findall(r"[A-Za-z]+", text)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_nine_of_ten_words_are_known(model, tokenizer, prompts, temperature):
    known = set(words("\n".join(holdout.documents())))
    how = sampling.Sampling(temperature, seed=1)
    _, outputs = generate(model, prompts[:8], TOKENS, how)
    # The first and the last word of a text are cut by where it begins and ends.
    found = [w for output in outputs for w in words(tokenizer.decode(output))[1:-1]]
    share = np.mean([w in known for w in found])
    print(f"temperature {temperature}: {len(found)} words, {len(set(found))} different, "
          f"{share:.3f} known")
    assert len(found) > 250 and share >= 0.9


def test_held_out_loss(dense):
    bits = bits_per_byte(dense, holdout.part("held out"), 1024, 256)
    print(f"held out: {bits:.4f} bits per byte")
    assert bits < 2.6 and abs(bits - HELD_OUT) < 0.001
