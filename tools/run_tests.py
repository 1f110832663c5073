#!/usr/bin/env python3
"""Runs ctest in a build folder, says where the time went, and closes with the counts.

    tools/run_tests.py BUILD [ctest options]

Skipped tests (no GPU, say) are listed with their reason and counted as skipped, never as passed.
"""
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main():
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
    report = build / "junit.xml"
    report.unlink(missing_ok=True)
    command = ["ctest", "--test-dir", str(build), "--output-on-failure", "-j", "2",
               "--output-junit", str(report), *sys.argv[2:]]
    code = subprocess.run(command).returncode
    if not report.exists():
        print("ctest wrote no report: are the tests built?")
        return 1
    cases = ElementTree.parse(report).getroot().findall("testcase")
    by_outcome = {"run": [], "fail": [], "notrun": [], "disabled": []}
    for case in cases:
        by_outcome.setdefault(case.get("status"), []).append(case)
    skipped = by_outcome["notrun"] + by_outcome["disabled"]
    print("\nslowest tests")
    for case in sorted(cases, key=lambda c: -float(c.get("time")))[:15]:
        print(f"  {float(case.get('time')):8.1f} s  {case.get('name')}")
    for case in skipped:
        lines = (case.findtext("system-out") or "").strip().splitlines()
        print(f"skipped: {case.get('name')}: {lines[-1] if lines else 'no reason given'}")
    for case in by_outcome["fail"]:
        print(f"failed: {case.get('name')}")
    passed, failed = len(by_outcome["run"]), len(by_outcome["fail"])
    print(f"{passed} passed, {failed} failed, {len(skipped)} skipped", flush=True)
    return code or (0 if passed else 1)


sys.exit(main())
