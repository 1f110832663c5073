# The text the tiny model is made of, and the rule that holds part of it out.
# A paragraph (text between blank lines) belongs to the part that the first byte of its SHA-256
# names, whatever stands around it: equal paragraphs always fall into the same part.
#
#   byte  0..25   held out: never seen, neither by training nor by any choice made on the way
#   byte 26..38   validation: picks the stopping point
#   the rest      training
import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def documents(folder=FOLDER):
    """The texts of the corpus, by file name."""
    paths = sorted(Path(folder).glob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"no .txt files in {folder}")
    return [path.read_text(encoding="utf-8") for path in paths]


def part_of(paragraph):
    """'held out', 'validation' or 'training'."""
    first = hashlib.sha256(paragraph.strip().encode()).digest()[0]
    return "held out" if first < 26 else "validation" if first < 39 else "training"


def part(name, folder=FOLDER):
    """One text per document: its paragraphs of that part, in their order, a blank line between."""
    texts = []
    for text in documents(folder):
        chosen = [p.strip("\n") for p in text.split("\n\n") if p.strip() and part_of(p) == name]
        if chosen:
            texts.append("\n\n".join(chosen) + "\n")
    return texts
