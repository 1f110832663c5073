#!/usr/bin/env python3
"""Draws what `kvops bench --json` measured, or writes it as a Markdown table.

    kvops bench all llama3-8b --json > bench.json
    tools/plot.py bench.json -o bench.svg            GB/s of every call beside its copy
    tools/plot.py bench.json --markdown              the table of docs/performance.md
"""
import argparse
import json
import sys
from pathlib import Path


def load(files):
    """[(device, row), ...] of all files; "-" is stdin."""
    rows = []
    for file in files:
        data = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
        rows += [(f"{data['device']}, {data['arch']}", row) for row in data["results"]]
    return rows


def calls(rows):
    """What tells each call from the others of its case: the values that differ between them."""
    groups = {}
    for _, row in rows:
        groups.setdefault((row["op"], row["case"]), []).append(row["values"])
    texts = []
    for _, row in rows:
        group = groups[row["op"], row["case"]]
        differ = [key for key, value in row["values"].items()
                  if any(other.get(key) != value for other in group)]
        texts.append(" ".join(f"{key}={row['values'][key]}" for key in differ))
    return texts


def seconds_text(us):
    return f"{us:.2f} µs" if us < 100 else f"{us:.0f} µs" if us < 1e4 else f"{us / 1e3:.1f} ms"


def markdown(rows):
    more = [(key, text) for key, text in (("of_read", "of reading"), ("of_onednn", "of oneDNN"))
            if any(key in row for _, row in rows)]
    lines = ["| operator | case | which | time | GB/s | copy | of a copy |"
             + "".join(f" {text} |" for _, text in more),
             "|---|---|---|--:|--:|--:|--:|" + "--:|" * len(more)]
    for (_, row), call in zip(rows, calls(rows)):
        lines.append(f"| {row['op']} | {row['case']} | {call} | "
                     f"{seconds_text(row['us'])} | {row['gb_per_s']:.1f} | "
                     f"{seconds_text(row['copy_us'])} | {100 * row['of_copy']:.0f} % |")
        for key, _ in more:
            lines[-1] += f" {100 * row[key]:.0f} % |" if key in row else " |"
    return "\n".join(lines)


def draw(rows, output):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = [f"{row['op']}  {row['case']}\n{call}" for (_, row), call in zip(rows, calls(rows))]
    figure, axes = pyplot.subplots(figsize=(11, 1.2 + 0.5 * len(rows)), layout="constrained")
    places = range(len(rows))
    axes.barh([p + 0.2 for p in places], [row["copy_gb_per_s"] for _, row in rows], 0.36,
              color="#c8c8c8", label="copy of the same bytes")
    bars = axes.barh([p - 0.2 for p in places], [row["gb_per_s"] for _, row in rows], 0.36,
                     color="#1f6f8b", label="operator")
    axes.bar_label(bars, [f" {100 * row['of_copy']:.0f} %, {seconds_text(row['us'])}"
                          for _, row in rows], fontsize=7)
    axes.set_yticks(list(places), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("GB/s of the bytes that the call must move")
    axes.set_title("; ".join(sorted({device for device, _ in rows})), fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="output of `kvops bench --json`; - is stdin")
    parser.add_argument("-o", "--output", help="an .svg, .png or .pdf file")
    parser.add_argument("--markdown", action="store_true", help="prints a table instead")
    options = parser.parse_args()
    rows = load(options.files)
    if not rows:
        sys.exit("there are no results to draw")
    if options.markdown:
        print(markdown(rows))
    elif options.output:
        draw(rows, options.output)
    else:
        parser.error("give -o FILE or --markdown")


main()
