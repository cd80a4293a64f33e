"""Pictures out: a PNG that remembers how it was made, and several pictures on one sheet.

The settings stand in the file twice: as one text entry each, for viewers and other programs, and as JSON
under `deepgen`, from which they are read back exactly. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from pathlib import Path

from PIL import Image, PngImagePlugin

from deepgen._version import __version__

KEY = "deepgen"


@dataclass(frozen=True, kw_only=True)
class PictureRecord:
    """How a picture was made; enough to make it again. `None` stands for the model's own default."""

    prompt: str
    negative_prompt: str | None = None
    seed: int
    steps: int | None = None
    guidance: float | None = None
    width: int
    height: int
    scheduler: str | None = None
    preset: str | None = None
    model: str
    references: tuple[str, ...] = ()  # names of the pictures given to an edit
    prompt_cut: str | None = None  # what of the prompts was too long to be read
    version: str = __version__


def save_png(image: Image.Image, path: Path, record: PictureRecord | None = None) -> None:
    """Writes the picture under `path`, with its record in text entries unless there is none.

    An existing file is replaced at the last moment: an interruption leaves either the old file or the new.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            image.save(file, format="PNG", pnginfo=text_entries(record) if record else None)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_record(path: Path) -> PictureRecord | None:
    """The record inside a picture, or None when it carries none that this version can read."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(KEY)
    try:
        fields = json.loads(text) if text else None
        return PictureRecord(**{**fields, "references": tuple(fields["references"])}) if fields else None
    except (ValueError, TypeError, KeyError):  # another program's entry of the same name
        return None


def image_grid(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """The pictures on one white sheet, as nearly square as they go; cells are as large as the largest."""
    if not images:
        raise ValueError("a grid needs at least one picture, got none")
    columns = ceil(sqrt(len(images)))
    rows = ceil(len(images) / columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + gap), row * (height + gap)))
    return sheet


def text_entries(record: PictureRecord) -> PngImagePlugin.PngInfo:
    """The record as Pillow's `pnginfo`: one entry for each setting, and all of them as JSON."""
    info = PngImagePlugin.PngInfo()
    for name, value in asdict(record).items():
        if value is not None and value != ():
            info.add_text(name, str(value) if name != "references" else ", ".join(value))
    info.add_text(KEY, json.dumps(asdict(record), ensure_ascii=False))
    return info
