# The command line: prompts in, text out; figures go to standard error.
import argparse
import json
import os
import sys
import time
from pathlib import Path

from .errors import UsageError
from .stream import InOrder, TextStream

HERE = Path(__file__).resolve().parent
DESCRIPTION = """Generates text with a Llama-architecture model over a paged KV cache. Norms, rotary
embedding, activation, matrix products, cache writes, attention, its merging and block swaps run in
libkvops; on a GPU the products are cuBLAS's."""
EXAMPLES = """examples:
  generate "The cache"                               greedy, from the model that comes along
  generate "The cache" --temperature 0.8 --seed 7    sampled, the same text for the same seed
  generate -f prompts.txt --prefix "## Notes on "    many at once, sharing the cache of the prefix
  generate "A slot" --samples 8 --blocks 60          a cache too small: sequences are swapped out
  generate "A slot" --kv-dtype f8_e4m3 --layout hnd --model ~/models/llama
"""


def _at_least(least, kind=int):
    def parse(text):
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"is {text}, expected at least {least}")
        return value
    parse.__name__ = kind.__name__
    return parse


def _share(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"is {text}, expected more than 0, at most 1")
    return value


def parser():
    p = argparse.ArgumentParser(prog="generate", description=DESCRIPTION, epilog=EXAMPLES,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument_group("prompts").add_argument
    add("prompts", nargs="*", metavar="PROMPT", help="a text to go on from")
    add("-f", "--file", metavar="FILE", help="one prompt a line; - is standard input, which is "
        "also read when there is no prompt at all")
    add("--whole", action="store_true", help="the file is one prompt, lines and all")
    add("--prefix", default="", metavar="TEXT", help="common beginning of all prompts")
    add("--samples", type=_at_least(1), default=1, metavar="N", help="texts per prompt (1)")
    add = p.add_argument_group("model").add_argument
    add("--model", default=str(HERE / "model"), metavar="DIR", help="folder with config.json, "
        "model.safetensors (or shards and their index), tokenizer.json")
    add("--weights", choices=("f32", "bf16", "int8"), default="f32",
        help="how the layers' matrices are kept and multiplied (f32)")
    add("--max-tokens", type=_at_least(1), default=256, metavar="N",
        help="most tokens to generate per text (256)")
    add("--ignore-end", action="store_true", help="go on after the model's end-of-text token")
    add = p.add_argument_group("sampling").add_argument
    add("--temperature", type=_at_least(0, float), default=0.0, metavar="T",
        help="0, the default, takes the likeliest token")
    add("--top-k", type=_at_least(0), default=0, metavar="K", help="only the K likeliest (0: all)")
    add("--top-p", type=_share, default=1.0, metavar="P",
        help="only the likeliest that together reach probability P (1)")
    add("--seed", type=_at_least(0), default=0, metavar="N", help="of the random numbers (0)")
    add = p.add_argument_group("cache").add_argument
    add("--kv-dtype", choices=("f32", "bf16", "f8_e4m3"), default="f32", help="(f32)")
    add("--layout", choices=("packed", "nhd", "hnd", "cpu"), default="nhd", help="of a block (nhd)")
    add("--block-size", type=_at_least(1), default=16, metavar="N", help="tokens per block (16)")
    add("--blocks", type=_at_least(1), default=None, metavar="N",
        help="blocks in the cache (as many as --concurrency texts need)")
    add("--host-blocks", type=_at_least(0), default=-1, metavar="N",
        help="room for blocks that are swapped out (as --blocks)")
    add("--no-sharing", action="store_true", help="texts with the same beginning share no blocks")
    add = p.add_argument_group("running").add_argument
    add("--concurrency", type=_at_least(1), default=16, metavar="N",
        help="texts generated side by side (16)")
    add("--batch-tokens", type=_at_least(1), default=256, metavar="N",
        help="most tokens a step: longer prompts enter in chunks (256)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    add("--threads", type=_at_least(1), default=None, metavar="N", help="for the operators and for "
        "the products (all cores; 1 for a model under 64 MB, as waiting costs more than it saves)")
    add = p.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON line per text, when it is finished")
    add("-q", "--quiet", action="store_true", help="no figures on standard error")
    return p


def read_prompts(a):
    """The texts to go on from, each --samples times."""
    prompts, name = list(a.prompts), a.file
    if not prompts and name is None:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt: give it as an argument, with --file, or on "
                             "standard input")
        name = "-"
    if name is not None:
        try:
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            text = data.decode()
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}: is not UTF-8 at byte {error.start}") from None
        prompts += [text] if a.whole else [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UsageError("standard input has no prompt" if name == "-" else f"{name} has no prompt")
    return [a.prefix + prompt for prompt in prompts for _ in range(a.samples)]


class Display:
    """Text on standard output as it comes; a line of figures on standard error meanwhile, unless
    both are the same terminal."""

    def __init__(self, engine, prompts, tokenizer, a):
        self.engine, self.prompts, self.json = engine, prompts, a.json
        self.streams = [TextStream(tokenizer, s.tokens) for s in engine.sequences]
        self.texts = [[] for _ in prompts]
        self.live = not a.quiet and sys.stderr.isatty() and not sys.stdout.isatty()
        self.shown = 0.0
        self.order = None if a.json else InOrder(len(prompts), self._write, self._heading)

    @staticmethod
    def _write(text):
        sys.stdout.write(text)
        sys.stdout.flush()

    def _heading(self, number):
        gap = "\n\n" if number else ""
        mark = f"[{number + 1}] " if len(self.prompts) > 1 else ""
        self._write(f"{gap}{mark}{self.prompts[number]}")

    def show(self, event):
        stream, number = self.streams[event.index], event.index
        text = "" if event.last == "end" else stream.push(event.token)
        if event.last:
            text += stream.finish()
        self.texts[number].append(text)
        if self.order:
            self.order.text(number, text)
        if event.last:
            self._end(number, event.last)
        if self.live and time.perf_counter() - self.shown > 0.1:
            self.shown = time.perf_counter()
            sys.stderr.write(f"\r\033[K{progress(self.engine)}")
            sys.stderr.flush()

    def _end(self, number, reason):
        if self.order:
            self.order.end(number)
            return
        sequence = self.engine.sequences[number]
        print(json.dumps({"prompt": self.prompts[number], "text": "".join(self.texts[number]),
                          "index": number, "prompt_tokens": sequence.prompt,
                          "shared_tokens": sequence.shared, "tokens": sequence.generated,
                          "finish": reason}, ensure_ascii=False), flush=True)

    def close(self):
        if self.order:
            self._write("\n")
        if self.live:
            sys.stderr.write("\r\033[K")


def progress(engine):
    s = engine.scheduler
    rate = engine.generated / max(engine.seconds, 1e-9)
    return (f"{engine.generated} tokens, {rate:.0f} tokens/s, cache {s.pool.used}/{s.pool.count} "
            f"blocks, {len(s.running)} running, {len(s.swapped)} swapped, {len(s.waiting)} waiting")


def summary(engine):
    """Two or three lines: speed, cache, what had to be moved."""
    s, cache, o = engine.scheduler, engine.cache, engine.options
    prompt = sum(q.prompt for q in engine.sequences)
    shared = sum(q.shared for q in engine.sequences)
    rate = engine.generated / max(engine.seconds, 1e-9)
    lines = [f"{engine.generated} tokens in {engine.seconds:.2f} s: {rate:.0f} tokens/s, "
             f"{engine.steps} steps; {prompt} prompt tokens, {shared} of them from shared blocks",
             f"cache: {s.pool.peak} of {s.pool.count} blocks of {o.block_size} tokens at the peak, "
             f"{o.dtype} {o.layout}, {s.pool.count * cache.block_bytes / 2**20:.1f} MiB"]
    where = engine.model.place.report()
    if where:
        lines.append(where)
    if s.preemptions:
        lines.append(f"preempted {s.preemptions} times: {s.copied_out} blocks swapped out, "
                     f"{s.copied_back} back, {s.dropped} texts computed again")
    return "\n".join(lines)


def set_threads(a):
    """Tells OpenMP and NumPy's BLAS, which look once, when they are loaded."""
    threads = a.threads
    if threads is None:
        size = sum(f.stat().st_size for f in Path(a.model).glob("*.safetensors"))
        threads = 1 if size < 64 << 20 else None
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if a.threads:
            os.environ[name] = str(threads)
        elif threads:
            os.environ.setdefault(name, str(threads))


def find_place(a):
    import kvops
    from .place import Device, Host
    if a.device == "cpu":
        return Host(a.weights)
    if not kvops.device_count(a.device):
        raise UsageError(f"there is no {a.device} device here, or its driver is too old "
                         "(kvops doctor says more)")
    return Device(a.device, a.weights)


def run(a):
    """Generates; errors that the user can put right are UsageErrors."""
    from . import checkpoint, llama
    from .engine import Engine, Options
    from .sampling import Sampling
    prompts = read_prompts(a)
    folder = checkpoint.find(a.model)
    config, tokenizer = checkpoint.read_config(folder), checkpoint.read_tokenizer(folder)
    place = find_place(a)
    model = llama.Llama(config, checkpoint.Weights(folder), place)
    engine = Engine(model, Options(
        blocks=a.blocks or 0, block_size=a.block_size, host_blocks=a.host_blocks,
        batch_tokens=a.batch_tokens, concurrency=a.concurrency, dtype=a.kv_dtype,
        layout=a.layout, sharing=not a.no_sharing, ignore_end=a.ignore_end))
    sampling = Sampling(a.temperature, a.top_k, a.top_p, a.seed)
    for prompt in prompts:
        engine.submit(tokenizer.encode(prompt).ids, a.max_tokens, sampling)
    engine.set_up()
    display = Display(engine, prompts, tokenizer, a)
    try:
        for event in engine.run():
            display.show(event)
    finally:
        display.close()
        if not a.quiet:
            print(summary(engine), file=sys.stderr)


def main(arguments=None):
    """Runs the program; returns its exit status."""
    a = parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?"
    set_threads(a)
    try:
        import kvops
    except ImportError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    try:
        run(a)
    except (UsageError, kvops.Error, MemoryError) as error:
        print(f"generate: {error or 'out of memory: lower --blocks'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0
