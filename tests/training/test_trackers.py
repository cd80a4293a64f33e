"""Trackers: the packages are stand-ins, except TensorBoard where it is installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from deepgen.extras import Extra, install_hint
from deepgen.training.trackers import TRACKERS, make_trackers

CONFIG = {"num_steps": 3, "optim": {"lr": 1e-3, "betas": (0.9, 0.95)}, "data": None}


class FakePackage(ModuleType):
    """Remembers every call as (what, arguments)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> FakePackage:
        self.calls.append(("init", options))
        return self

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.calls.append(("log", (step, metrics)))

    def Image(self, image: Image.Image) -> tuple[str, tuple[int, int]]:
        return "picture", image.size

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_hosted_tracker_hands_on_numbers_and_pictures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = FakePackage(name)
    monkeypatch.setitem(sys.modules, name, package)
    (tracker,) = make_trackers([name], tmp_path, CONFIG)
    tracker.log(50, {"loss/edit": 0.5})
    tracker.image(50, "samples", Image.new("RGB", (4, 2)))
    tracker.close()
    (_, options), *later = package.calls
    assert options["config"] == {
        "num_steps": 3,
        "optim.lr": 1e-3,
        "optim.betas": "(0.9, 0.95)",
        "data": None,
    }
    assert later == [
        ("log", (50, {"loss/edit": 0.5})),
        ("log", (50, {"samples": ("picture", (4, 2))})),
        ("finish", None),
    ]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_known_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = FakePackage(name)
    monkeypatch.setitem(sys.modules, name, package)
    folders = [tmp_path / "a" / "run", tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        make_trackers([name], folder, {})
    first, second, other = (options for _, options in package.calls)
    assert first == second
    assert first["resume"] == "allow"
    assert first["name"] != other["name"]


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = make_trackers(["tensorboard"], tmp_path, CONFIG)
    for step in (1, 2, 3):
        tracker.log(step, {"loss/generate": 1 / step})
    tracker.image(3, "samples", Image.new("RGBA", (8, 4)))
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("loss/generate")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3333),
    ]
    assert [(event.width, event.height) for event in events.Images("samples")] == [(8, 4)]


def test_an_unknown_tracker_lists_the_known_ones_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = FakePackage("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    with pytest.raises(ValueError, match=r"'mlflow'; known: tensorboard, wandb, trackio"):
        make_trackers(["wandb", "mlflow"], tmp_path, {})
    assert not package.calls


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_its_install_command(
    name: Extra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # import then raises ModuleNotFoundError
    with pytest.raises(ModuleNotFoundError, match=re.escape(install_hint(name))):
        make_trackers([name], tmp_path, {})
