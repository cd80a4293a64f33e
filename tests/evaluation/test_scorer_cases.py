"""Cases in files run through the real scoring code, and the runner of cases lets nothing pass."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepgen.evaluation.recorded_cases import run_file, run_folder

CASES = Path(__file__).parent / "cases"
TOOL = Path(__file__).parents[2] / "tools" / "parity_bench.py"


@pytest.mark.parametrize("outcome", run_folder(CASES), ids=lambda outcome: outcome.case)
def test_a_recorded_case_agrees(outcome):
    assert outcome.mismatch == ""


def write(folder, *cases):
    path = folder / "cases.json"
    path.write_text(json.dumps({"about": "", "cases": list(cases)}))
    return path


@pytest.mark.parametrize(
    "case",
    [
        {"function": "imgedit.parse", "input": {"reply": "A: 4"}, "expected": 5.0},
        {"function": "imgedit.parse", "input": {"reply": "A: 4"}, "expected": None},
        {"function": "imgedit.parse", "input": {"reply": "A: 4"}},
        {"function": "imgedit.nothing", "input": {}, "expected": 1},
        {"function": "nothing.parse", "input": {}, "expected": 1},
        {"function": "corebench.parse", "input": {"reply": "Yes"}, "expected_official": 1},
        {"function": "wise.parse_legacy", "input": {"reply": "2\n1\n0"}, "expected": [2, 1]},
        {"function": "geneval.verdict", "input": {}, "expected": {"correct": True}},
        "not a case",
    ],
)
def test_a_wrong_or_malformed_case_is_a_mismatch(case, tmp_path):
    (outcome,) = run_file(write(tmp_path, case))
    assert outcome.mismatch


def test_a_file_of_another_form_is_a_mismatch_and_an_empty_folder_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.json file"):
        run_folder(tmp_path)
    (tmp_path / "other.json").write_text("[1, 2]")
    assert run_folder(tmp_path)[0].mismatch


def test_the_tool_prints_mismatches_and_fails_on_them(tmp_path):
    right = {"function": "imgedit.parse", "input": {"reply": "A: 4"}, "expected": 4.0}
    write(tmp_path, right, {**right, "expected": 3.0})
    done = subprocess.run([sys.executable, TOOL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "MISMATCH cases.json[1] expected: 4.0 instead of 3.0" in done.stdout
    assert "1 of 2 agree" in done.stdout
