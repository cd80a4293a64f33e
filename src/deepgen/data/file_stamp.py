"""What tells whether a data file is still the one that was opened.

Where rows begin and end is found once. In a file that was replaced since, the same places hold other rows, or
halves of rows; what a step holds would no longer follow from the data, so the run stops.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple


class DataChangedError(ValueError):
    """A data file that was replaced, changed or removed while it was in use."""


class FileStamp(NamedTuple):
    """Size (bytes) and time of the last change (nanoseconds) of a file."""

    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Of a file as it is now."""
        return cls._from(path.stat())

    @classmethod
    def _from(cls, stat: os.stat_result) -> FileStamp:
        return cls(stat.st_size, stat.st_mtime_ns)

    def open(self, path: Path) -> BinaryIO:
        """The file, opened for reading; DataChangedError where it is another by now."""
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise DataChangedError(f"{path} was removed while it was in use; {_REMEDY}") from error
        if (now := self._from(os.fstat(file.fileno()))) != self:
            file.close()
            sizes = (
                f"{now.size:,} bytes, before {self.size:,}" if now.size != self.size else "of the same size"
            )
            raise DataChangedError(f"{path} was replaced while it was in use ({sizes}); {_REMEDY}")
        return file


_REMEDY = "put the earlier file back and resume, or start anew with the present one"
