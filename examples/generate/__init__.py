"""Text generation over a paged KV cache: see README.md, or run this folder with --help."""
# From a checkout that is not installed, `import kvops` finds the package in bindings/python and the
# library in build/.
import importlib.util
import os
import sys
from pathlib import Path


def _use_checkout():
    root = Path(__file__).resolve().parents[2]
    if importlib.util.find_spec("kvops") is None:
        sys.path.append(str(root / "bindings" / "python"))
        built = root / "build" / "libkvops.so.1"
        if built.exists():
            os.environ.setdefault("KVOPS_LIBRARY", str(built))


_use_checkout()
