#!/usr/bin/env python3
"""Checks the house rules over all tracked files, and says what an operator still lacks.

    tools/house.py                  sizes, line lengths, openings, operators' files
    tools/house.py --format [--fix] clang-format over our C, C++ and CUDA files

Silent and 0 when all is well; a line per finding and 1 when not.
"""
import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = {".h", ".c", ".cpp", ".cu", ".cuh", ".hip", ".py", ".rs", ".go", ".sh"}
CLANG = {".h", ".c", ".cpp", ".cu", ".cuh", ".hip"}
MAX_LINE = 100
MAX_FILE = 400
MAX_MATRIX_FILE = 600  # kernels on matrix cores
MAX_README = 120
MAX_GOLDEN_BYTES, MAX_GOLDEN_FILES = 12 << 20, 2000
# Words of work in progress, and of the place where the work was done.
BANNED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|/work/|/root/|\bco-?pilot\b", re.IGNORECASE)
GENERATED = re.compile(r"^(bindings/(rust/kvops-sys/src/|go/kvops/gen)|.*\.pyi$)")


def tracked():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                         capture_output=True, text=True).stdout
    return [Path(name) for name in out.splitlines() if (ROOT / name).is_file()]


def is_code(path):
    return path.suffix in CODE and not GENERATED.match(path.as_posix())


def check_file(path, lines):
    """Yields the findings of one code file."""
    matrix = "wgmma" in "\n".join(lines) or "mma.sync" in "\n".join(lines)
    limit = MAX_MATRIX_FILE if matrix else MAX_FILE
    if len(lines) > limit:
        yield f"{path}: {len(lines)} lines, at most {limit}"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            yield f"{path}:{number}: {len(line)} columns, at most {MAX_LINE}"
        if BANNED.search(line) and path != Path("tools/house.py"):
            yield f"{path}:{number}: \"{BANNED.search(line).group()}\" does not belong here"
        if line.rstrip() != line:
            yield f"{path}:{number}: space at the end of the line"
    if path.parent.as_posix() in ("src/cpu", "src/gpu") and path.name != "backend.cpp" and \
            '#include "core/backend.h"' in lines:
        yield f"{path}: includes the table (core/backend.h): a new row would compile every kernel"
    opening = next((line for line in lines if line and not line.startswith("#!")), "")
    if lines and not opening.startswith(("//", "/*", "#", '"""', "r\"\"\"")):
        yield f"{path}:1: a file opens with a comment that says what it is"
    if path.as_posix().startswith("include/") and "SPDX-License-Identifier" not in lines[0]:
        yield f"{path}:1: public headers start with their SPDX line"


def check_functions(path, lines):
    """Yields functions past 50 lines, kernels past 80: what ends with a "}" in column 0."""
    start, is_kernel = None, False
    for number, line in enumerate(lines, 1):
        if re.match(r"^[A-Za-z].*[({,]$", line) and not re.match(
                r"^(namespace|struct|class|enum|union|extern|typedef|#|KVOPS_OP)", line):
            if start is None:
                start, is_kernel = number, "__global__" in line or "__global__" in lines[number - 2]
        elif line.startswith("}"):
            limit = 80 if is_kernel else 50
            if start and number - start + 1 > limit and not line.startswith("};"):
                yield f"{path}:{start}: function of {number - start + 1} lines, at most {limit}"
            start = None
        elif not line:
            continue


def operators():
    """Name -> (cpu, cuda, hip) of src/ops.def."""
    text = (ROOT / "src/ops.def").read_text()
    pattern = r"^KVOPS_OP\((\w+),\s*([01]),\s*([01]),\s*([01]),"
    return {m[1]: tuple(int(bit) for bit in m.groups()[1:])
            for m in re.finditer(pattern, text, re.M)}


def check_operators(paths):
    """Yields what an operator with a column lacks."""
    names = {path.as_posix() for path in paths}
    for op, (cpu, cuda, hip) in operators().items():
        if not (cpu or cuda or hip):
            continue
        # Files hold neither plans nor handles: what makes or takes one is proven in tests/ops.
        makes = op.startswith(("create_", "release_")) or op == "cpu_attn_get_scheduler_metadata"
        needed = [] if makes else [f"tests/cases/{op}.txt"]
        if not makes and "onednn" not in op and op != "cpu_attention_with_kv_cache":
            needed.append(f"tests/golden/generate/{op}.py")
        if cpu:
            needed.append(f"src/cpu/{op}.cpp")
        yield from (f"{op}: lacks {name}" for name in needed if name not in names)
        for on, folder in ((cuda, "cuda"), (hip, "hip")):
            files = [f"src/gpu/{op}.cu", f"src/gpu/{op}.cuh", f"src/{folder}/{op}.cu",
                     f"src/{folder}/{op}.hip"]
            if on and not names.intersection(files):
                yield f"{op}: has a {folder} column but none of {' '.join(files)}"


def check_golden(paths):
    golden = [p for p in paths if p.as_posix().startswith("tests/golden/") and p.suffix == ".npy"]
    size = sum((ROOT / p).stat().st_size for p in golden)
    if size > MAX_GOLDEN_BYTES or len(golden) > MAX_GOLDEN_FILES:
        yield (f"tests/golden: {size} bytes in {len(golden)} files, at most {MAX_GOLDEN_BYTES} "
               f"in {MAX_GOLDEN_FILES}")


def findings():
    paths = tracked()
    for path in paths:
        if not is_code(path):
            continue
        lines = (ROOT / path).read_text().splitlines()
        yield from check_file(path, lines)
        if path.suffix in CLANG:
            yield from check_functions(path, lines)
    yield from check_operators(paths)
    yield from check_golden(paths)
    readme = ROOT / "README.md"
    if readme.exists() and len(readme.read_text().splitlines()) > MAX_README:
        yield f"README.md: more than {MAX_README} lines"


def clang_format(fix):
    files = [str(p) for p in tracked() if p.suffix in CLANG and is_code(p)]
    mode = ["-i"] if fix else ["--dry-run", "-Werror", "--ferror-limit=3"]
    return subprocess.run(["clang-format", *mode, *files], cwd=ROOT).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", action="store_true", help="run clang-format instead")
    parser.add_argument("--fix", action="store_true", help="with --format: rewrite the files")
    options = parser.parse_args()
    if options.format:
        return clang_format(options.fix)
    found = list(findings())
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


sys.exit(main())
