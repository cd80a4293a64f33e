"""Rows of a CSV file by the names in its first line.

Fields in quotes may hold ends of lines. A row that is no UTF-8 is an error of that row alone.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from deepgen.data.example import RowError
from deepgen.json_values import unicode_fault
from deepgen.text_lines import text_lines


class CSVRecords(Sequence[dict[str, str]]):
    """The rows of one file, all in memory: such files describe folders of pictures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Bytes that are no UTF-8 become lone surrogates here, by which their row is found again.
        lines = [line.content.decode("utf-8", "surrogateescape") + "\n" for line in text_lines(path)]
        reader = csv.reader(lines)
        self._rows: list[tuple[int, list[str]]] = []  # (line on which it ends, fields)
        try:
            self.columns = next(reader, [])
            self._rows += [(reader.line_num, row) for row in reader if row]
            if any(unicode_fault(name) is not None for name in self.columns):
                raise ValueError(f"{path}, line 1: the names of the columns are not UTF-8; save it as UTF-8")
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, str]:  # type: ignore[override]
        line, values = self._rows[row]
        if any(unicode_fault(value) is not None for value in values):
            raise RowError(f"{self.key(row)}: not UTF-8; save it as UTF-8 (line {line} of the file)")
        if len(values) != len(self.columns):
            raise RowError(
                f"{self.key(row)}: {len(values)} fields, and the first line names {len(self.columns)} "
                f"(line {line} of the file)"
            )
        return dict(zip(self.columns, values, strict=True))

    def key(self, row: int) -> str:
        """Names a record in errors and logs; rows count from 0."""
        return f"{self.path}:{row}"
