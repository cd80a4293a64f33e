"""Packages: the table agrees with the project's own files, and what is broken is found by importing it."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from deepgen.doctor.packages import KNOWN, TAKEN_UP, PackageFacts, gather, release
from deepgen.doctor.worker import run_in_process

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_table_has_every_package_of_the_project_with_its_oldest_version() -> None:
    extras = {
        name: needs for name, needs in PROJECT["optional-dependencies"].items() if name not in ("docs", "dev")
    }
    asked: dict[str, set[str]] = {}
    for need in [*PROJECT["dependencies"], *(need for needs in extras.values() for need in needs)]:
        name, least = re.fullmatch(r"([\w-]+)(?:\[.*\])?(?:>=([\d.]+))?.*", need).groups()
        asked.setdefault(plain(name), set()).add(least or "")
    asked.pop("deepgen-image")
    assert {plain(known.name) for known in KNOWN} == asked.keys()
    newest = {name: max(versions, key=release) for name, versions in asked.items()}
    assert {plain(known.name): known.least for known in KNOWN} == newest


def test_each_package_is_named_with_an_extra_that_brings_it() -> None:
    for known in KNOWN:
        needs = (
            PROJECT["dependencies"] if known.extra is None else PROJECT["optional-dependencies"][known.extra]
        )
        assert any(plain(need).startswith(plain(known.name)) for need in needs), known


def test_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        plain(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }
    assert {known.name: known.tested for known in KNOWN} == {
        known.name: pinned.get(plain(known.name), "") for known in KNOWN
    }


@pytest.mark.parametrize(
    ("older", "newer"),
    [("2.5.1+cu124", "2.6"), ("2.6.0a0", "2.7"), ("1.9", "1.10"), ("0.42", "0.42.1"), ("unknown", "1")],
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    assert release(older) < release(newer)


def test_zeros_at_the_end_and_suffixes_make_no_version_newer() -> None:
    assert release("2.6") == release("2.6.0+cpu") == (2, 6)


def test_what_is_not_installed_has_no_version() -> None:
    def version_of(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "2.5.1+cpu"

    found = {one.name: one for one in gather(version_of)}
    assert found["peft"].version is None
    assert not found["peft"].is_old
    assert found["torch"].is_old
    assert not found["torchvision"].is_used
    assert len(found) == len(KNOWN) + len(TAKEN_UP)


def test_a_package_of_unknown_age_is_not_called_old() -> None:
    assert not PackageFacts(name="wandb", module="wandb", version="0.1").is_old


def test_importing_finds_packages_that_raise_or_kill_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "raises_at_import": "raise RuntimeError('operator torchvision::nms\\n does not exist')",
        "exits_at_import": "raise SystemExit(3)",
        "kills_at_import": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "can_be_imported": "",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    answers = run_in_process([{"do": "packages", "names": list(sources)}])
    assert {one["imported"]: one["error"] for one in answers if "imported" in one} == {
        "raises_at_import": "RuntimeError: operator torchvision::nms does not exist",
        "exits_at_import": "SystemExit: 3",
        "can_be_imported": "",
    }
    (death,) = [one for one in answers if "died" in one]
    assert death == {
        "died": "the process was ended by SIGSEGV",
        "job": "packages",
        "begin": "kills_at_import",
    }
