"""Cases in files run through the real scoring code, and the runner of cases lets nothing pass."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepgen.evaluation.recorded_cases import run_file, run_folder
from deepgen.evaluation.recorded_official import FILES

CASES = Path(__file__).parent / "cases"
OFFICIAL, BENCHDATA = Path(__file__).parent / "official", Path(__file__).parent / "benchdata"
TOOL = Path(__file__).parents[2] / "tools" / "parity_bench.py"


@pytest.mark.parametrize("outcome", run_folder(CASES), ids=lambda outcome: outcome.case)
def test_a_recorded_case_agrees(outcome):
    assert outcome.mismatch == ""


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_the_official_scorers_gave_is_what_our_code_gives(name):
    outcomes = list(run_file(OFFICIAL / name))
    assert len(outcomes) >= 90
    assert [f"{outcome.case}: {outcome.mismatch}" for outcome in outcomes if outcome.mismatch] == []


def recorded_numbers(node, inside=False):
    """(container, key) of every number that an official scorer gave."""
    pairs = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for key, value in pairs:
        is_result = inside or str(key).startswith(("expected", "word_similarity", "qwen_path", "overall"))
        if is_result and isinstance(value, int | float) and not isinstance(value, bool):
            yield node, key
        yield from recorded_numbers(value, is_result)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_recording_with_another_number_in_it_is_a_mismatch(name, tmp_path):
    (tmp_path / "benchdata").symlink_to(BENCHDATA)
    document = json.loads((OFFICIAL / name).read_text(encoding="utf-8"))
    numbers = list(recorded_numbers(document))
    assert len(numbers) > 50
    for container, key in numbers[:: len(numbers) // 7]:
        kept, container[key] = container[key], 4 + container[key]
        assert any(outcome.mismatch for outcome in FILES[name](document, tmp_path / "recordings")), key
        container[key] = kept


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
