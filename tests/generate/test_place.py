# A place apart: on a device with memory of its own the program writes what it writes on the CPU. In
# CI that device is a second piece of CPU memory, on which the operators are the CPU's, bit for bit:
# whatever is not pushed, pulled or described rightly shows. On a GPU, the tokens are compared.
import numpy as np
import pytest

import kvops
from conftest import FOLDER, generate, load
from dense import Dense
from generate import checkpoint, llama
from generate.errors import UsageError
from generate.place import Device, Host, _span
from test_greedy import COMMON, PRESSED, PROMPTS, check_exact
from test_program import KINDS, write_checkpoint

GPU = pytest.mark.skipif(not kvops.device_count("cuda"), reason="there is no CUDA device")


def on(place, folder=FOLDER):
    return llama.Llama(checkpoint.read_config(folder), checkpoint.Weights(folder), place)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer.encode(p).ids for p in PROMPTS[:5]]


@pytest.mark.parametrize("options", [
    dict(layout="nhd"), dict(layout="packed", dtype="f8_e4m3"),
    dict(layout="hnd", blocks=24, concurrency=5, batch_tokens=20)])
@pytest.mark.parametrize("lacking", [
    (), ("paged_attention_v1", "swap_blocks", "merge_attn_states")])
def test_memory_of_its_own(model, prompts, options, lacking):
    place = Device("cpu", lacking=lacking)
    far, there = generate(on(place), prompts, 60, **options)
    near, here = generate(model, prompts, 60, **options)
    assert there == here and far.steps == near.steps
    assert (far.scheduler.preemptions > 0) == ("blocks" in options)
    assert ("paged_attention_v1" in place.report()) == bool(lacking)


def test_shared_prefixes(model, tokenizer):
    prompts = [tokenizer.encode(COMMON + p).ids for p in PROMPTS[:6]]
    far, there = generate(on(Device("cpu")), prompts, 40, concurrency=6, blocks=90)
    assert there == generate(model, prompts, 40, concurrency=6, blocks=90)[1] and far.merged


def test_biases(tmp_path):
    write_checkpoint(tmp_path, *KINDS["biases_mqa"])
    prompts = [[1, 2, 3], [7] * 20]
    place = Device("cpu")
    assert generate(on(place, tmp_path), prompts, 20)[1] == generate(load(tmp_path), prompts, 20)[1]
    assert "products" in place.report()


def share_of_the_dense_choice(dense, runner, outputs):
    logits = [dense.logits(s.tokens[:-1])[s.prompt - 1 :] for s in runner.sequences]
    return np.mean([np.mean(rows.argmax(1) == out) for rows, out in zip(logits, outputs)])


def test_bf16_throughout(dense, prompts):
    """Activations of bf16: errors of 2^-9, as with bf16 weights on the CPU (test_greedy)."""
    found = generate(on(Device("cpu", "bf16")), prompts, 60, dtype="bf16")
    assert share_of_the_dense_choice(dense, *found) >= 0.97


def test_arrays_and_their_twins():
    place = Device("cpu")
    array = place.given(np.arange(24, dtype=np.float32).reshape(4, 6))
    for view in (array, array[1:, ::2], array.T, array[::-1, 3:], array[2, 5]):
        twin = place.twin(np.asarray(view) if np.ndim(view) else array[2:3, 5:6])
        offset = twin.data - place.twin(array).data
        assert 0 <= offset < array.nbytes
    flipped = array[::-1]
    assert place.twin(flipped).data - place.twin(array).data == 72
    assert _span(flipped) == _span(array) and place.twin(flipped).strides == (-6, 1)
    stranger = np.zeros(3, np.float32)
    assert place.twin(stranger) is stranger
    array[:] = 0
    place.pull(array)
    assert array.flat[23] == 23
    first = place.constant(array[:2])
    assert place.constant(array[:2]) is first and len(place.starts) == 1
    del array, view, flipped, first
    place.constants.clear()
    assert not place.starts and not place.twins


@pytest.mark.parametrize("place, options, sentence", [
    (lambda: Device("cpu", "int8"), {}, "--weights int8 runs on the CPU, expected f32 or bf16"),
    (lambda: Device("cpu"), dict(layout="cpu"), "layout cpu is the CPU's, expected packed, nhd or"),
    (lambda: Device("cpu"), dict(dtype="bf16"), "a cache of bf16 goes with --weights bf16, which"),
])
def test_what_a_device_does_not_do(place, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        generate(on(place()), [[1, 2]], 3, **options)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f8_e4m3"])
def test_the_cpus_own_layout(model, prompts, dtype):
    """Only the host has it; a few tokens of what test_greedy.py holds against the dense model."""
    _, outputs = generate(model, prompts[:2], 12, layout="cpu", dtype=dtype, block_size=32)
    assert outputs == generate(model, prompts[:2], 12, layout="nhd", dtype=dtype)[1]


def test_the_host_is_the_default():
    assert isinstance(load(FOLDER).place, Host) and load(FOLDER).place.report() == ""


@GPU
@pytest.mark.parametrize("layout", ["packed", "nhd", "hnd"])
def test_five_prompts_on_a_gpu_equal_the_dense_model(dense, tokenizer, layout):
    model = on(Device("cuda"))
    check_exact(model, dense, [tokenizer.encode(p).ids for p in PROMPTS], 5, layout=layout)
    print(model.place.report())


@GPU
def test_a_gpu_shares_and_preempts(dense, tokenizer):
    prompts = [tokenizer.encode(COMMON + p).ids for p in PROMPTS]
    runner = check_exact(on(Device("cuda")), dense, prompts, 16, **PRESSED)
    assert runner.merged > 1000 and runner.scheduler.copied_back > 0


@GPU
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_on_a_gpu(kind, tmp_path):
    write_checkpoint(tmp_path, *KINDS[kind])
    prompts = [list(np.random.RandomState(i).randint(0, 60, 9 + 20 * i)) for i in range(3)]
    runner, outputs = generate(on(Device("cuda"), tmp_path), prompts, 20, batch_tokens=24)
    reference = Dense(tmp_path)
    for sequence, output in zip(runner.sequences, outputs):
        logits = reference.logits(sequence.tokens[:-1])[sequence.prompt - 1 :]
        assert output == list(logits.argmax(axis=1))


@GPU
def test_bf16_on_a_gpu(dense, prompts):
    found = generate(on(Device("cuda", "bf16")), prompts, 60, dtype="bf16")
    assert share_of_the_dense_choice(dense, *found) >= 0.97
