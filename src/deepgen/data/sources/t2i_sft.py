"""Format B, "T2I SFT": an array of `{"txt": caption, "image_path": path}`, the original's second stage."""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.data.example import Example, Task
from deepgen.data.fields import check_first_rows, original_place, path_field, text_field
from deepgen.data.records import Records


@dataclass(frozen=True, kw_only=True)
class T2ISFTOptions:
    """`image_dir` is joined to the records' paths; without it they are relative to here, or absolute.

    They stay in that folder, without `image_dir` in this one or the manifest's, unless `outside` is true.
    """

    path: str
    image_dir: str | None = None
    outside: bool = False


class T2ISFT:
    """Captions with their pictures."""

    task: Task = "generate"

    def __init__(self, options: T2ISFTOptions) -> None:
        self.records = Records(options.path)
        self.notes = self.records.notes
        self.place = original_place(options.path, options.image_dir, options.outside)
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record, key = self.records[index], self.records.key(index)
        return Example(
            task=self.task,
            text=text_field(record, "txt", key),
            target=path_field(record, "image_path", key, self.place),
            key=key,
        )


options, source = T2ISFTOptions, T2ISFT
