"""Does every test that docs/promises.md names exist, and did it run?

    promises.py BUILD      BUILD: the build tree, with ctest's files and the test programs

Golden cases are run and must pass somewhere and fail nowhere; other names are looked up: Catch2
tests that are not hidden, operators of the contract's lines, Python tests, tests of ctest.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def promises(text):
    """(line number, operator, section, promise, [tests])"""
    operator = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            operator = line[3:].strip()
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|-: ") or cells[0] == "section":
            continue
        tests = cells[-1].replace("`", "").split("<br>") if len(cells) == 3 else []
        yield number, operator, cells, [test.strip() for test in tests]


def output(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True).stdout


class Tests:
    """What exists in this build, by kind."""

    def __init__(self, build):
        # One instruction set is enough to know that a case exists and runs.
        listing = json.loads(output("env", "KVOPS_CPU_ISA=scalar", build / "tests/golden", "--json",
                                    "--device", "cpu", ROOT / "tests/golden"))
        self.golden = {}
        for result in listing:
            name = "%s/%s" % (result["op"], result["case"])
            self.golden.setdefault(name, set()).add(result["outcome"])
        names = output(build / "tests/kvops_tests", "--list-test-names-only")
        # A template is listed once per type, "name - float"; a promise names all of them.
        self.catch = set(names.splitlines())
        self.catch |= {name.rpartition(" - ")[0] for name in self.catch}
        lines = "".join(p.read_text() for p in (ROOT / "tests/contract").glob("*.txt")
                        if p.name != "CMakeLists.txt")
        self.contract = set(re.findall(r"^(\w+) ", lines, re.M))
        python = "".join(p.read_text() for folder in ("python", "torch")
                         for p in (ROOT / "tests" / folder).glob("*.py"))
        self.python = set(re.findall(r"^def (test_\w+)", python, re.M))
        listing = output("ctest", "-N", "--test-dir", build)
        self.ctest = set(re.findall(r"Test +#\d+: (\S+)", listing))
        # Some exist only in a build with CUDA.
        scripts = "".join(p.read_text() for p in (ROOT / "tests").rglob("CMakeLists.txt"))
        self.ctest |= set(re.findall(r"NAME (\w+)", scripts))
        self.gpu = "".join(p.read_text() for p in (ROOT / "tests/gpu").glob("*.*"))

    def problem(self, test):
        """What is wrong with a name; None: nothing."""
        kind, _, name = test.partition(":")
        if kind == "golden":
            outcomes = self.golden.get(name)
            if not outcomes:
                return "there is no such case"
            return None if outcomes <= {"passed", "skipped"} and "passed" in outcomes else \
                "it " + " and ".join(sorted(outcomes))
        if kind == "gpu":
            return None if name and name in self.gpu else "there is no such test"
        found = {"contract": self.contract, "python": self.python, "ctest": self.ctest}.get(kind)
        if found is not None:
            return None if name in found else "there is no such test"
        return None if test in self.catch else "there is no such Catch2 test"


def main(build):
    tests, bad, count, named = Tests(build), 0, 0, set()
    for number, operator, cells, names in promises((ROOT / "docs/promises.md").read_text()):
        count += 1
        problems = [] if names and all(names) else ["a line is: section, promise, test"]
        for name in names:
            named.add(name)
            wrong = tests.problem(name)
            if wrong:
                problems.append("%s: %s" % (name, wrong))
        for problem in problems:
            print("docs/promises.md:%d: %s: %s" % (number, operator, problem))
        bad += len(problems)
    print("%d promises, %d tests named, %d problems" % (count, len(named), bad))
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
