"""A folder of pictures, for fine-tuning on a handful.

Each has a text file of the same name, or all are described in a `metadata.jsonl` of
`{"file_name": path, "text": caption}`, and `"references": [paths]` to edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepgen.data.example import Example, RowError, Task
from deepgen.data.fields import check_first_rows, path_field, paths_field, text_field
from deepgen.data.records import RecordFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
METADATA = "metadata.jsonl"


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """`caption` is said of pictures that have no text of their own; without it each must have one.

    `task` is edit only where a metadata.jsonl names references.
    """

    path: str
    caption: str | None = None
    task: Task = "generate"


class Folder:
    """Pictures of one folder, in the order of their names."""

    def __init__(self, options: FolderOptions) -> None:
        self.folder = Path(options.path).expanduser()
        self.caption, self.task = options.caption, options.task
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {self.folder.absolute()}")
        metadata = self.folder / METADATA
        self.records = RecordFile(metadata) if metadata.exists() else None
        self.images = sorted(
            file for file in self.folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if self.records is None:
            self._check_captions()
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return len(self.images) if self.records is None else len(self.records)

    def __getitem__(self, index: int) -> Example:
        if self.records is not None:
            return self._described(self.records, index)
        image = self.images[index]
        return Example(task=self.task, text=self._caption(image), target=image, key=str(image))

    def _described(self, records: RecordFile, row: int) -> Example:
        record, key = records[row], records.key(row)
        has_references = bool(record.get("references"))
        return Example(
            task=self.task,
            text=text_field(record, "text", key) if "text" in record or not self.caption else self.caption,
            target=path_field(record, "file_name", key, self.folder),
            references=paths_field(record, "references", key, self.folder) if has_references else (),
            key=key,
        )

    def _caption(self, image: Path) -> str:
        path = image.with_suffix(".txt")
        try:
            return path.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            if self.caption is None:
                raise RowError(f"{image}: there is no caption at {path}") from None
            return self.caption
        except (OSError, UnicodeDecodeError) as error:
            raise RowError(f"{image}: cannot read its caption {path}: {error}") from error

    def _check_captions(self) -> None:
        if not self.images:
            raise FileNotFoundError(
                f"the folder {self.folder.absolute()} holds no picture; known: {', '.join(SUFFIXES)}"
            )
        without = [file.name for file in self.images if not file.with_suffix(".txt").exists()]
        if without and self.caption is None:
            raise FileNotFoundError(
                f"{len(without)} of {len(self.images)} pictures in {self.folder} have no caption "
                f"({', '.join(without[:3])}{', ...' if len(without) > 3 else ''}); write a .txt file of the "
                f"same name beside each, describe all in {METADATA}, or give one `caption` for all"
            )


options, source = FolderOptions, Folder
