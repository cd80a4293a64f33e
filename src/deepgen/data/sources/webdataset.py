"""Tars whose members share a name up to the first dot: `0001.jpg` with `0001.txt`, or `0001.input.jpg`,
`0001.output.jpg` and `0001.json`.

Streaming is what such tars were made for; we want any sample at any time, so that order, resuming and buckets
work as for every other source. A tar's headers are therefore read once, and where each member lies is cached.
"""

from __future__ import annotations

import json
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from deepgen.data.example import Example, FileSlice, RowError, Task
from deepgen.data.fields import check_first_rows, text_field
from deepgen.data.records import RecordFile, cache_path, find_files, write_whole


@dataclass(frozen=True, kw_only=True)
class WebDatasetOptions:
    """Which members mean what; alternatives are separated by `;`.

    Attributes:
        path: a .tar file or a folder of them.
        text: the member with the text.
        text_key: the text's key where that member is JSON.
        references: the members given to an edit, in their order. None: to generate.
        cache_dir: where indices are kept; ~/.cache/deepgen/index unless given.
    """

    path: str
    target: str = "jpg;jpeg;png;webp"
    text: str = "txt"
    text_key: str | None = None
    references: tuple[str, ...] = ()
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        """A JSON member needs a key."""
        if self.text.endswith("json") and self.text_key is None:
            raise ValueError(f"text is the member {self.text}; say with text_key under which key its text is")


class WebDataset:
    """Samples of tars, reached at random."""

    def __init__(self, options: WebDatasetOptions) -> None:
        self.options = options
        self.task: Task = "edit" if options.references else "generate"
        self.tars = find_files(options.path, (".tar",))
        cache_dir = Path(options.cache_dir).expanduser() if options.cache_dir else None
        self.indices = [RecordFile(_index(tar, cache_dir), cache_dir) for tar in self.tars]
        self._ends = list(accumulate(len(index) for index in self.indices))
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a row in [0, {len(self)}), got {index}")
        number = bisect_right(self._ends, index)
        tar = self.tars[number]
        sample = self.indices[number][index - (self._ends[number - 1] if number else 0)]
        key, members = f"{tar}!{sample['key']}", sample["members"]
        return Example(
            task=self.task,
            text=self._text(tar, key, members),
            target=_member(tar, key, members, self.options.target),
            references=tuple(_member(tar, key, members, name) for name in self.options.references),
            key=key,
        )

    def _text(self, tar: Path, key: str, members: dict[str, list[int]]) -> str:
        content = _member(tar, key, members, self.options.text).read()
        try:
            if self.options.text_key is None:
                return content.decode("utf-8-sig").strip()
            record = json.loads(content)
        except ValueError as error:
            raise RowError(f"{key}: cannot read its text from {self.options.text}: {error}") from error
        if not isinstance(record, dict):
            raise RowError(f"{key}: expected an object in {self.options.text}, found {type(record).__name__}")
        return text_field(record, self.options.text_key, key)


def _member(tar: Path, key: str, members: dict[str, list[int]], wanted: str) -> FileSlice:
    for name in wanted.split(";"):
        if name in members:
            offset, num_bytes = members[name]
            return FileSlice(tar, offset, num_bytes, f"{key}.{name}")
    raise RowError(f"{key}: expected a member {' or '.join(wanted.split(';'))}, found: {', '.join(members)}")


def _index(tar: Path, cache_dir: Path | None) -> Path:
    """The tar's samples, one a line: {"key": ..., "members": {extension: [offset, bytes]}}."""
    path = cache_path(tar, ".index.jsonl", cache_dir)
    if not path.exists():
        lines = [json.dumps(sample, ensure_ascii=False) for sample in _samples(tar)]
        write_whole(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    return path


def _samples(tar: Path) -> Iterator[dict[str, Any]]:
    """Members of one sample follow each other, as the format asks."""
    key, members = "", {}
    try:
        with tarfile.open(tar, "r:") as opened:
            for info in opened:
                opened.members = []  # type: ignore[assignment]  # tarfile keeps them all otherwise
                if not info.isfile():
                    continue
                folder, _, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                this = f"{folder}/{stem}" if folder else stem
                if this != key and members:
                    yield {"key": key, "members": members}
                    members = {}
                key = this
                members[extension.lower()] = [info.offset_data, info.size]
    except tarfile.TarError as error:
        raise ValueError(
            f"{tar} cannot be read as a tar: {error}; a compressed one must be unpacked to a plain .tar first"
        ) from error
    if members:
        yield {"key": key, "members": members}


options, source = WebDatasetOptions, WebDataset
