# The parts that compute nothing: blocks, scheduling, batches, sampling, streaming. The scheduler
# runs whole generations over a cache of plain lists and a model whose next token is a digest of
# what a row can read: a wrong block, slot, length or swap gives another text.
import zlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from conftest import FOLDER  # noqa: F401  (puts examples/ on the path)
from generate import engine, holdout, sampling
from generate.blocks import BlockPool, chain_key
from generate.errors import UsageError
from generate.place import Host
from generate.scheduler import Scheduler, Sequence
from generate.stream import InOrder, TextStream


@dataclass
class Config:
    vocabulary: int = 50
    positions: int = 10**6
    ends: frozenset = frozenset()
    layers: int = 1
    kv_heads: int = 1
    head_dim: int = 8


def digest(tokens):
    return zlib.crc32(np.array(tokens, np.int64).tobytes()) % 50


class ListModel:
    config, place = Config(), Host()

    def bind(self, cache, width):
        return None

    @staticmethod
    def forward(cache, batch):
        cache.slots[batch.slots] = batch.tokens
        rows = []
        for i in range(len(batch.tokens)):
            seen = list(cache.read(batch.table[i], batch.lengths[i]))
            if i < batch.sharing:
                seen = list(cache.read(batch.prefix_table[i], batch.prefix_lengths[i])) + seen
            assert len(seen) == batch.positions[i] + 1 and seen[-1] == batch.tokens[i]
            rows.append(np.eye(50)[digest(seen)])
        return np.array(rows)[batch.wanted]


