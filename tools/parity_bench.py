"""Run recorded scorer cases through the real scoring code.

    python tools/parity_bench.py FOLDER

FOLDER holds JSON files in the form that deepgen/evaluation/recorded_cases.py describes, whose cases say which
function is called with what, or recordings of official scorers (deepgen/evaluation/recorded_official.py).
Prints mismatches and what differs on purpose, and exits with 1 if there is a mismatch.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from deepgen.evaluation.official_differences import DIFFERENCES
from deepgen.evaluation.recorded_cases import run_folder

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/parity_bench.py FOLDER")
    outcomes = run_folder(Path(sys.argv[1]))
    for outcome in outcomes:
        if outcome.mismatch:
            print(f"MISMATCH {outcome.case}: {outcome.mismatch}")
    for name, count in Counter(outcome.case.split(".json")[0] for outcome in outcomes).items():
        print(f"{name}: {count} comparisons")
    for listed in DIFFERENCES.values():
        print(f"different on purpose: {listed}")
    wrong = sum(bool(outcome.mismatch) for outcome in outcomes)
    print(f"{len(outcomes) - wrong} of {len(outcomes)} agree")
    sys.exit(1 if wrong else 0)
