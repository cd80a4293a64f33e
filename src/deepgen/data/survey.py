"""A survey of training data from its texts and headers: captions, sizes, and pictures that are there twice.

It takes seconds for a folder of any size: so many rows are looked at, for so long, and what was left out is
counted. Only pictures with equally many bytes are compared byte by byte, and copies that were saved again are
looked for among a few hundred small previews.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deepgen.data.example import Example, FileSlice, ImageContent, RowError, Size
from deepgen.data.example_images import example_sizes
from deepgen.data.images import MAX_PIXELS, ImageError
from deepgen.data.mixture import Mixture
from deepgen.data.order import index_at
from deepgen.image_colors import BROKEN
from deepgen.uploads.rgb import open_header

_PREVIEW_SIDE = 16  # pixels
# Of 255. A copy saved again as JPEG at quality 50, or at half its size, differs by less (tests/data).
_SAME_PREVIEW = 10
_MOST_PREVIEWS = 256
_MOST_IN_MEMORY = 32  # pictures whose bytes a source hands out


@dataclass(kw_only=True)
class SourceSurvey:
    """What was found of one source.

    Attributes:
        num_rows: of the source; `num_looked_at` of them were opened.
        bad: why rows could not be used, with how many there are.
        num_images: different pictures; several rows may name one.
        examples: a row each of the first few hundred of them.
        captions: how many pictures each text is said of.
        sizes: (the target's own size, the size it is given) with how many pictures have them.
        copies: groups of pictures with the same bytes, as keys of their rows.
        look_alikes: groups that are the same picture saved again.
    """

    name: str
    task: str
    num_rows: int
    num_looked_at: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    num_images: int = 0
    examples: list[Example] = field(default_factory=list)
    captions: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[Size, Size]] = field(default_factory=Counter)
    copies: list[list[str]] = field(default_factory=list)
    look_alikes: list[list[str]] = field(default_factory=list)


def survey_source(mixture: Mixture, name: str, num_rows: int, seconds: float) -> SourceSurvey:
    """Look at up to `num_rows` rows of a source, and stop after about so many seconds."""
    until = time.monotonic() + seconds
    source = mixture.sources[name]
    found = SourceSurvey(name=name, task=source.task, num_rows=len(source))
    said: set[tuple[object, str]] = set()
    files: list[_File] = []
    met: dict[object, list[str]] = {}  # where a picture is -> keys of its rows
    for row in _rows(len(source), num_rows, name):
        if found.num_looked_at and time.monotonic() > until:
            break
        found.num_looked_at += 1
        try:
            example = source[row]
            size, _ = example_sizes(example)
        except (RowError, ImageError) as error:
            found.bad[str(error)] += 1
            continue
        target, place = example.target, _place(example.target)
        if (place, example.text) not in said:
            said.add((place, example.text))
            found.captions[example.text.strip()] += 1
        keys = met.setdefault(place, [])
        keys.append(example.key)
        if len(keys) > 1:
            continue
        found.num_images += 1
        found.sizes[size, mixture.config.image.size(size)] += 1
        if not isinstance(target, bytes):
            files.append(_File(example.key, target))
        if len(found.examples) < (_MOST_IN_MEMORY if isinstance(target, bytes) else _MOST_PREVIEWS):
            found.examples.append(example)
    # Rows that name one file again do so on purpose; bytes are compared by what they are.
    found.copies = [keys for place, keys in met.items() if isinstance(place, bytes) and len(keys) > 1]
    found.copies += _copies(files, until)
    known = {key for group in found.copies for key in group[1:]}
    found.look_alikes = _look_alikes([x for x in found.examples if x.key not in known], until)
    return found


class _File(NamedTuple):
    """A picture that is on disk, by the key of the row that names it."""

    key: str
    place: Path | FileSlice


def _rows(count: int, limit: int, name: str) -> Iterator[int]:
    """All rows in their order, or so many at random."""
    if count <= limit:
        yield from range(count)
    else:
        yield from (index_at(place, count, 0, f"survey/{name}") for place in range(limit))


def _place(image: ImageContent) -> object:
    """What tells apart where pictures are; of bytes that are in no file, the bytes."""
    if isinstance(image, FileSlice):
        return str(image.path), image.offset
    return hashlib.sha256(image).digest() if isinstance(image, bytes) else str(image)


def _content(image: ImageContent) -> bytes:
    if isinstance(image, bytes):
        return image
    return image.read() if isinstance(image, FileSlice) else image.read_bytes()


def _copies(files: list[_File], until: float) -> list[list[str]]:
    """Keys of rows whose files have the same bytes; a file that is gone meanwhile is no copy."""
    by_size: dict[int, list[_File]] = {}
    for file in files:
        with suppress(OSError):
            place = file.place
            size = place.num_bytes if isinstance(place, FileSlice) else place.stat().st_size
            by_size.setdefault(size, []).append(file)
    groups: dict[bytes, list[str]] = {}
    for file in (file for same in by_size.values() if len(same) > 1 for file in same):
        if time.monotonic() > until:
            break
        with suppress(OSError):
            groups.setdefault(hashlib.sha256(_content(file.place)).digest(), []).append(file.key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _look_alikes(examples: list[Example], until: float) -> list[list[str]]:
    """Keys of rows whose previews are the same but for what saving again changes."""
    groups: list[tuple[np.ndarray, list[str]]] = []
    for example in examples:
        if time.monotonic() > until:
            break
        preview = _preview(example.target)
        if preview is None:
            continue
        for known, keys in groups:
            if np.abs(known - preview).max() <= _SAME_PREVIEW:
                keys.append(example.key)
                break
        else:
            groups.append((preview, [example.key]))
    return [keys for _, keys in groups if len(keys) > 1]


def _preview(image: ImageContent) -> np.ndarray | None:
    """16 x 16 pixels (16, 16, 3) int16, of a JPEG from its lowest frequencies; None where it is damaged.

    Neither turned nor in the colours of its profile: a copy has both as its original has.
    """
    try:
        with open_header(BytesIO(_content(image)), "the picture") as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            opened.draft("RGB", (4 * _PREVIEW_SIDE, 4 * _PREVIEW_SIDE))
            small = opened.convert("RGB").resize((_PREVIEW_SIDE, _PREVIEW_SIDE), Image.Resampling.BOX)
    except (ImageError, *BROKEN):
        return None
    return np.asarray(small).astype(np.int16)