class ListCache:
    def __init__(self, blocks, block_size, host_blocks):
        self.slots = np.full(blocks * block_size, -1)
        self.host = np.full((host_blocks, block_size), -1)
        self.size = block_size

    def read(self, table, length):
        assert length >= 1
        at = np.arange(length)
        return self.slots[table[at // self.size] * self.size + at % self.size]

    def swap_out(self, pairs):
        for block, host in pairs:
            self.host[host] = self.slots.reshape(-1, self.size)[block]

    def swap_in(self, pairs):
        for host, block in pairs:
            self.slots.reshape(-1, self.size)[block] = self.host[host]


def simulate(prompts, limits, **options):
    runner = engine.Engine(ListModel(), engine.Options(**options))
    for prompt, limit in zip(prompts, limits):
        runner.submit(prompt, limit, sampling.Sampling())
    runner.set_up()
    s = runner.scheduler
    runner.cache = ListCache(s.pool.count, s.block_size, s.host.count)
    runner.forward = partial(ListModel.forward, runner.cache)
    for steps, _ in enumerate(iter(lambda: s.idle or runner.step(), True)):
        assert steps < 20000, "the scheduler makes no progress"
    return runner


def expected(prompt, limit):
    tokens = list(prompt)
    for _ in range(limit):
        tokens.append(digest(tokens))
    return tokens


@pytest.mark.parametrize("seed", range(60))
def test_scheduler_random(seed):
    random = np.random.RandomState(seed)
    size = int(random.choice([1, 2, 4, 16]))
    common = list(random.randint(0, 50, random.randint(0, 40)))
    prompts = [common[: random.randint(0, len(common) + 1)] +
               list(random.randint(0, 50, random.randint(1, 20)))
               for _ in range(random.randint(1, 14))]
    limits = [int(n) for n in random.randint(1, 40, len(prompts))]
    need = max(-(-(len(p) + n - 1) // size) for p, n in zip(prompts, limits))
    r = simulate(prompts, limits, block_size=size, blocks=int(need + random.randint(0, need + 1)),
                 host_blocks=int(random.choice([0, need, 5 * need])),
                 batch_tokens=int(random.randint(1, 50)), concurrency=int(random.randint(1, 9)),
                 sharing=bool(random.randint(4)))
    for sequence, prompt, limit in zip(r.sequences, prompts, limits):
        assert sequence.tokens == expected(prompt, limit)
    assert r.scheduler.pool.used == r.scheduler.host.used == 0
    assert not any(r.scheduler.pool.holders) and r.scheduler.pool.peak <= r.scheduler.pool.count


def test_every_path_is_taken():
    prompts = [[7] * 20 + [i] for i in range(8)]
    swapped = simulate(prompts, [30] * 8, block_size=4, blocks=40, host_blocks=100)
    assert swapped.scheduler.copied_out > 0 and swapped.scheduler.copied_back > 0
    assert swapped.scheduler.dropped == 0 and swapped.merged > 0
    assert [s.shared for s in swapped.sequences] == [0] + [20] * 7
    dropped = simulate(prompts, [30] * 8, block_size=4, blocks=40, host_blocks=0)
    assert dropped.scheduler.dropped > 0 and dropped.scheduler.copied_out == 0
    alone = simulate(prompts, [30] * 8, block_size=4, blocks=40, host_blocks=0, sharing=False)
    assert alone.merged == 0 and not any(s.shared for s in alone.sequences)
    same = simulate([[1] * 8] * 3, [4] * 3, block_size=4)
    assert [q.tokens for q in same.sequences] == [expected([1] * 8, 4)] * 3
    assert [q.shared for q in same.sequences] == [0, 4, 4]  # one token is left to compute
    chunked = simulate([[3] * 100], [2], block_size=4, batch_tokens=7)
    assert chunked.steps == 16  # 15 chunks of 7 tokens or less, then one token


def test_too_small_a_cache_is_refused():
    scheduler = Scheduler(3, 4, 0, 16, 4)
    scheduler.add(Sequence(0, [1] * 5, 5, 8))
    with pytest.raises(UsageError, match="prompt 2 may need 4 blocks of 4 tokens, the cache has 3"):
        scheduler.add(Sequence(1, [1] * 5, 5, 9))


def test_blocks_are_shared_until_taken():
    pool, key = BlockPool(2), chain_key(b"", [1, 2])
    block = pool.take()
    pool.publish(block, key)
    assert pool.share(key) == block and pool.holders[block] == 2
    pool.release([block, block])
    assert pool.used == 0 and pool.share(key) == block  # free, and still known
    pool.release([block])
    assert pool.take() != block  # the one freed longest ago goes first
    assert pool.take() == block and pool.share(key) is None
    assert chain_key(key, [1, 2]) != key  # the same tokens, elsewhere


def test_sampling():
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25]))
    assert sampling.pick(logits, sampling.Sampling(), None) == 1

    def frequencies(n=4000, **how):
        how = sampling.Sampling(seed=5, **how)
        random = sampling.generator(how, 0)
        return np.bincount([sampling.pick(logits, how, random) for _ in range(n)], minlength=4) / n

    # 4000 draws: a frequency is off by more than 0.04 with probability below 1e-6.
    assert np.allclose(frequencies(temperature=1.0), [0.1, 0.5, 0.15, 0.25], atol=0.04)
    assert np.allclose(frequencies(temperature=1.0, top_k=2), [0, 2 / 3, 0, 1 / 3], atol=0.04)
    cut = [0, 5 / 9, 1 / 6, 5 / 18]
    assert np.allclose(frequencies(temperature=1.0, top_p=0.8), cut, atol=0.04)
    assert np.allclose(frequencies(temperature=1.0, top_p=0.01), [0, 1, 0, 0])
    cold = np.array([0.1, 0.5, 0.15, 0.25]) ** 2
    assert np.allclose(frequencies(temperature=0.5), cold / cold.sum(), atol=0.04)
    how = sampling.Sampling(1.0, seed=1)
    assert sampling.generator(how, 0).random() == sampling.generator(how, 0).random()
    assert sampling.generator(how, 0).random() != sampling.generator(how, 1).random()


def test_characters_come_whole(tokenizer):
    text = "caches: 4 \u00b5s, \u2265 90 %, \u6f22\u5b57 \U0001f600."
    stream, pieces = TextStream(tokenizer, tokenizer.encode("The ").ids), []
    for token in tokenizer.encode(text).ids:
        pieces.append(stream.push(token))
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert pieces[0] == "c" and len([p for p in pieces if p]) == len(text)
    assert stream.push(0xE6) == "" and stream.finish() == "\ufffd"


def test_spaces_between_word_pieces_survive():
    """Llama 2's kind of tokenizer: pieces begin with a space, and a text's first space is cut."""
    pieces = ["<unk>", "\u2581the", "\u2581cache", "s", "\u2581", "<0xC2>", "<0xB5>", "\u2581s"]
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    stream = TextStream(tokenizer, [1])
    texts = [stream.push(token) for token in [2, 3, 4, 5, 6, 3, 2, 7]]
    assert texts == [" cache", "s", " ", "", "\u00b5", "s", " cache", " s"]


def test_texts_come_in_order():
    written = []
    order = InOrder(3, written.append, lambda n: written.append(f"[{n}]"))
    order.text(1, "b")
    order.text(0, "a")
    order.end(1)
    order.text(2, "c")
    order.text(0, "A")
    order.end(0)
    order.text(2, "C")
    order.end(2)
    assert "".join(written) == "[0]aA[1]b[2]cC"


def test_parts_of_the_text_are_disjoint():
    parts = [{p for text in holdout.part(name) for p in text.strip().split("\n\n")}
             for name in ("training", "validation", "held out")]
    sizes = [sum(len(t.encode()) for t in holdout.part(n)) for n in ("training", "held out")]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert 0.07 < sizes[1] / sum(sizes) < 0.13
