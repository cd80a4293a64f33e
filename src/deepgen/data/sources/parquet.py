"""Parquet files with a picture a row, as the Hugging Face hub keeps them.

Picture columns hold paths, the bytes of a file, or `{"bytes": ..., "path": ...}`. A row is reached through
its row group, of which the last few are kept; shuffled reading therefore wants small row groups (some
hundred rows), or `deepgen data convert` first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from deepgen.data.example import Example, RowError, Task
from deepgen.data.fields import ImageFolders, check_first_rows, image_value, images_value, text_field
from deepgen.data.file_stamp import DataChangedError, FileStamp
from deepgen.data.records import find_files, hidden_files
from deepgen.extras import missing_extra

KEPT_ROW_GROUPS = 4


@dataclass(frozen=True, kw_only=True)
class ParquetOptions:
    """Which columns mean what.

    Attributes:
        path: a .parquet file or a folder of them.
        references: columns of the pictures given to an edit; a column may hold a list. None: to generate.
        image_dir: joined to paths; the parquet file's own folder unless given.
        outside: paths may lead out of that folder.
    """

    path: str
    text: str = "text"
    target: str = "image"
    references: tuple[str, ...] = ()
    image_dir: str | None = None
    outside: bool = False


class Parquet:
    """Rows of parquet files."""

    def __init__(self, options: ParquetOptions) -> None:
        self.options = options
        self.task: Task = "edit" if options.references else "generate"
        self.files = find_files(options.path, (".parquet",))
        self.notes = hidden_files(options.path, (".parquet",))
        self._groups: list[tuple[int, int]] = []  # (file, row group) of each
        sizes: list[int] = []
        wanted = [options.text, options.target, *options.references]
        self._stamps = [FileStamp.of(file) for file in self.files]
        for number, file in enumerate(self.files):
            metadata = read_metadata(file)
            columns = metadata.schema.to_arrow_schema().names
            missing = [column for column in wanted if column not in columns]
            if missing:
                raise ValueError(
                    f"{file}: expected the columns {', '.join(wanted)}, found: {', '.join(columns)}; "
                    "name them with the options text, target and references"
                )
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._ends = list(accumulate(sizes, initial=0))
        self._tables: OrderedDict[int, Any] = OrderedDict()
        check_first_rows(self, options.path)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a row in [0, {len(self)}), got {index}")
        number = bisect_right(self._ends, index) - 1
        file = self.files[self._groups[number][0]]
        key = f"{file}:{index - self._ends[self._first_group(number)]}"
        row = self._table(number, key).slice(index - self._ends[number], 1).to_pylist()[0]
        folder = Path(self.options.image_dir).expanduser() if self.options.image_dir else file.parent
        place = ImageFolders(folder, anywhere=self.options.outside)
        return Example(
            task=self.task,
            text=text_field(row, self.options.text, key),
            target=image_value(row[self.options.target], self.options.target, key, place),
            references=images_value(row, self.options.references, key, place),
            key=key,
        )

    def _first_group(self, number: int) -> int:
        """The first row group of the same file."""
        return number - self._groups[number][1]

    def _table(self, number: int, key: str) -> Any:
        if number not in self._tables:
            file, group = self._groups[number]
            columns = list({self.options.text, self.options.target, *self.options.references})
            try:
                with (
                    self._stamps[file].open(self.files[file]) as content,
                    _pyarrow_parquet().ParquetFile(content) as opened,
                ):
                    self._tables[number] = opened.read_row_group(group, columns=columns)
            except DataChangedError:
                raise
            except _damage() as error:
                raise RowError(f"{key}: row group {group} is damaged: {_first_line(error)}") from error
            if len(self._tables) > KEPT_ROW_GROUPS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(number)
        return self._tables[number]

    def __getstate__(self) -> dict[str, Any]:
        """Tables are read anew on the other side."""
        return {**self.__dict__, "_tables": OrderedDict()}


def read_metadata(file: Path) -> Any:
    """What a parquet file says of itself at its end; ValueError names one that is cut short or damaged."""
    parquet = _pyarrow_parquet()
    try:
        return parquet.read_metadata(file)
    except _damage() as error:
        size = file.stat().st_size
        raise ValueError(
            f"{file} ({size:,} bytes) is no whole parquet file; it was cut short or is damaged, so fetch it "
            f"again: {_first_line(error)}"
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises on damaged files."""
    import pyarrow

    return (OSError, ValueError, pyarrow.ArrowException)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).split("\n")), "") or type(error).__name__


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("reading parquet needs pyarrow", "train", error) from error
    return pyarrow.parquet


options, source = ParquetOptions, Parquet
