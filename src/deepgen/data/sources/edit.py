"""Format C, "edit": an array of `{"input_image": [paths], "output_image": path, "instruction": text}`.

Every input picture is used. The original took the first only, which makes instructions that speak of "the
second picture" wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.data.example import Example, Task
from deepgen.data.fields import check_first_rows, original_place, path_field, paths_field, text_field
from deepgen.data.records import Records
from deepgen.moved import renamed


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """`image_dir` is joined to the records' paths; without it they are relative to here, or absolute.

    They stay in that folder, without `image_dir` in this one or the manifest's, unless `outside` is true.
    """

    path: str
    image_dir: str | None = None
    outside: bool = False


class EditSource:
    """Instructions with the pictures before and after."""

    task: Task = "edit"

    def __init__(self, options: EditOptions) -> None:
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
            text=text_field(record, "instruction", key),
            target=path_field(record, "output_image", key, self.place),
            references=paths_field(record, "input_image", key, self.place),
            key=key,
        )


options, source = EditOptions, EditSource


__getattr__ = renamed(__name__, {"Edit": "deepgen.data.sources.edit.EditSource"})
