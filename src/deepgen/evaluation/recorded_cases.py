"""Recorded cases through the real scoring code.

Recordings of official scorers are read in their own form, see `deepgen.evaluation.recorded_official`. Any
other file holds `about` and `cases`. A case names its `function` ("wise.parse_legacy": a benchmark's file
and a function in it), the keyword arguments in `input`, and `expected`; or `expected_official` and
`expected_fixed`, for which the function is called with that `protocol`. `tolerance` is relative and absolute,
1e-9 unless the case says otherwise. What a function refuses is expected as {"raises": "KeyError"}.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepgen.evaluation.recorded_official import FILES
from deepgen.evaluation.recorded_outcome import Outcome, difference

_SHARED = {"judge_benchmark": "deepgen.evaluation.judge_benchmark"}  # what several benchmarks read with
_EXPECTED = {"expected": None, "expected_official": "official", "expected_fixed": "fixed"}


def run_folder(folder: Path) -> list[Outcome]:
    """Every case of every JSON file in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no .json file with cases")
    return [outcome for file in files for outcome in run_file(file)]


def run_file(path: Path) -> Iterator[Outcome]:
    """The cases of one file; one that is in neither form is a mismatch, never passed over."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if path.name in FILES:
        yield from FILES[path.name](document, path.parent)
        return
    cases = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(cases, list) or not cases:
        yield Outcome(case=path.name, mismatch="no list `cases`; this file is in another form")
        return
    for index, case in enumerate(cases):
        name = f"{path.name}[{index}] {case.get('name', '') if isinstance(case, dict) else ''}".strip()
        yield from _run_case(name, case)


def _run_case(name: str, case: Any) -> Iterator[Outcome]:
    asked = [key for key in _EXPECTED if isinstance(case, dict) and key in case]
    if not asked or not isinstance(case.get("function"), str) or not isinstance(case.get("input"), dict):
        yield Outcome(case=name, mismatch="a case has `function`, `input` and `expected`; this one does not")
        return
    tolerance = float(case.get("tolerance", 1e-9))
    for key in asked:
        arguments = dict(case["input"])
        if (protocol := _EXPECTED[key]) is not None:
            arguments["protocol"] = protocol
        got = _call(case["function"], arguments)
        yield Outcome(case=f"{name} {key}", mismatch=difference(case[key], got, tolerance))


def _call(function: str, arguments: Mapping[str, Any]) -> Any:
    module_name, _, function_name = function.partition(".")
    try:
        module = importlib.import_module(
            _SHARED.get(module_name, f"deepgen.evaluation.benchmarks.{module_name}")
        )
        called = getattr(module, function_name)
    except (ImportError, AttributeError, ValueError) as error:
        return {"raises": f"no function {function}: {error}"}
    try:
        return called(**arguments)
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        return {"raises": type(error).__name__}
