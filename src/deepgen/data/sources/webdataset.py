"""Tars whose members share a name up to the first dot: `0001.jpg` with `0001.txt`, or `0001.input.jpg`,
`0001.output.jpg` and `0001.json`.

Streaming is what such tars were made for; we want any sample at any time, so that order, resuming and buckets
work as for every other source. A tar's headers are therefore read once, and where each member lies is cached.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from deepgen.data.example import Example, FileSlice, RowError, Task
from deepgen.data.fields import check_first_rows, text_field
from deepgen.data.records import find_files, hidden_files
from deepgen.data.tar_index import TarIndex, TarSample
from deepgen.image_formats import SUFFIXES
from deepgen.text_lines import decoded, json_value

_FIRST = ("jpg", "jpeg", "png", "webp")  # of a sample with several pictures
IMAGE_MEMBERS = ";".join(dict.fromkeys((*_FIRST, *(suffix.removeprefix(".") for suffix in SUFFIXES))))


@dataclass(frozen=True, kw_only=True)
class WebDatasetOptions:
    """Which members mean what; alternatives are separated by `;`.

    Attributes:
        path: a .tar file or a folder of them.
        target: the member with the picture; any that is one, unless given.
        text: the member with the text.
        text_key: the text's key where that member is JSON.
        references: the members given to an edit, in their order. None: to generate.
        cache_dir: where indices are kept; ~/.cache/deepgen/index unless given.
    """

    path: str
    target: str = IMAGE_MEMBERS
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
        self.indices = [TarIndex(tar, cache_dir) for tar in self.tars]
        notes = (note for index in self.indices for note in index.notes)
        self.notes = (*hidden_files(options.path, (".tar",)), *notes)
        self._ends = list(accumulate(len(index) for index in self.indices))
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a row in [0, {len(self)}), got {index}")
        number = bisect_right(self._ends, index)
        tar = self.indices[number]
        sample = tar[index - (self._ends[number - 1] if number else 0)]
        key = f"{tar.tar}!{sample.key}"
        if sample.problem:
            raise RowError(f"{key}: {sample.problem}; {tar.fault}")
        return Example(
            task=self.task,
            text=self._text(tar, key, sample),
            target=_member(tar, key, sample, self.options.target),
            references=tuple(_member(tar, key, sample, name) for name in self.options.references),
            key=key,
        )

    def _text(self, tar: TarIndex, key: str, sample: TarSample) -> str:
        content = _member(tar, key, sample, self.options.text).read()
        try:
            if self.options.text_key is None:
                return decoded(content).strip()
            record = json_value(content)
        except ValueError as error:
            raise RowError(f"{key}: cannot read its text from {self.options.text}: {error}") from error
        if not isinstance(record, dict):
            raise RowError(f"{key}: expected an object in {self.options.text}, found {type(record).__name__}")
        return text_field(record, self.options.text_key, key)


def _member(tar: TarIndex, key: str, sample: TarSample, wanted: str) -> FileSlice:
    for name in wanted.split(";"):
        if name in sample.members:
            offset, num_bytes = sample.members[name]
            return FileSlice(tar.tar, offset, num_bytes, f"{key}.{name}", tar.stamp)
    expected = "that is a picture" if wanted == IMAGE_MEMBERS else " or ".join(wanted.split(";"))
    cut = f"; {tar.fault}" if tar.fault else ""
    raise RowError(f"{key}: expected a member {expected}, found: {', '.join(sample.members) or 'none'}{cut}")


options, source = WebDatasetOptions, WebDataset
