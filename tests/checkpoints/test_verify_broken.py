"""Whatever is broken in a folder, `verify` says so and does not raise."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from deepgen.checkpoints.sums import SUMS
from deepgen.checkpoints.verify import VerifyReport, verify
from deepgen.cli.app import main

WRONG_JSON = ("null", "[]", "3", '"text"', "{}", '{"a":' * 3000, "NaN", "{")


def _halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _replace_by_link(file: Path, target: str) -> None:
    file.unlink()
    file.symlink_to(target)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "half": _halve,
    "empty": lambda file: file.write_bytes(b""),
    "folder": _replace_by_folder,
    "garbage": lambda file: file.write_bytes(bytes(range(256)) * 20),
    "web page": lambda file: file.write_text("<!doctype html><title>Sign in</title>"),
    "dangling link": lambda file: _replace_by_link(file, "nowhere"),
    "circle": lambda file: _replace_by_link(file, file.name),
    "link outside": lambda file: _replace_by_link(file, "/etc/passwd"),
    "gone": lambda file: file.unlink(),
}


def spoilt(folder: Path, work: Path, first: int, step: int) -> list[tuple[str, VerifyReport]]:
    """Reports of copies of a folder with one thing wrong each: of all combinations every `step`-th."""
    (folder / SUMS).unlink()  # which would tell of every change
    cases: list[tuple[str, str, Callable[[Path], Any]]] = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        # Without it, as in folders of earlier versions, `convert --layout native` writes a base part too.
        changes = {kind: change for kind, change in CHANGES.items() if (name, kind) != ("bases.json", "gone")}
        cases += [(name, kind, change) for kind, change in changes.items()]
        if file.suffix == ".json":
            wrong = [text for text in WRONG_JSON if (name, text) != ("bases.json", "{}")]  # the same
            texts: list[Callable[[Path], Any]] = [lambda f, t=text: f.write_text(t) for text in wrong]
            cases += [(name, text[:10], change) for text, change in zip(wrong, texts, strict=True)]
    reports = []
    for name, kind, change in cases[first::step]:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder, work)
        change(work / name)
        reports.append((f"{name}: {kind}", verify(work)))
    return reports


def test_a_spoilt_file_is_a_finding(ours: Path, tmp_path: Path) -> None:
    reports = spoilt(ours, tmp_path / "work", 3, 19)
    assert len(reports) > 7
    assert [case for case, report in reports if report.ok] == []


@pytest.mark.slow
def test_every_spoilt_file_is_a_finding(ours: Path, tmp_path: Path) -> None:
    reports = spoilt(ours, tmp_path / "work", 0, 1)
    assert len(reports) > 150
    assert [case for case, report in reports if report.ok] == []


@pytest.mark.parametrize("name", ["transformer/diffusion_pytorch_model.safetensors", "vae/config.json", SUMS])
def test_a_file_one_may_not_read_is_a_finding(name: str, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) == str(ours / name):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("io.open", opened)
    report = verify(ours)
    assert any("Permission denied" in problem.message for problem in report.problems)
    assert not report.ok


def test_an_error_that_no_reader_is_known_to_raise_is_a_finding(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr("deepgen.checkpoints.verify.open_file", fail)
    assert "MemoryError" in str(verify(ours))


def test_an_adapter_of_wrong_types_is_a_finding(ours: Path, lora: dict[str, Any]) -> None:
    (ours / "vlm_lora").mkdir()
    save_file(lora, ours / "vlm_lora" / "adapter_model.safetensors")
    for text in ("{}", '{"r": "64", "lora_alpha": 128}', "[]"):
        (ours / "vlm_lora" / "adapter_config.json").write_text(text)
        report = verify(ours, hashes=False)
        assert "adapter_config.json" in str(report)
        assert not report.ok


def test_the_command_ends_with_a_report_and_one(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ours / "vae" / "config.json").write_text('{"a":' * 100_000)
    assert main(["verify", str(ours)]) == 1
    said = capsys.readouterr()
    assert "error: vae/config.json: " in said.out
    assert "Traceback" not in said.err
