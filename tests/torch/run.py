#!/usr/bin/env python3
"""Runs these tests with the PyTorch that is there, for both versions of vLLM's schemas.

    run.py [pytest options]        77, and the reason, where there is no PyTorch

A virtual environment does not see Debian's python3-torch: its folder is added when there is no
other. torch cannot change a schema, so each version gets a process of its own.
"""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEBIAN = "/usr/lib/python3/dist-packages"


def find_torch():
    if importlib.util.find_spec("torch") is not None:
        return True
    if Path(DEBIAN, "torch").is_dir():
        sys.path.append(DEBIAN)
        os.environ["PYTHONPATH"] = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(
            os.pathsep), DEBIAN])
    return importlib.util.find_spec("torch") is not None


def main():
    if not find_torch():
        print("there is no PyTorch here (Debian: python3-torch)")
        return 77
    code = 0
    for version in ("2026-05", "2026-09"):
        print(f"schema {version}", flush=True)
        command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                   "-W", "ignore::UserWarning", *sys.argv[1:], str(HERE)]
        code |= subprocess.run(command, env={**os.environ, "KVOPS_TEST_SCHEMA": version}).returncode
    return code


sys.exit(main())
