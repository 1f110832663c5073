"""Runs every generator: all.py [--check] [op ...]. --check writes elsewhere and compares."""
import filecmp
import os
import runpy
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import common  # noqa: E402

MOST_BYTES, MOST_FILES = 12 << 20, 2000


def files(root):
    found = {}
    for folder, folders, names in os.walk(root):
        if folder == root:
            folders[:] = [f for f in folders if f not in ("generate", "__pycache__")]
        for name in names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = path
    return found


def main(arguments):
    check = "--check" in arguments
    wanted = [a for a in arguments if not a.startswith("--")]
    kept = common.ROOT
    with tempfile.TemporaryDirectory() as scratch:
        if check:
            common.ROOT = scratch
        for script in sorted(os.listdir(HERE)):
            if script.endswith(".py") and script not in ("all.py", "common.py"):
                if not wanted or script[:-3] in wanted:
                    runpy.run_path(os.path.join(HERE, script), run_name="__main__")
        old, new = files(kept), files(common.ROOT)
        if wanted:
            ops = {name.split(os.sep)[0] for name in new}
            old = {k: v for k, v in old.items() if k.split(os.sep)[0] in ops}
        wrong = sorted(k for k in set(old) | set(new)
                       if k not in old or k not in new or not filecmp.cmp(old[k], new[k], False))
    for name in wrong:
        print("differs from what its generator writes:", name)
    total = sum(os.path.getsize(p) for p in files(kept).values())
    print("%d files, %.1f MiB" % (len(files(kept)), total / 2**20))
    if total > MOST_BYTES or len(files(kept)) > MOST_FILES:
        print("too much: at most %d files, %d MiB" % (MOST_FILES, MOST_BYTES >> 20))
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
