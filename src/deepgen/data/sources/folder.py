"""A folder of pictures, for fine-tuning on a handful.

Each has a text file of the same name (`.txt` or `.caption`), or all are described in a `metadata.jsonl` or
`metadata.csv` of `{"file_name": path, "text": caption}`, and in the former `"references": [paths]` to edit. A
folder of kohya's folders (`10_name/`) repeats the pictures of each as its name says.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from deepgen.data.csv_records import CSVRecords
from deepgen.data.example import Example, RowError, Task
from deepgen.data.fields import ImageFolders, check_first_rows, path_field, paths_field, text_field
from deepgen.data.folder_layout import FolderLayout, ImageFile, look_into, undescribed
from deepgen.data.records import RecordFile
from deepgen.text_lines import read_text, shown

_COMPARED_ROWS = 100_000  # of a metadata file whose pictures are compared with those that are there


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """What is in the folder.

    Attributes:
        path: the folder.
        caption: is said of pictures that have no text of their own; without it each must have one.
        text: the field of a metadata file, or the column, with the caption.
        task: edit only where a metadata.jsonl names references.
        outside: paths in a metadata file may lead out of the folder.
    """

    path: str
    caption: str | None = None
    text: str = "text"
    task: Task = "generate"
    outside: bool = False


class Folder:
    """Pictures of one folder, in the order of their names."""

    def __init__(self, options: FolderOptions) -> None:
        self.options, self.task = options, options.task
        layout = look_into(Path(options.path).expanduser())
        self.place = ImageFolders(layout.folder, anywhere=options.outside)
        self.images, self.records = layout.images, _records(layout.metadata)
        notes = layout.notes
        if self.records is None:
            notes = [*notes, *self._check_captions(layout)]
        elif left := self._undescribed(layout):
            notes = [*notes, left]
        self.notes = tuple(notes)
        self._ends = list(accumulate(image.repeats for image in self.images))
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return len(self.records) if self.records is not None else self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a row in [0, {len(self)}), got {index}")
        if self.records is not None:
            return self._described(self.records, index)
        image = self.images[bisect_right(self._ends, index)]
        return Example(
            task=self.task, text=self._caption(image), target=image.path, key=shown(str(image.path))
        )

    def _described(self, records: RecordFile | CSVRecords, row: int) -> Example:
        record, key, column = records[row], records.key(row), self.options.text
        has_references = bool(record.get("references"))
        if column not in record and self.options.caption is not None:
            text = self.options.caption
        elif column not in record:
            found = ", ".join(sorted(set(record) - {"file_name", "references"})) or "no other field"
            raise RowError(f"{key}: expected a text in {column!r}, found: {found}; name it with text=FIELD")
        else:
            text = text_field(record, column, key)
        return Example(
            task=self.task,
            text=text,
            target=path_field(record, "file_name", key, self.place),
            references=paths_field(record, "references", key, self.place) if has_references else (),
            key=key,
        )

    def _caption(self, image: ImageFile) -> str:
        if image.caption is None:
            if self.options.caption is None and not image.concept:
                raise RowError(f"{image.path}: there is no caption at {image.path.with_suffix('.txt')}")
            return self.options.caption or image.concept
        try:
            return read_text(image.caption).strip()
        except FileNotFoundError:
            raise RowError(f"{image.path}: its caption {image.caption} is gone") from None
        except (OSError, ValueError) as error:
            raise RowError(f"{image.path}: cannot read its caption {image.caption}: {error}") from error

    def _check_captions(self, layout: FolderLayout) -> list[str]:
        """Notes about pictures without a text of their own; FileNotFoundError where they get none."""
        without = [image for image in layout.images if image.caption is None]
        if self.options.caption is not None:
            return [f"{len(without)} of {len(layout.images)} get the caption for all"] if without else []
        lone = [image.path.name for image in without if not image.concept]
        if lone:
            raise FileNotFoundError(
                f"{len(lone)} of {len(layout.images)} pictures in {layout.folder} have no caption "
                f"({', '.join(lone[:3])}{', ...' if len(lone) > 3 else ''}); write a .txt or .caption file "
                "of the same name beside each, describe all in metadata.jsonl, or give one `caption` for all"
            )
        return [f"{len(without)} get the words of their folder's name as caption"] if without else []

    def _undescribed(self, layout: FolderLayout) -> str | None:
        """A note about pictures that no record names."""
        assert self.records is not None
        if len(self.records) > _COMPARED_ROWS:
            return None
        named: list[Path] = []
        for row in range(len(self.records)):
            try:
                record = self.records[row]
            except RowError:
                continue  # is met again when it is drawn
            given: Any = record.get("references") or []
            values = [record.get("file_name"), *(given if isinstance(given, list) else [given])]
            named += [layout.folder / value for value in values if isinstance(value, str)]
        return undescribed(layout.folder, named)


def _records(metadata: Path | None) -> RecordFile | CSVRecords | None:
    if metadata is None:
        return None
    return CSVRecords(metadata) if metadata.suffix == ".csv" else RecordFile(metadata)


options, source = FolderOptions, Folder
