"""One picture of the embedded model, drawn, judged from its pixels and written. Runs in a worker process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT, SEED = "a cat on a white background", 1


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """What came of drawing.

    Attributes:
        is_right: the picture shows what the prompt says; None where nothing was drawn.
        written: the file; empty where it could not be written.
        seconds: of drawing, without loading.
        message: what went wrong.
    """

    device: str
    format: str
    is_right: bool | None = None
    written: str = ""
    seconds: float = 0.0
    message: str = ""


def draw(device: str, format_name: str, model: Path, output: Path) -> DrawnPicture:
    """Draw with the model's own settings; an error is in what is returned."""
    import torch

    from deepgen.doctor.measure import load

    made = {"device": device, "format": format_name}
    try:
        pipe = load(model, device, getattr(torch, format_name))
        started = time.perf_counter()
        drawn = pipe(PROMPT, seed=SEED)
        seconds = time.perf_counter() - started
        is_right = shows_a_cat(drawn.images[0])
    except Exception as error:  # whatever a device, a driver or a library raises is what is looked for
        return DrawnPicture(**made, message=_told(error))
    written, message = write(drawn, output)
    return DrawnPicture(**made, is_right=is_right, seconds=seconds, written=written, message=message)


def write(drawn: Any, output: Path) -> tuple[str, str]:
    """The file that a pipeline's output was written to, and why it could not be; one of both is empty."""
    try:
        (written,) = drawn.save(output)
    except OSError as error:  # a full disk, a folder that is read only or is none
        return "", _told(error)
    return str(written), ""


def shows_a_cat(image: object) -> bool:
    """Read from the pixels, as `deepgen eval storybook` reads."""
    from deepgen.tiny.read import read

    scene = read(image).scene  # pyright: ignore[reportArgumentType]
    return scene is not None and [thing.noun for thing in scene.things] == ["cat"]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
