"""diffusers' own tests over our pipeline and models.

    python tools/peers.py DIFFUSERS     # a checkout of the diffusers repository; nothing of it is copied

Runs `peers_suite.py`, whose classes inherit the checkout's tester mixins, and prints a table. Failures that
`peers_expected.json` lists with a reason are expected. Exit code 1 where another test fails, or a listed one
passes; 2 where the folder is no checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

TOOLS = Path(__file__).parent
SUITE = TOOLS / "peers_suite.py"
EXPECTED = TOOLS / "peers_expected.json"
NEEDED = ("src/diffusers/__init__.py", "tests/pipelines/testing_utils", "tests/models/testing_utils")


@dataclass(frozen=True)
class Result:
    """One test: `outcome` is passed, failed or skipped; `reason` says why it did not pass."""

    group: str
    name: str
    outcome: str
    reason: str = ""

    @property
    def key(self) -> str:
        """As `peers_expected.json` names it."""
        return f"{self.group}::{self.name}"


def checkout_version(checkout: Path) -> str:
    """The version a checkout says it is; ValueError unless it is one of diffusers, with its tests."""
    if absent := [name for name in NEEDED if not (checkout / name).exists()]:
        raise ValueError(f"{checkout} is no checkout of diffusers with tests: {', '.join(absent)} not found")
    found = re.search(r'__version__ = "([^"]+)"', (checkout / NEEDED[0]).read_text())
    return found[1] if found else "unknown"


def run(checkout: Path, options: Sequence[str]) -> list[Result]:
    """The suite's results, run in a process of its own outside both repositories."""
    repository = TOOLS.parent
    paths = [repository / "src", checkout, repository / "tests"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(SUITE), "--import-mode=importlib", "-c", os.devnull]
        command += ["--rootdir", str(TOOLS), "--confcutdir", str(TOOLS), "-p", "no:cacheprovider"]
        command += ["-q", "-W", "ignore", "--tb=line", f"--junitxml={report}", *options]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if not report.is_file() or ended.returncode > 1:
            raise RuntimeError(f"pytest ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
        return read_report(report)


def read_report(path: Path) -> list[Result]:
    """Results in a JUnit report."""
    results = []
    for case in ElementTree.parse(path).iter("testcase"):
        group = case.get("classname", "").split(".")[-1]
        outcome, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                reason = (child.get("message") or child.text or "").strip().splitlines()[0][:160]
        results.append(Result(group, case.get("name", ""), outcome, reason))
    return results


def table(results: Sequence[Result]) -> str:
    """Markdown: tests of every class by outcome."""
    lines = ["| tests | run | passed | failed | skipped |", "|---|---|---|---|---|"]
    for group in [*dict.fromkeys(result.group for result in results), "all"]:
        counts = Counter(r.outcome for r in results if group in (r.group, "all"))
        ran = counts["passed"] + counts["failed"]
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", group.removeprefix("Test")).lower()
        lines.append(f"| {name} | {ran} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |")
    return "\n".join(lines)


def judge(results: Sequence[Result], expected: dict[str, str]) -> tuple[list[str], list[str]]:
    """What to say of failures and skips, and what is wrong: failures not expected, passes not expected."""
    said, wrong = [], []
    known = {result.key: result for result in results}
    for result in results:
        if result.outcome == "failed" and result.key in expected:
            said.append(f"failed as expected: {result.key}: {expected[result.key]}")
        elif result.outcome == "failed":
            wrong.append(f"FAILED: {result.key}: {result.reason}")
    for key in expected:
        if key not in known:
            said.append(f"expected to fail and not among this checkout's tests: {key}")
        elif known[key].outcome == "passed":
            wrong.append(f"PASSED, though {EXPECTED.name} expects a failure: {key}; take it out there")
    skips = Counter(result.reason for result in results if result.outcome == "skipped")
    said += [f"skipped {count}: {reason}" for reason, count in skips.most_common()]
    return said, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a checkout of the diffusers repository")
    parser.add_argument("options", nargs="*", help="further options of pytest, after --")
    given = parser.parse_args(arguments)
    try:
        version = checkout_version(given.checkout)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    from importlib.metadata import version as installed_version

    if version != (installed := installed_version("diffusers")):
        print(f"note: the tests are of diffusers {version}, and {installed} is installed")
    results = run(given.checkout.resolve(), given.options)
    said, wrong = judge(results, json.loads(EXPECTED.read_text()))
    print(table(results), "", *said, *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
