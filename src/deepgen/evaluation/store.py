"""Progress of a run on disk, in lines of JSON that survive a kill at any byte.

A line is written after the fact it states; the last, half-written one of a killed process is dropped. Each
process has a file of its own, and all files of a kind are read.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepgen.checkpoints.file_hash import hash_file
from deepgen.evaluation.benchmark import ItemScore
from deepgen.moved import renamed


class Lines:
    """The files KIND-RANK.jsonl of a folder; this process appends to its own."""

    def __init__(self, folder: Path, kind: str, rank: int) -> None:
        self.folder, self.kind = folder, kind
        self._path = folder / f"{kind}-{rank}.jsonl"

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line through to the disk."""
        data = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with self._path.open("ab") as file:
            if file.tell() and not _ends_with_newline(self._path):
                data = b"\n" + data  # what a kill left is closed off
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All whole lines of all processes, in the order of the files."""
        for path in sorted(self.folder.glob(f"{self.kind}-*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # the line a kill cut off
                    continue
                if isinstance(row, dict):
                    yield row


class Images:
    """Which pictures are there: recorded with their hash, and unchanged since.

    Attributes:
        problems: what was recorded and is missing or altered, one line each.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self._lines = Lines(folder, "pictures", rank)
        self.problems: list[str] = []
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Read the records of all processes; a later line about a picture replaces an earlier one."""
        self._rows, self.problems = {}, []
        for row in self._lines:
            self._rows[row["item"], row["sample"]] = row
        for key, row in list(self._rows.items()):
            path = self.folder / row["path"]
            if not path.is_file():
                self.problems.append(f"{row['path']} was recorded and is missing")
            elif hash_file(path) != row["sha256"]:
                self.problems.append(f"{row['path']} is not the file that was recorded")
            else:
                continue
            del self._rows[key]

    def __contains__(self, key: tuple[str, int]) -> bool:
        """Whether (item, sample) is there."""
        return key in self._rows

    def get(self, item: str, sample: int) -> dict[str, Any] | None:
        """Its record: `path`, `sha256`, `seed`."""
        return self._rows.get((item, sample))

    def add(self, item: str, sample: int, path: str, **facts: Any) -> None:
        """Record a picture that was written whole."""
        row = {"item": item, "sample": sample, "path": path, "sha256": hash_file(self.folder / path), **facts}
        self._lines.append(row)
        self._rows[item, sample] = row

    def unknown_files(self) -> list[str]:
        """Files ending in .png or .part that no record names."""
        known = {row["path"] for row in self._rows.values()}
        found = [*self.folder.rglob("*.png"), *self.folder.rglob("*.part")]
        return sorted(name for path in found if (name := str(path.relative_to(self.folder))) not in known)


class Scores:
    """Verdicts by item, each for certain pictures and one way of scoring."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._lines = Lines(folder, "scores", rank)
        self._rows: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Read the verdicts of all processes."""
        self._rows = {row["score"]["item"]: row for row in self._lines}

    def get(self, item: str, images: list[str], scorer: str) -> ItemScore | None:
        """The verdict on just these pictures (hashes), or None."""
        row = self._rows.get(item)
        if row is None or row["pictures"] != images or row["scorer"] != scorer:
            return None
        values = row["score"]
        return ItemScore(**{**values, "rows": tuple(values["rows"]), "problems": tuple(values["problems"])})

    def add(self, score: ItemScore, images: list[str], scorer: str) -> None:
        """Keep a verdict."""
        row = {"pictures": images, "scorer": scorer, "score": asdict(score)}
        self._lines.append(row)
        self._rows[score.item] = json.loads(json.dumps(row))


def write_json(path: Path, document: Any) -> None:
    """A document under its name once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    part.write_text(
        json.dumps(document, indent=1, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8"
    )
    os.replace(part, path)  # noqa: PTH105


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


__getattr__ = renamed(__name__, {"Pictures": "deepgen.evaluation.store.Images"})
