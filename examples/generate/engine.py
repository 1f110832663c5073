# From prompts to tokens: plan a step, make its copies, run its rows through the model, sample.
import time
from dataclasses import dataclass

import numpy as np

from .cache import PagedCache
from .errors import UsageError
from .sampling import generator, pick
from .scheduler import Scheduler, Sequence


@dataclass
class Batch:
    """The rows of a step: one token each. The first `sharing` rows also have a prefix table."""

    tokens: np.ndarray  # i64 [rows]
    positions: np.ndarray  # i64 [rows]
    slots: np.ndarray  # i64 [rows]
    table: np.ndarray  # i32 [rows, width]: the blocks a row reads, without its shared prefix
    lengths: np.ndarray  # i32 [rows]: tokens it reads there, itself included
    wanted: np.ndarray  # i64: rows whose logits are needed
    sharing: int
    prefix_table: np.ndarray  # i32 [sharing, width]
    prefix_lengths: np.ndarray  # i32 [sharing]


@dataclass
class Options:
    blocks: int = 0  # 0: as many as the largest sequences together need
    block_size: int = 16
    host_blocks: int = -1  # -1: as many as blocks
    batch_tokens: int = 256
    concurrency: int = 16
    dtype: str = "f32"
    layout: str = "nhd"
    sharing: bool = True
    ignore_end: bool = False


@dataclass
class Event:
    """A token of a sequence; last: why it was the last one ("length" or "end"), else ""."""

    index: int
    token: int
    last: str


def shared_prefixes(work, block_size):
    """{sequence: blocks} for sequences that begin with the same computed blocks as another one."""
    groups = {}
    for sequence, _ in work:
        if sequence.computed >= block_size:
            groups.setdefault(sequence.blocks[0], []).append(sequence)
    common = {}
    for group in groups.values():
        if len(group) > 1:
            depth = min(s.computed // block_size for s in group)
            columns = zip(*(s.blocks[:depth] for s in group))
            equal = next((i for i, c in enumerate(columns) if len(set(c)) > 1), depth)
            common.update((s, equal) for s in group)
    return common


def _table(rows, counts):
    """One row per token of every sequence, padded with 0 to the longest."""
    table = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
    for line, blocks in zip(table, rows):
        line[: len(blocks)] = blocks
    return np.repeat(table, counts, axis=0)


def make_batch(work, block_size):
    """Rows of (sequence, count) pairs, those with a shared prefix first, and their order."""
    common = shared_prefixes(work, block_size)
    work = sorted(work, key=lambda item: item[0] not in common)
    counts = np.array([count for _, count in work])
    sharers = sum(s in common for s, _ in work)
    depths = np.array([common.get(s, 0) for s, _ in work])
    positions = np.concatenate([np.arange(s.computed, s.computed + n) for s, n in work])
    tokens = np.concatenate([s.tokens[s.computed : s.computed + n] for s, n in work])
    blocks = np.concatenate([np.array(s.blocks)[np.arange(s.computed, s.computed + n) // block_size]
                             for s, n in work])
    rows = int(counts[:sharers].sum())
    prefix = np.repeat(depths, counts) * block_size
    ends = np.cumsum(counts) - 1
    complete = [n == s.pending for s, n in work]
    batch = Batch(
        tokens, positions, blocks * block_size + positions % block_size,
        _table([s.blocks[common.get(s, 0) :] for s, _ in work], counts),
        (positions + 1 - prefix).astype(np.int32), ends[complete], rows,
        _table([s.blocks[: common[s]] for s, _ in work[:sharers]], counts[:sharers]),
        prefix[:rows].astype(np.int32))
    return batch, work


class Engine:
    """Runs prompts through a model: submit() them, then iterate over run()."""

    def __init__(self, model, options):
        self.model, self.options = model, options
        self.sequences, self.sampling = [], []
        self.scheduler = self.cache = self.forward = None
        self.steps = self.prefilled = self.decoded = self.merged = 0
        self.seconds = 0.0

    def submit(self, prompt, limit, sampling):
        """A prompt (token ids) and how to go on from it; returns its index."""
        index, config = len(self.sequences), self.model.config
        if not prompt:
            raise UsageError(f"prompt {index + 1} is empty")
        if max(prompt) >= config.vocabulary:
            raise UsageError(f"prompt {index + 1}: the tokenizer gives token {max(prompt)}, the "
                             f"model knows {config.vocabulary}")
        if len(prompt) + limit > config.positions:
            raise UsageError(f"prompt {index + 1} has {len(prompt)} tokens, and {limit} more make "
                             f"{len(prompt) + limit}: the model is made for {config.positions}")
        self.sequences.append(Sequence(index, list(prompt), len(prompt), limit))
        self.sampling.append((sampling, generator(sampling, index)))
        return index

    def set_up(self):
        """Allocates the cache for what was submitted."""
        o = self.options
        needs = sorted((-(-(s.prompt + s.limit - 1) // o.block_size) for s in self.sequences),
                       reverse=True)
        blocks = o.blocks or sum(needs[: o.concurrency])
        host = blocks if o.host_blocks < 0 else o.host_blocks
        self.scheduler = Scheduler(blocks, o.block_size, host, o.batch_tokens, o.concurrency,
                                   o.sharing)
        for sequence in self.sequences:
            self.scheduler.add(sequence)
        self.cache = PagedCache(self.model.config, blocks, o.block_size, host, o.dtype, o.layout,
                                self.model.place)
        self.forward = self.model.bind(self.cache, needs[0] if needs else 0)

    @property
    def generated(self):
        return sum(s.generated for s in self.sequences)

    def run(self):
        """Yields the Events of all submitted sequences as they happen."""
        if self.scheduler is None:
            self.set_up()
        begin = time.perf_counter()
        while not self.scheduler.idle:
            events = self.step()
            self.seconds = time.perf_counter() - begin
            yield from events

    def step(self):
        plan = self.scheduler.plan()
        self.cache.swap_out(plan.out)
        self.cache.swap_in(plan.back)
        batch, work = make_batch(plan.work, self.options.block_size)
        logits = iter(self.forward(batch))
        events = []
        for sequence, count in work:
            decoding = sequence.computed >= sequence.prompt
            self.decoded += count if decoding else 0
            self.prefilled += 0 if decoding else count
            complete = count == sequence.pending
            sequence.computed += count
            if complete:
                events.append(self._accept(sequence, next(logits)))
        self.steps += 1
        self.merged += batch.sharing
        return sorted(events, key=lambda event: event.index)

    def _accept(self, sequence, logits):
        token = pick(logits, *self.sampling[sequence.index])
        sequence.tokens.append(token)
        last = ""
        if token in self.model.config.ends and not self.options.ignore_end:
            last = "end"
        elif sequence.generated == sequence.limit:
            last = "length"
        if last:
            self.scheduler.finish(sequence)
        return Event(sequence.index, token, last)
