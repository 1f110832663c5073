# python examples/generate "prompt"   or, in examples/:   python -m generate "prompt"
import sys
from pathlib import Path

if not __package__:  # run as a folder: make it the package it is
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from generate.cli import main

if __name__ == "__main__":
    sys.exit(main())
