"""Our own record, one a line, which `deepgen data convert` writes from any other source:

    {"id": "1", "task": "edit", "text": "make it red", "refs": ["a.png"], "target": "b.png",
     "size": [512, 640], "ref_sizes": [[512, 640]], "language": "en"}

`task`, `text` and `target` must be there. Sizes are (height, width) as a viewer shows the picture; with them,
batches are planned without opening a single picture.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deepgen.data.example import Example, RowError, Task
from deepgen.data.fields import (
    CHECKED_ROWS,
    ImageFolders,
    check_first_rows,
    path_field,
    paths_field,
    size_value,
    text_field,
)
from deepgen.data.records import Records


@dataclass(frozen=True, kw_only=True)
class JSONLinesOptions:
    """Paths are relative to `image_dir`, which is the manifest's own folder unless given, and stay in it
    unless `outside` is true.

    All rows of a source have one task: the given one, or else the first row's.
    """

    path: str
    image_dir: str | None = None
    task: Task | None = None
    outside: bool = False


class JSONLines:
    """Normalised records."""

    def __init__(self, options: JSONLinesOptions) -> None:
        self.records = Records(options.path, suffixes=(".jsonl",))
        self.notes = self.records.notes
        self.image_dir = Path(options.image_dir).expanduser() if options.image_dir else None
        self.outside = options.outside
        self.task = options.task or self._first_task()
        check_first_rows(self, options.path)

    def _first_task(self) -> Task:
        for row in range(min(CHECKED_ROWS, len(self.records))):
            with suppress(RowError):
                return cast(Task, text_field(self.records[row], "task", self.records.key(row)))
        raise ValueError(f"none of the first rows of {self.records.files[0].path} names its task")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        file, row = self.records.locate(index)
        record, key = file[row], file.key(row)
        folder = ImageFolders(self.image_dir or file.path.parent, anywhere=self.outside)
        task = text_field(record, "task", key)
        if task != self.task:
            raise RowError(f"{key}: expected task {self.task}, found {task!r}; one manifest holds one task")
        return Example(
            task=cast(Task, task),
            text=text_field(record, "text", key),
            target=path_field(record, "target", key, folder),
            references=paths_field(record, "refs", key, folder) if record.get("refs") else (),
            key=key,
            language=record.get("language"),
            **_sizes(record, key),
        )


def _sizes(record: dict[str, Any], key: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    if record.get("size") is not None:
        sizes["size"] = size_value(record["size"], "size", key)
    if record.get("ref_sizes") is not None:
        sizes["reference_sizes"] = tuple(size_value(pair, "ref_sizes", key) for pair in record["ref_sizes"])
    return sizes


options, source = JSONLinesOptions, JSONLines
