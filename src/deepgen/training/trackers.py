"""Experiment trackers for a run's metrics: TensorBoard, wandb or trackio, by name.

Each package is imported when its tracker is made, so that a run without trackers needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from PIL.Image import Image

from deepgen.extras import Extra, missing_extra


class Tracker(Protocol):
    """Takes what a run reports."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of a step."""
        ...

    def image(self, step: int, name: str, image: Image) -> None:
        """A picture of a step."""
        ...

    def close(self) -> None:
        """Write what is pending; nothing is logged afterwards."""
        ...


class TensorBoard:
    """Event files in output_dir/tensorboard."""

    def __init__(self, output_dir: Path, config: Mapping[str, Any]):
        _require("tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(output_dir / "tensorboard"))
        rows = "\n".join(f"| {name} | {value} |" for name, value in _flat(config).items())
        self._writer.add_text("config", f"| field | value |\n|---|---|\n{rows}", 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Image) -> None:
        """Under the name, at the step."""
        import numpy as np

        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class Hosted:
    """A package with wandb's interface: `init`, `Image`, and a run with `log` and `finish`.

    The folder's name and a number kept in it name the run, so that a resumed run goes on where it was.
    Address and key are the package's own environment variables.
    """

    def __init__(self, package: Extra, output_dir: Path, config: Mapping[str, Any], **options: Any):
        self._package = _require(package)
        name = f"{output_dir.resolve().name}-{_number(output_dir)}"
        self._run = self._package.init(
            project="deepgen", name=name, config=_flat(config), resume="allow", **options
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """All numbers of a step at once."""
        self._run.log(dict(metrics), step=step)

    def image(self, step: int, name: str, image: Image) -> None:
        """Under the name, at the step."""
        self._run.log({name: self._package.Image(image)}, step=step)

    def close(self) -> None:
        """Upload the rest."""
        self._run.finish()


def _wandb(output_dir: Path, config: Mapping[str, Any]) -> Tracker:
    # wandb knows a run again by its id, trackio by its name
    return Hosted("wandb", output_dir, config, id=_number(output_dir), dir=str(output_dir))


def _trackio(output_dir: Path, config: Mapping[str, Any]) -> Tracker:
    return Hosted("trackio", output_dir, config)


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
