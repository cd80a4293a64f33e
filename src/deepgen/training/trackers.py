"""Experiment trackers for a run's metrics: TensorBoard, wandb or trackio, by name.

The trackers are accelerate's. Three things are done here, because accelerate does them otherwise: a config
is written as one table of text, where its TensorBoard tracker opens a second run that is named by the time;
a picture goes to wandb and trackio through `log`, because its trackio tracker has no `log_images`; and a run
is known again when it resumes. Each package is imported when its tracker is made, so that a run without
trackers needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker
from PIL.Image import Image

from deepgen.extras import Extra, missing_extra


class Tracker:
    """Takes what a run reports, for one of accelerate's trackers; start it in the main process only."""

    def __init__(self, tracker: Any) -> None:
        PartialState()  # accelerate's logger wants it; a run has made it before
        self._tracker = tracker
        tracker.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of a step."""
        self._tracker.log(dict(metrics), step=step)

    def image(self, step: int, name: str, image: Image) -> None:
        """A picture of a step."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it takes a picture")

    def close(self) -> None:
        """Write what is pending; nothing is logged afterwards."""
        self._tracker.finish()


class TensorBoard(Tracker):
    """Event files in output_dir/tensorboard."""

    def __init__(self, output_dir: Path, config: Mapping[str, Any]):
        _require("tensorboard")
        super().__init__(TensorBoardTracker("tensorboard", output_dir))
        rows = "\n".join(f"| {name} | {value} |" for name, value in _flat(config).items())
        self._tracker.log({"config": f"| field | value |\n|---|---|\n{rows}"}, step=0)

    def image(self, step: int, name: str, image: Image) -> None:
        """Under the name, at the step."""
        pixels = np.asarray(image.convert("RGB"))[None]  # (1, H, W, 3)
        self._tracker.log_images({name: pixels}, step=step, dataformats="NHWC")


class Hosted(Tracker):
    """wandb or trackio.

    The folder's name and a number kept in it name the run, so that a resumed run goes on where it was.
    Address and key are the package's own environment variables.
    """

    def __init__(
        self, package: Any, kind: Any, output_dir: Path, config: Mapping[str, Any], **options: Any
    ) -> None:
        self._package = package
        name = f"{output_dir.resolve().name}-{_number(output_dir)}"
        super().__init__(kind("deepgen", name=name, config=_flat(config), resume="allow", **options))

    def image(self, step: int, name: str, image: Image) -> None:
        """Under the name, at the step."""
        self._tracker.log({name: self._package.Image(image)}, step=step)


def _wandb(output_dir: Path, config: Mapping[str, Any]) -> Tracker:
    # wandb knows a run again by its id, trackio by its name
    return Hosted(
        _require("wandb"), WandBTracker, output_dir, config, id=_number(output_dir), dir=str(output_dir)
    )


def _trackio(output_dir: Path, config: Mapping[str, Any]) -> Tracker:
    return Hosted(_require("trackio"), TrackioTracker, output_dir, config)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def make_trackers(names: Sequence[str], output_dir: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of these names; call it in the main process only.

    Args:
        names: of `TRACKERS`.
        output_dir: the run's folder; its name is the run's.
        config: the resolved config, such as `dataclasses.asdict` gives it.

    Raises:
        ValueError: an unknown name, before any tracker is made.
        ModuleNotFoundError: a tracker's package is not installed.
    """
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ValueError(f"unknown tracker {unknown[0]!r}; known: {', '.join(TRACKERS)}")
    return [TRACKERS[name](output_dir, config) for name in names]


def _require(package: Extra) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise missing_extra(f"the tracker {package} needs its package", package, error) from error


def _number(output_dir: Path) -> str:
    """Drawn once for a run's folder."""
    path = output_dir / "tracker_id"
    if not path.is_file():
        path.write_text(uuid4().hex[:8] + "\n")
    return path.read_text().strip()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names; what is no number or truth becomes text."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            is_plain = value is None or isinstance(value, bool | int | float | str)
            result[f"{prefix}{name}"] = value if is_plain else str(value)
    return result
