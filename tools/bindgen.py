#!/usr/bin/env python3
"""Writes what follows mechanically from the library's table: declarations for Rust, Go and Python.

    tools/bindgen.py --library build/libkvops.so           writes the files
    tools/bindgen.py --library build/libkvops.so --check   says which differ, and fails

Operators, fields, offsets, dtypes and enum values come from kvops_ops() of the built library; only
comments and the names of functions come from the headers.
"""
import argparse
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADERS = ROOT / "include" / "kvcache_ops"
NOTE = "Written by tools/bindgen.py from kvops_ops(): do not edit."


# ---- the headers: comments, names of functions ---------------------------------------------------


def uncomment(lines):
    return "\n".join(re.sub(r"^ ?// ?", "", line.strip()) for line in lines).strip()


def comment_above(lines, at):
    """The // block that ends above line `at`, past declarations that share it."""
    while at > 0 and not lines[at - 1].startswith("//"):
        if not lines[at - 1].strip():
            return ""
        at -= 1
    first = at
    while first > 0 and lines[first - 1].startswith("//"):
        first -= 1
    return uncomment(lines[first:at])


def field_comments(lines, at):
    """name -> comment of the struct that opens at line `at`."""
    fields, last = {}, None
    for line in lines[at + 1:]:
        if line.startswith("}"):
            break
        member = re.match(r"\s+\w+ (\w+);\s*(?://\s*(.*))?$", line)
        more = re.match(r"\s+// ?(.*)$", line)
        if member and member[1] != "struct_size":
            last = member[1]
            fields[last] = re.sub(r"\s+", " ", member[2] or "")
        elif more and last:
            fields[last] += " " + more[1].strip()
    return fields


def read_headers():
    """(op -> {family, text, fields}, family -> text, declared functions, op -> size function)."""
    ops, families, functions, sizes, structs = {}, {}, set(), {}, {}
    for path in sorted(HEADERS.glob("*.h")):
        text = path.read_text()
        lines = text.splitlines()
        if path.name == "dlpack.h":
            continue
        opening = [line for line in lines[1:lines.index("")] if line.startswith("//")] \
            if "" in lines else []
        families[path.stem] = uncomment(opening)
        for number, line in enumerate(lines):
            struct = re.match(r"typedef struct kvops_(\w+)_args \{", line)
            if struct:
                structs[struct[1]] = field_comments(lines, number)
            alias = re.match(r"typedef kvops_(\w+)_args kvops_(\w+)_args;", line)
            if alias:
                structs[alias[2]] = structs[alias[1]]
        for found in re.finditer(r"KVOPS_API\s+[\w\s*]*?\**(?:const \*\s*)?(kvops_\w+)\(([^;]*)\);",
                                 text):
            name, parameters = found[1], " ".join(found[2].split())
            functions.add(name)
            args = re.fullmatch(r"const kvops_(\w+)_args\* args(, int64_t\* bytes)?", parameters)
            if args and args[2]:
                sizes[args[1]] = name
            elif args:
                at = text[:found.start()].count("\n")
                ops[args[1]] = {"family": path.stem, "text": comment_above(lines, at),
                                "fields": structs[args[1]]}
    return ops, families, sorted(functions), sizes


# ---- what is written -----------------------------------------------------------------------------


def docs_json(kvops, headers):
    ops, families, _, _ = headers
    used = sorted({op["family"] for op in ops.values()})
    data = {"families": {name: families[name] for name in used},
            "ops": {name: ops[name] for name in kvops.ops}}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def pyi_argument(kvops, argument):
    kinds = kvops.operators
    if argument.kind == kinds.TENSOR:
        return f"{argument.name}: Array" + (" | None = None" if argument.optional else "")
    if argument.kind == kinds.REAL:
        return f"{argument.name}: float = 0.0"
    names = argument.dtypes if argument.type else [n for n in argument.values if not n.isdigit()]
    if argument.type:
        return f"{argument.name}: DType = 0"
    if names:
        choices = ", ".join(f'"{name}"' for name in names)
        return f"{argument.name}: Literal[{choices}] | int = 0"
    return f"{argument.name}: int = 0"


