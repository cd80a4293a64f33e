"""Conversion of any source to one JSONL file of normalised records, with the size of every picture.

Worth its minutes for large sets: with sizes in the manifest, batches are planned without opening a picture.
Pictures that are files stay where they are; those inside tars or tables are written out beside the manifest.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepgen.data.bad_rows import BadRow, BadRowTracker
from deepgen.data.example import Example, FileSlice, ImageContent, RowError
from deepgen.data.example_images import example_sizes
from deepgen.data.images import ImageError
from deepgen.data.sources import Source
from deepgen.json_values import unicode_fault
from deepgen.text_lines import shown

_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclass(frozen=True)
class Converted:
    """What a conversion did."""

    path: Path
    num_rows: int
    num_bad: int
    num_images_written: int
    num_outside: int = 0  # pictures that lie elsewhere than beside the manifest or below


def convert_source(source: Source, path: Path, *, name: str, bad_share_limit: float = 0.01) -> Converted:
    """Write every usable row of a source to `path`, which appears once it is complete.

    Raises:
        FileExistsError: there is something at `path`, or at the folder for pictures beside it.
        TooManyBadRows: nothing is kept; the error names the first bad rows.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: records are written as JSON lines; try {path.with_suffix('.jsonl')}")
    images_dir = path.with_name(f"{path.stem}_pictures")
    for place in (path, images_dir):
        if place.exists():
            raise FileExistsError(f"{place} exists already; remove it or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    bad_rows = BadRowTracker(bad_share_limit)
    token = secrets.token_hex(8)
    part, images_part = path.with_name(f".{token}.part"), path.with_name(f".{token}.pictures.part")
    writer = _ImageWriter(path.parent, images_dir, images_part)
    num_rows = 0
    try:
        with part.open("x", encoding="utf-8") as file:
            for record in _records(source, name, writer, bad_rows):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                num_rows += 1
            bad_rows.judge()
            file.flush()
            os.fsync(file.fileno())
        if writer.count:
            images_part.replace(images_dir)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
        shutil.rmtree(images_part, ignore_errors=True)
    return Converted(path, num_rows, bad_rows.num_bad, writer.count, writer.num_outside)


class _ImageWriter:
    """Turns a picture into what the record says of it, writing those that are no files of their own."""

    def __init__(self, home: Path, final_dir: Path, part_dir: Path) -> None:
        self.home, self.final_dir, self.part_dir = home.resolve(), final_dir, part_dir
        self.count = self.num_outside = 0

    def place(self, image: ImageContent) -> str:
        if isinstance(image, Path):
            absolute = image.resolve()
            if unicode_fault(str(absolute)) is not None:
                raise RowError(
                    f"{shown(str(image))}: its name is not UTF-8, so JSON cannot hold it; rename it"
                )
            is_below = absolute.is_relative_to(self.home)
            self.num_outside += not is_below
            return str(absolute.relative_to(self.home) if is_below else absolute)
        content = image.read() if isinstance(image, FileSlice) else image
        suffix = next((s for start, s in _SUFFIXES.items() if content.startswith(start)), ".img")
        file = f"{self.count // 1000:06d}/{self.count:09d}{suffix}"  # folders of a thousand
        (self.part_dir / file).parent.mkdir(parents=True, exist_ok=True)
        (self.part_dir / file).write_bytes(content)
        self.count += 1
        return f"{self.final_dir.name}/{file}"


def _records(
    source: Source, name: str, writer: _ImageWriter, bad_rows: BadRowTracker
) -> Iterator[dict[str, Any]]:
    for row in range(len(source)):
        try:
            example = source[row]
            record = _record(example, writer)
        except (RowError, ImageError) as error:
            bad_rows.record(1, [BadRow(row, name, f"{name}:{row}", str(error))])
        else:
            bad_rows.record(1)
            yield record


def _record(example: Example, writer: _ImageWriter) -> dict[str, Any]:
    size, reference_sizes = example_sizes(example)
    record: dict[str, Any] = {"id": example.key, "task": example.task, "text": example.text}
    if example.references:
        record["refs"] = [writer.place(image) for image in example.references]
    record |= {"target": writer.place(example.target), "size": list(size)}
    if example.references:
        record["ref_sizes"] = [list(pair) for pair in reference_sizes]
    if example.language is not None:
        record["language"] = example.language
    return record
