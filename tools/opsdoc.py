#!/usr/bin/env python3
"""Writes docs/ops.md, the reference of all operators, and its table of what is supported where.

    tools/opsdoc.py --library build/libkvops.so                     writes docs/ops.md
    tools/opsdoc.py --library build/libkvops.so --record FILE ...   takes in `kvops verify --json`
    tools/opsdoc.py --library build/libkvops.so --check             fails when it differs

Arguments and rules come from kvops_ops(), texts from the headers' comments (docs.json of the
Python package), support from recorded runs of the golden cases: docs/support.json, never from the
table, which says only what is compiled for HIP.
"""
import argparse
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE, SUPPORT = ROOT / "docs" / "ops.md", ROOT / "docs" / "support.json"
DOCS = ROOT / "bindings" / "python" / "kvops" / "docs.json"
BACKENDS = ("cpu", "cuda", "hip")
FAMILIES = ("norm", "rope", "activation", "cache_write", "mla", "cache_read", "transfer",
            "attention", "sparse", "cpu")


def record(support, files):
    """Adds the outcomes of verify runs: op -> backend -> device -> [passed, failed]."""
    for file in files:
        counts = {}
        for case in json.loads(Path(file).read_text(encoding="utf-8"))["cases"]:
            if case["outcome"] == "skipped":
                continue
            place = counts.setdefault((case["op"], case["backend"], case["device"]), [0, 0])
            place[case["outcome"] != "passed"] += 1
        seen = {backend for _, backend, _ in counts}
        for places in support.values():
            for backend in seen:
                places.pop(backend, None)
        for (op, backend, device), outcome in counts.items():
            support.setdefault(op, {}).setdefault(backend, {})[device] = outcome


def cell(places):
    """One cell: the cases that passed, and where; failures are said."""
    if not places:
        return ""
    passed = {outcome[0] for outcome in places.values()}
    failed = sum(outcome[1] for outcome in places.values())
    where = ", ".join(places)
    text = f"{'/'.join(str(n) for n in sorted(passed))} cases: {where}"
    return text + (f"; **{failed} failed**" if failed else "")


def compiled_for_hip():
    """Operators whose HIP column is on: what CI compiles, without a device to run it."""
    rows = (ROOT / "src" / "ops.def").read_text(encoding="utf-8")
    return set(re.findall(r"^KVOPS_OP\((\w+),\s*\d,\s*\d,\s*1,", rows, re.M))


def support_table(kvops, support):
    lines = ["| operator | CPU | CUDA | HIP |", "|---|---|---|---|"]
    hip = compiled_for_hip()
    for op in kvops.ops.values():
        places = support.get(op.name, {})
        cells = [cell(places.get(backend, {})) for backend in BACKENDS]
        cells[-1] = cells[-1] or ("compiled, not run" if op.name in hip else "")
        lines.append(f"| [{op.name}](#{op.name}) | {' | '.join(cells)} |")
    return lines


def roles(kvops, a):
    kinds = kvops.operators
    if a.kind != kinds.TENSOR:
        return "number"
    words = ["scratch" if a.flags & kinds.SIZED else
             "updated" if a.flags & kinds.WRITTEN and a.flags & kinds.READ else
             "written" if a.flags & kinds.WRITTEN else
             "place" if a.flags & kinds.PLACE else "read"]
    words += [word for flag, word in ((kinds.OPTIONAL, "optional"), (kinds.HOST, "CPU memory"),
                                      (kinds.ANYWHERE, "device or CPU")) if a.flags & flag]
    return ", ".join(words)


def tolerance(a):
    """How golden cases compare a written tensor."""
    wide, narrow = a.tolerance
    if a.compare in ("ulp", "rows"):
        both = f"{wide:g}" if wide == narrow else f"{wide:g} (f32), {narrow:g}"
        return f"{both} ulp" + (" of the row" if a.compare == "rows" else "")
    return {"scratch": "", "set": "as a set"}.get(a.compare, "exact")


def value_text(kvops, a):
    kinds = kvops.operators
    if a.kind == kinds.REAL:
        return "float"
    if a.type:
        return "any dtype" if len(a.dtypes) >= 11 else " ".join(a.dtypes)
    return " ".join(a.values) if a.values else a.shape or "integer"


def argument_table(kvops, op, notes):
    kinds = kvops.operators
    lines = ["| argument | role | values | shape | compared | |", "|---|---|---|---|---|---|"]
    for a in op.arguments.values():
        is_tensor = a.kind == kinds.TENSOR
        shape = f"`{a.shape}`".replace("|", "\\|") if is_tensor and a.shape else ""
        written = is_tensor and a.flags & kinds.WRITTEN
        note = notes.get(a.name, "").replace("|", "\\|")
        cells = (f"`{a.name}`", roles(kvops, a), value_text(kvops, a), shape,
                 tolerance(a) if written else "", note)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def operator_section(kvops, op, doc):
    lines = [f"### {op.name}", ""]
    if doc["text"]:
        lines += ["```text", doc["text"], "```", ""]
    lines += argument_table(kvops, op, doc["fields"])
    if op.rules:
        lines += ["", "Rules: " + "; ".join(f"`{rule}`" for rule in op.rules) + "."]
    return [*lines, ""]


def page(kvops, docs, support):
    lines = ["# Operators", "",
             "Written by `tools/opsdoc.py` from the library's table, the headers' comments and "
             "recorded runs of", "`kvops verify`: do not edit. Words and shapes: "
             "[layouts.md](layouts.md).", "", "## Support", "",
             "A cell says how many golden cases passed, and on which devices or instruction sets; "
             "empty: not there.", ""]
    lines += support_table(kvops, support)
    families = sorted({doc["family"] for doc in docs["ops"].values()},
                      key=lambda f: FAMILIES.index(f) if f in FAMILIES else len(FAMILIES))
    for family in families:
        lines += ["", f"## {family}", "", "```text", docs["families"][family], "```", ""]
        for op in kvops.ops.values():
            if docs["ops"][op.name]["family"] == family:
                lines += operator_section(kvops, op, docs["ops"][op.name])
        lines.pop()
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", default=os.environ.get("KVOPS_LIBRARY"), help="libkvops.so")
    parser.add_argument("--record", nargs="+", default=[], help="output of `kvops verify --json`")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    if options.library:
        os.environ["KVOPS_LIBRARY"] = str(Path(options.library).resolve())
    sys.path.insert(0, str(ROOT / "bindings" / "python"))
    import kvops

    support = json.loads(SUPPORT.read_text()) if SUPPORT.exists() else {}
    if options.record:
        record(support, options.record)
        ordered = {op: support[op] for op in kvops.ops if support.get(op)}
        text = json.dumps(ordered, indent=1)
        SUPPORT.write_text(re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", text) + "\n")
    text = page(kvops, json.loads(DOCS.read_text(encoding="utf-8")), support)
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if options.check:
        print("docs/ops.md differs from what tools/opsdoc.py writes")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


sys.exit(main())
