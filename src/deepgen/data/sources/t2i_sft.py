"""Format B, "T2I SFT": an array of `{"txt": caption, "image_path": path}`, the original's second stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepgen.data.example import Example, Task
from deepgen.data.fields import check_first_rows, path_field, text_field
from deepgen.data.records import Records


@dataclass(frozen=True, kw_only=True)
class T2ISFTOptions:
    """`image_dir` is joined to the records' paths; without it they are absolute or relative to here."""

    path: str
    image_dir: str | None = None


class T2ISFT:
    """Captions with their pictures."""

    task: Task = "generate"

    def __init__(self, options: T2ISFTOptions) -> None:
        self.records = Records(options.path)
        self.image_dir = Path(options.image_dir or "").expanduser()
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record, key = self.records[index], self.records.key(index)
        return Example(
            task=self.task,
            text=text_field(record, "txt", key),
            target=path_field(record, "image_path", key, self.image_dir),
            key=key,
        )


options, source = T2ISFTOptions, T2ISFT
