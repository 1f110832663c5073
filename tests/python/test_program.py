# The `kvops` program: doctor, verify, bench, as a user and as a script sees them.
import json
import os
import pathlib
import shutil
import subprocess
import sys

import kvops
import pytest

PROGRAM = os.environ["KVOPS_PROGRAM"]


def run(*arguments, status=0, **environment):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True,
                          env={**os.environ, **environment})
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_version_and_help():
    version, path = run("--version")[0].split()
    assert version == kvops.__version__
    assert os.path.realpath(kvops.library_path) == path
    assert all(word in run("--help")[0] for word in ("doctor", "verify", "bench"))
    assert "subcommand" in run(status=106)[1]


def test_doctor_runs_every_operator():
    found = json.loads(run("doctor", "--json")[0])
    assert found["healthy"] and not found["problems"]
    assert os.path.realpath(found["library"]) == os.path.realpath(kvops.library_path)
    assert found["version"] == kvops.__version__
    assert found["backends"]["cpu"]["devices"][0]["name"]
    on_cpu = {op.name for op in kvops.ops.values() if "cpu" in op.backends}
    assert {r["op"] for r in found["runs"] if r["backend"] == "cpu"} == on_cpu
    for backend in ("cuda", "hip"):
        state = found["backends"][backend]
        assert bool(state["devices"]) != bool(state["missing"]), "a missing back end says why"
    text = run("doctor", KVOPS_CPU_ISA="sse4")[0]
    assert "all is well" in text and "setting  KVOPS_CPU_ISA=sse4" in text


def test_doctor_finds_other_libraries(tmp_path):
    """In the loader's path: a copy of the library, and a file of that name which is none."""
    shutil.copy(kvops.library_path, tmp_path / "libkvops.so.8")
    (tmp_path / "libkvops.so.9").write_text("not a library")
    text = run("doctor", status=1, LD_LIBRARY_PATH=str(tmp_path))[0]
    assert f"found    {tmp_path}/libkvops.so.8  {kvops.__version__}" in text
    assert f"PROBLEM  {tmp_path}/libkvops.so.9 is not loadable" in text
    assert f"PROBLEM  {tmp_path}/libkvops.so.8" not in text


def test_doctor_without_cases(tmp_path):
    text = run("doctor", "--data", str(tmp_path), status=1)[0]
    assert "rms_norm: no golden case in" in text


def test_verify():
    found = json.loads(run("verify", "--device", "cpu", "--json", "rms_norm")[0])
    assert found["failed"] == 0 and found["passed"] == len(found["cases"]) > 10
    assert {case["backend"] for case in found["cases"]} == {"cpu"}
    assert {case["op"] for case in found["cases"]} == {"rms_norm"}
    assert all(case["calls"] >= 4 for case in found["cases"])
    assert "0 failed" in run("verify", "rms_norm")[0]
    assert "no golden cases in" in run("verify", "no_such_op", status=1)[1]


def test_verify_tries_what_has_no_golden_case():
    names = ("onednn_mm", "cpu_attention_with_kv_cache")
    cases = json.loads(run("verify", "--json", *names)[0])["cases"]
    assert {case["op"] for case in cases} == set(names)
    assert len({case["device"] for case in cases}) * 2 == len(cases)


def test_verify_sees_a_wrong_result(tmp_path):
    import numpy as np

    case = tmp_path / "golden" / "rms_norm" / "wrong"
    case.mkdir(parents=True)
    x = np.ones((2, 8), np.float32)
    np.save(case / "input.f32.npy", x)
    np.save(case / "epsilon.npy", 0.0)
    np.save(case / "out.expected.f32.npy", np.where(np.arange(8) == 3, 1.001, x).astype("f4"))
    text = run("verify", "--data", str(tmp_path), status=1)[0]
    assert "FAILED  rms_norm wrong on cpu" in text and "1 failed" in text.replace("4", "1")


def bench(*arguments):
    return json.loads(run("bench", *arguments, "--seconds", "0.02", "--json")[0])["results"]


def test_bench_counts_the_bytes_of_the_roles():
    one, two = bench("rms_norm", "--line", "n=3,5x2 d=64 T=bf16 weight=d")
    assert one["values"] == {"n": "3", "d": "64", "T": "bf16", "weight": "d"}
    assert (one["bytes"], two["bytes"]) == ((6 * 64 + 64) * 2, (20 * 64 + 64) * 2)
    for row in (one, two):
        assert row["us"] > 0 and row["copy_us"] > 0 and row["samples"] >= 11
        assert abs(row["gb_per_s"] * row["us"] * 1e3 / row["bytes"] - 1) < 1e-3


def test_bench_knows_what_an_index_touches():
    line = "tokens=7 heads=2 size=32 block=16 blocks=64 T=bf16 Cache=f8_e4m3"
    (row,) = bench("reshape_and_cache_flash", "--line", line)
    read, written, slots, scales = 2 * 7 * 64 * 2, 2 * 7 * 64, 7 * 8, 8
    assert abs(row["bytes"] - (read + written + slots + scales)) <= 2


def test_bench_runs_the_lines_of_the_installation(tmp_path):
    cases = tmp_path / "cases"
    cases.mkdir()
    lines = "# a comment\nsmall n=1,2 d=8 T=f32\nother n=1 d=16 T=f32\n"
    (cases / "rms_norm.txt").write_text(lines)
    rows = bench("rms_norm", "small", "--data", str(tmp_path))
    assert [row["values"]["n"] for row in rows] == ["1", "2"]
    assert len(bench("rms_norm", "--data", str(tmp_path))) == 3
    assert "no such case" in run("bench", "rms_norm", "large", "--data", str(tmp_path), status=1)[1]


@pytest.mark.parametrize("line, sentence", [
    ("n=5 d=64 T=f32 Q=1", "what is Q?"),
    ("n=5 T=f32", "the line does not say d of input"),
    ("n=5 d=64 T=f32 TorF32=f16", "weight: dtype is f16, expected f32"),
])
def test_bench_refuses_a_line(line, sentence):
    assert sentence in run("bench", "rms_norm", "--line", line, status=1)[1]


def test_bench_refuses_names():
    assert 'there is no operator "rms_nrom"' in run("bench", "rms_nrom", status=1)[1]
    assert "expected cpu, cuda" in run("bench", "rms_norm", "--device", "gpu", status=105)[1]


def test_every_line_of_the_installation_is_a_call():
    text, complaints = run("bench", "all", "--list")
    assert not [line for line in complaints.splitlines() if "cannot be read" not in line]
    listed = {line.split()[0] for line in text.splitlines()}
    assert listed >= {"rms_norm", "reshape_and_cache", "paged_attention_v1"}
    assert listed <= {op.name for op in kvops.ops.values() if "cpu" in op.backends}


def test_results_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    tool = pathlib.Path(__file__).resolve().parents[2] / "tools" / "plot.py"
    text = run("bench", "rms_norm", "--line", "n=3,5 d=64 T=bf16", "--seconds", "0.02", "--json")[0]
    (tmp_path / "bench.json").write_text(text)

    def draw(*arguments):
        return subprocess.run([sys.executable, tool, tmp_path / "bench.json", *arguments],
                              check=True, capture_output=True, text=True).stdout

    draw("-o", tmp_path / "bench.svg")
    assert (tmp_path / "bench.svg").read_text().startswith("<?xml")
    table = draw("--markdown").splitlines()
    assert len(table) == 4 and table[2].startswith("| rms_norm | line | n=3 |")
