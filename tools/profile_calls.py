#!/usr/bin/env python3
"""Profiles calls of `kvops bench --device cuda` with Nsight Compute, as rows of a Markdown table.

    tools/profile_calls.py --kvops build/bin/kvops rms_norm:llama3-70b \\
        silu_and_mul:"n=1 d=14336 T=bf16"

Each argument is OP:CASE, of which every call is a row, or OP:LINE. A row is one kernel of the call:
its time alone with cold caches, the share of their peaks that memory, L2, L1 and instruction issue
reached, warps resident of those possible, and what a warp waited for, as a share of all its time.
Clocks stay as they are, and the first launches, which load the kernel, are left out.
"""
import argparse
import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TIME = "gpu__time_duration.sum"
SHARES = {
    "memory": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "L2": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "L1": "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
MOVED = {"read": "dram__bytes_read.sum", "written": "dram__bytes_write.sum"}
# Warps in each state, per instruction issued; "selected" is the one that issues.
STATES = ("long_scoreboard", "short_scoreboard", "barrier", "membar", "math_pipe_throttle",
          "lg_throttle", "mio_throttle", "tex_throttle", "wait", "not_selected", "selected",
          "no_instruction", "branch_resolving", "dispatch_stall", "drain", "imc_miss", "sleeping")
STATE = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
UNITS = {"ns": 1e-3, "nsecond": 1e-3, "byte": 1e-6}  # to us and MB; shares and ratios stay


def calls(kvops, data, op, what):
    """The lines that `kvops bench` would measure for OP:CASE; a text with "=" is one already."""
    if "=" in what:
        return [what]
    command = [kvops, "bench", op, what, "--device", "cuda", "--list", *data]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [row.split(" bytes  ", 1)[1] for row in listed.splitlines() if " bytes  " in row]


def profile(arguments, op, line):
    """One dict of metrics for each kernel of a call, by name."""
    metrics = [TIME, *SHARES.values(), *MOVED.values(), *map(STATE.format, STATES)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log.csv")
        command = [arguments.ncu, "--clock-control", "none", "--csv", "--page", "raw",
                   "--print-units", "base", "--log-file", str(log),
                   "--kernel-name-base", "demangled",
                   "-k", r"regex:kvops::(cuda|gpu)::", "-s", str(arguments.skip), "-c",
                   str(arguments.count), "--kill", "yes", "--metrics", ",".join(metrics),
                   arguments.kvops, "bench", op, "--line", line, "--device", "cuda",
                   "--seconds", "0.001", *arguments.data]
        run = subprocess.run(command, capture_output=True, text=True)
        text = log.read_text() if log.exists() else ""
    rows = list(csv.reader(row for row in text.splitlines() if row.startswith('"')))
    if len(rows) < 3:
        sys.exit(f"{op} {line}: no kernel was profiled\n{text[-800:]}{run.stdout[-800:]}"
                 f"{run.stderr[-800:]}")
    names, units = rows[0], rows[1]
    kernels = {}
    for row in rows[2:]:
        values = dict(zip(names, row))
        name = re.search(r"(\w+)(<.*)?\(", values["Kernel Name"])
        kernels[name.group(1) if name else values["Kernel Name"]] = {
            key: number(value, unit) for key, value, unit in zip(names, row, units)
            if key in metrics}
    return kernels


def number(text, unit):
    try:
        return float(text.replace(",", "")) * UNITS.get(unit, 1)
    except ValueError:
        return float("nan")


def waits(values):
    """The three states in which warps were most, as shares of all of them."""
    warps = {state: values.get(STATE.format(state), 0.0) for state in STATES}
    warps = {state: count for state, count in warps.items() if count == count}
    total = sum(warps.values()) or 1
    top = sorted(warps, key=warps.get, reverse=True)[:3]
    return ", ".join(f"{state.replace('_', ' ')} {100 * warps[state] / total:.0f} %"
                     for state in top)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calls", nargs="+", metavar="OP:CASE", help="or OP:LINE")
    parser.add_argument("--kvops", default="kvops", help="the program (default: on the PATH)")
    parser.add_argument("--ncu", default="ncu", help="Nsight Compute's program")
    parser.add_argument("--data", default=[], type=lambda path: ["--data", path],
                        help="folder with golden/ and cases/")
    parser.add_argument("--skip", type=int, default=3, help="launches before the first profiled")
    parser.add_argument("--count", type=int, default=2, help="launches profiled of a call")
    arguments = parser.parse_args()
    print("| operator | call | kernel | time | read, written | "
          + " | ".join(SHARES) + " | warps wait for |")
    print("|---|---|---|--:|--:|" + "--:|" * len(SHARES) + "---|")
    for one in arguments.calls:
        op, _, what = one.partition(":")
        for line in calls(arguments.kvops, arguments.data, op, what):
            for kernel, values in profile(arguments, op, line).items():
                shares = " | ".join(f"{values[metric]:.0f} %" for metric in SHARES.values())
                moved = ", ".join(f"{values[metric]:.1f}" for metric in MOVED.values())
                print(f"| {op} | {line} | {kernel} | {values[TIME]:.2f} µs | {moved} MB | "
                      f"{shares} | {waits(values)} |", flush=True)


if __name__ == "__main__":
    main()
