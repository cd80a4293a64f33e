"""tools/peers.py: what it makes of a report that pytest wrote."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "peers.py"
SUITE = """
import pytest

class TestOne:
    def test_good(self): pass
    def test_bad(self): assert False, "no such luck"
    @pytest.mark.skip(reason="needs a card")
    def test_left_out(self): pass

class TestTwoParts:
    @pytest.fixture
    def broken(self): raise RuntimeError("no fixture")
    def test_error(self, broken): pass
    @pytest.mark.parametrize("x", [1, 2])
    def test_good(self, x): pass
"""


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["peers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_report_is_told_and_judged(peers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True)
    results = peers.read_report(tmp_path / "report.xml")
    assert peers.table(results).splitlines()[2:] == [
        "| one | 2 | 1 | 1 | 1 |",
        "| two parts | 3 | 2 | 1 | 0 |",
        "| all | 5 | 3 | 2 | 1 |",
    ]
    said, wrong = peers.judge(results, {})
    assert said == ["skipped 1: needs a card"]
    assert [line.split(":")[0] for line in wrong] == ["FAILED", "FAILED"]
    assert "TestOne::test_bad: AssertionError: no such luck" in wrong[0]

    expected = {"TestOne::test_bad": "bad luck", "TestTwoParts::test_error": "broken", "TestGone::x": "old"}
    said, wrong = peers.judge(results, expected)
    assert wrong == []
    assert "failed as expected: TestOne::test_bad: bad luck" in said
    assert "expected to fail and not among this checkout's tests: TestGone::x" in said
    _, wrong = peers.judge(results, {**expected, "TestTwoParts::test_good[2]": "should fail"})
    assert ["PASSED" in line and "test_good[2]" in line for line in wrong] == [True]


def test_a_folder_that_is_no_checkout_is_refused(peers: ModuleType, tmp_path: Path, capsys) -> None:
    assert peers.main([str(tmp_path)]) == 2
    assert "is no checkout of diffusers with tests" in capsys.readouterr().err


def test_every_expected_failure_has_its_reason(peers: ModuleType) -> None:
    import json

    expected = json.loads(peers.EXPECTED.read_text())
    assert all("::test_" in key and len(reason) > 20 for key, reason in expected.items())