def pyi(kvops, headers):
    lines = [f"# {NOTE}", "from typing import Any, Literal, Mapping, TypeAlias", "",
             "from ._library import Error, Status", "from ._tensor import Tensor", "",
             "# A NumPy array, a DLPack object or a kvops.Tensor", "Array: TypeAlias = Any",
             "# An address, or a stream object", "StreamLike: TypeAlias = Any"]
    dtypes = ", ".join(f'"{name}"' for name in kvops._tensor.DTYPES)
    lines += [f"DType: TypeAlias = Literal[{dtypes}] | int", "", HAND_WRITTEN]
    for op in kvops.ops.values():
        lines += ["", f"def {op.name}(", "    *,"]
        lines += [f"    {pyi_argument(kvops, a)}," for a in op.arguments.values()]
        lines += ["    stream: StreamLike = None,", ") -> None:"]
        text = headers[0][op.name]["text"].replace("\\", "\\\\").replace('"""', "'''")
        body = "\n".join("    " + line if line else "" for line in text.splitlines())
        lines += [f'    """{body.strip()}"""' if "\n" not in text
                  else f'    """\n{body}\n    """']
    return "\n".join(lines) + "\n"


HAND_WRITTEN = '''class Argument:
    name: str
    offset: int
    kind: int
    flags: int
    type: str
    shape: str
    compare: str
    tolerance: tuple[float, float]
    dtypes: tuple[str, ...]
    values: Mapping[str, int]
    optional: bool

class Operator:
    name: str
    arguments: Mapping[str, Argument]
    rules: tuple[str, ...]
    backends: tuple[str, ...]
    sized: str

class Call:
    op: Operator
    args: Any
    stream: StreamLike
    def __call__(self) -> None: ...
    def set(self, **values: Any) -> None: ...

class Query(tuple[int, str, bool, bool]):
    bytes: int
    implementation: str
    graph_safe: bool
    deterministic: bool

ops: Mapping[str, Operator]

def prepare(op: Any, *, stream: StreamLike = None, **arguments: Any) -> Call: ...
def query(op: Any, *, stream: StreamLike = None, **arguments: Any) -> Query: ...
def workspace_bytes(op: Any, **arguments: Any) -> int: ...
def call(op: Any, *, stream: StreamLike = None, **arguments: Any) -> None: ...'''


def camel(name):
    return "".join(part.capitalize() for part in name.split("_"))


def enums(kvops):
    """argument -> {value name: number}, over all operators; flags and counts are none."""
    found = {}
    for op in kvops.ops.values():
        for a in op.arguments.values():
            names = {n: v for n, v in a.values.items() if not n.isdigit()}
            if names:
                found.setdefault(a.name, {}).update(names)
    return {name: dict(sorted(values.items(), key=lambda kv: kv[1]))
            for name, values in sorted(found.items())}


def statuses(kvops):
    return {status.name: int(status) for status in kvops.Status}


def rust(kvops, headers):
    kinds = kvops.operators
    types = {kinds.TENSOR: "kvops_tensor", kinds.REAL: "f64", kinds.INT: "i64"}
    lines = [f"// {NOTE}", "use crate::{kvops_dtype, kvops_status, kvops_tensor};", ""]
    lines += [f"pub const KVOPS_{name}: kvops_status = {value};"
              for name, value in statuses(kvops).items()]
    lines += [""] + [f"pub const KVOPS_{name.upper()}: kvops_dtype = {value};"
                     for name, value in kvops._tensor.DTYPES.items()]
    for argument, values in enums(kvops).items():
        lines += ["", f"/// Values of `{argument}`.", f"pub mod {argument} {{"]
        lines += [f"    pub const {name.upper()}: i64 = {value};"
                  for name, value in values.items()] + ["}"]
    for op in kvops.ops.values():
        fields = headers[0][op.name]["fields"]
        lines += ["", "#[repr(C)]", "#[derive(Clone, Copy, Debug)]",
                  f"pub struct kvops_{op.name}_args {{", "    pub struct_size: usize,"]
        for a in op.arguments.values():
            if fields.get(a.name):
                lines.append(f"    /// `{fields[a.name]}`")
            lines.append(f"    pub {a.name}: {types[a.kind]},")
        lines += ["}", f"crate::args!(kvops_{op.name}_args, {op.size});"]
    lines += ["", 'extern "C" {']
    for op in kvops.ops.values():
        pointer = f"args: *const kvops_{op.name}_args"
        lines += [f"    /// {line}".rstrip() for line in rust_text(headers[0][op.name]["text"])]
        lines.append(f"    pub fn kvops_{op.name}({pointer}) -> kvops_status;")
        if op.name in headers[3]:
            lines.append(f"    pub fn {headers[3][op.name]}({pointer}, bytes: *mut i64)"
                         " -> kvops_status;")
    return "\n".join(lines + ["}"]) + "\n"


