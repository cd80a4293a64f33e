"""Where the samples of a tar lie.

A tar has no table of its members: their headers are read once, one after the other, and what was found is
kept. Python's own reader ends in silence at a header that is cut or damaged, and at the end mark of the first
of several archives that were put into one file; here both are noticed, so that no row goes missing unsaid.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from deepgen.data.file_stamp import FileStamp
from deepgen.data.records import RecordFile, kept_index
from deepgen.text_lines import shown

_BLOCK = 512
_CHUNK = 2**24


class TarSample(NamedTuple):
    """One sample.

    Attributes:
        key: the common part of its members' names, as text whatever its encoding.
        members: by ending, (offset, bytes) of each.
        problem: why it may lack something; nothing where the tar is whole.
    """

    key: str
    members: dict[str, tuple[int, int]]
    problem: str = ""


class TarIndex:
    """The samples of one tar, in the order of their first members.

    Members of a sample need not follow each other. Of a tar that is cut or damaged there is one sample more,
    without members, that stands for whatever is missing.
    """

    def __init__(self, tar: Path, cache_dir: Path | None = None) -> None:
        self.tar, self.stamp = tar, FileStamp.of(tar)
        path = kept_index(tar, ".members.jsonl", cache_dir, lambda: _as_lines(tar))
        self._records = RecordFile(path, cache_dir)
        summary = self._records[len(self._records) - 1]  # the last line
        self.fault: str = f"{shown(str(tar))} {summary['fault']}" if summary["fault"] else ""
        self.notes: list[str] = [f"{shown(tar.name)}: {note}" for note in summary["notes"]]
        if self.fault:
            self.notes.append(f"{self.fault}; what stood behind is missing")

    def __len__(self) -> int:
        return len(self._records) - 1

    def __getitem__(self, row: int) -> TarSample:
        record = self._records[row]
        members = {name: (offset, size) for name, (offset, size) in record["members"].items()}
        return TarSample(record["key"], members, record.get("problem", ""))


class _Found:
    """What the headers of a tar say, gathered."""

    def __init__(self, tar: Path) -> None:
        self.tar, self.size = tar, tar.stat().st_size
        self.samples: dict[tuple[int, str], dict[str, tuple[int, int]]] = {}  # by archive and key
        self.archive = 0
        self.fault = ""
        self.num_hidden = self.num_twice = 0

    def add(self, info: tarfile.TarInfo) -> None:
        path = PurePosixPath(info.name)
        if not info.isfile():
            return
        if path.name.startswith("._") or "__MACOSX" in path.parts:
            self.num_hidden += 1
            return
        folder, _, name = info.name.rpartition("/")
        stem, _, ending = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        members = self.samples.setdefault((self.archive, key), {})
        self.num_twice += ending.lower() in members
        members[ending.lower()] = (info.offset_data, info.size)  # tar's own rule: the last one counts

    def read(self) -> None:
        """All headers, of several archives in one file, too."""
        with self.tar.open("rb") as file:
            begin: int | None = 0
            while begin is not None:
                file.seek(begin)
                self.archive += 1
                end = self._archive(file, is_first=self.archive == 1)
                begin = None if self.fault else _next_content(file, end, self.size)

    def _archive(self, file: Any, *, is_first: bool) -> int:
        """One archive; where its end mark stands. Sets the fault where there is none."""
        try:
            with tarfile.open(fileobj=file, mode="r:") as opened:
                for info in opened:
                    opened.members = []  # type: ignore[assignment]  # tarfile keeps them all otherwise
                    self.add(info)
                end = opened.offset
        except tarfile.TarError as error:
            if is_first and not self.samples:
                raise ValueError(
                    f"{self.tar} cannot be read as a tar: {error}; a compressed one must be unpacked to a "
                    "plain .tar first"
                ) from error
            self.fault = f"({self.size:,} bytes) is cut short or damaged: {error}"
            return self.size
        file.seek(end)
        block = file.read(_BLOCK)
        if block == bytes(_BLOCK):
            return end
        what = "has no end" if not block else "is cut in a header" if len(block) < _BLOCK else "is damaged"
        self.fault = f"{what} at byte {end:,} of {self.size:,}"
        return self.size


def _next_content(file: Any, begin: int, size: int) -> int | None:
    """Where, behind an end mark, something other than zeros begins; None where nothing does."""
    file.seek(begin)
    while chunk := file.read(_CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            return (begin + len(chunk) - len(rest)) // _BLOCK * _BLOCK
        begin += len(chunk)
    return None


def _as_lines(tar: Path) -> bytes:
    """A sample a line, and a last line about the whole: {"fault": ..., "notes": [...]}.

    Names no place of the tar, which may lie elsewhere when this is read.
    """
    found = _Found(tar)
    found.read()
    notes = []
    if found.num_hidden:
        notes.append(f"{found.num_hidden} members that a Mac left (._*) are passed over")
    if found.num_twice:
        notes.append(f"{found.num_twice} members stand there twice; the later ones count")
    lines = [json.dumps(record) for record in _records(found)]
    lines.append(json.dumps({"fault": found.fault, "notes": notes}))
    return "".join(f"{line}\n" for line in lines).encode()


def _records(found: _Found) -> Iterator[dict[str, Any]]:
    for (_, key), members in found.samples.items():
        record: dict[str, Any] = {
            "key": shown(key),
            "members": {shown(name): place for name, place in members.items()},
        }
        cut = [name for name, (offset, size) in members.items() if offset + size > found.size]
        if cut:
            offset, size = members[cut[0]]
            record["problem"] = (
                f"its member {shown(cut[0])} ends after {max(found.size - offset, 0)} of {size} bytes"
            )
        yield record
    if found.fault:
        yield {"key": "(cut)", "members": {}, "problem": "samples are missing from here on"}
