# `python -m kvops` and the wheel's `kvops`: runs the program that lies in the package.
import os
import pathlib
import sys


def main():
    program = pathlib.Path(__file__).resolve().parent / "bin" / "kvops"
    if not program.exists():
        sys.exit(f"kvops: {program} does not exist: only the wheel has it")
    os.execv(program, [str(program), *sys.argv[1:]])


if __name__ == "__main__":
    main()