def rust_text(text):
    return ["```text", *text.splitlines(), "```"] if text else []


def go_comment(text):
    """gofmt wants a tab before what is indented."""
    return [("//\t" + line[2:] if line.startswith("  ") else f"// {line}").rstrip()
            for line in text.splitlines()]


def go_constants(title, kind, values):
    width = max(map(len, values))
    lines = [f"// {title}.", "const ("]
    return lines + [f"\t{n:{width}} {kind} = {v}" for n, v in values.items()] + [")", ""]


def go_values(kvops):
    dtypes = {name.upper(): value for name, value in kvops._tensor.DTYPES.items()}
    failures = {camel(name.lower()): value for name, value in statuses(kvops).items() if value}
    lines = go_constants("Dtypes", "Dtype", dtypes)
    lines += go_constants("Statuses of an Error", "Status", failures)
    for argument, values in enums(kvops).items():
        title = camel(argument)
        lines += go_constants(f"Values of {title}", "int64",
                              {title + camel(name): value for name, value in values.items()})
    return lines[:-1]


def go_fields(fields):
    """Struct members (name, type, comment), aligned as gofmt does: comments by runs of lines."""
    width = max(len(name) for name, _, _ in fields)
    lines, i = [], 0
    while i < len(fields):
        end = i + 1
        while end < len(fields) and bool(fields[end][2]) == bool(fields[i][2]):
            end += 1
        run = fields[i:end]
        kind = max(len(f[1]) for f in run) if run[0][2] else 0
        lines += [f"\t{n:{width}} {t:{kind}}" + (f" // {c}" if c else "") for n, t, c in run]
        i = end
    return lines


def go(kvops, headers):
    kinds = kvops.operators
    types = {kinds.TENSOR: "Tensor", kinds.REAL: "float64", kinds.INT: "int64"}
    lines = ["// Code generated by tools/bindgen.py from kvops_ops(). DO NOT EDIT.", "",
             "package kvops", "", "// #include <kvcache_ops.h>"]
    for name in kvops.ops:
        lines.append(f"// static kvops_status call_{name}(kvops_{name}_args a) "
                     f"{{ return kvops_{name}(&a); }}")
    lines += ['import "C"', "", "import (", '\t"runtime"', '\t"unsafe"', ")", "", *go_values(kvops)]
    for op in kvops.ops.values():
        doc, name = headers[0][op.name], camel(op.name)
        fields = [("structSize", "uintptr", "")]
        fields += [(camel(a.name), types[a.kind], doc["fields"].get(a.name, ""))
                   for a in op.arguments.values()]
        lines += ["", f"// {name}Args are the arguments of {name}.", f"type {name}Args struct {{",
                  *go_fields(fields)]
        lines += ["}", "", f"// {name} runs kvops_{op.name}.", "//", *go_comment(doc["text"]),
                  f"func {name}(a *{name}Args) error {{", "\tc := *a",
                  "\tc.structSize = unsafe.Sizeof(c)", "\truntime.LockOSThread()",
                  "\tdefer runtime.UnlockOSThread()",
                  f"\treturn check(C.call_{op.name}(*(*C.kvops_{op.name}_args)"
                  "(unsafe.Pointer(&c))))", "}"]
    return "\n".join(lines) + "\n"


def outputs(kvops, headers):
    return {
        "bindings/python/kvops/docs.json": docs_json(kvops, headers),
        "bindings/python/kvops/operators.pyi": pyi(kvops, headers),
        "bindings/rust/kvops-sys/src/ops.rs": rust(kvops, headers),
        "bindings/go/kvops/gen_ops.go": go(kvops, headers),
        "tests/abi/symbols.txt": "\n".join(headers[2]) + "\n",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", default=os.environ.get("KVOPS_LIBRARY"), help="libkvops.so")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    if options.library:
        os.environ["KVOPS_LIBRARY"] = str(Path(options.library).resolve())
    sys.path.insert(0, str(ROOT / "bindings" / "python"))
    import kvops

    headers = read_headers()
    missing = [name for name in kvops.ops if name not in headers[0]]
    if missing:
        sys.exit(f"no header documents {' '.join(missing)}")
    stale = 0
    for name, text in outputs(kvops, headers).items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if options.check:
            print(f"{name}: differs from what tools/bindgen.py writes")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if options.check and stale else 0


sys.exit(main())
