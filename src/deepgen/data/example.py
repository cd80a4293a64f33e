"""One row of training data, before a pixel is decoded.

Every source, whatever its files look like, hands out this value; what follows (order, buckets, caches) knows
nothing else. Pictures stay where they are: a path, a stretch of a tar, or the bytes of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from deepgen.data.file_stamp import FileStamp
from deepgen.moved import renamed

Task = Literal["generate", "edit"]
TASKS: tuple[str, ...] = get_args(Task)
Size = tuple[int, int]  # (height, width) in pixels


class RowError(ValueError):
    """A row that cannot be used; the message begins with its key and says why."""


@dataclass(frozen=True)
class FileSlice:
    """A file inside an uncompressed archive: where its bytes begin and how many there are.

    Attributes:
        path: of the archive.
        offset, num_bytes: of the inner file.
        name: for errors.
        stamp: of the archive when this was found in it; None where that is not checked.
    """

    path: Path
    offset: int
    num_bytes: int
    name: str
    stamp: FileStamp | None = None

    def read(self) -> bytes:
        """The bytes of the inner file; DataChangedError where the archive is another by now."""
        with self.path.open("rb") if self.stamp is None else self.stamp.open(self.path) as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


ImageContent = Path | bytes | FileSlice


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Which pictures a source refuses: both sides must exceed `min_side`, the longer/shorter stay below
    `max_ratio`.
    """

    min_side: int = 0
    max_ratio: float = float("inf")

    def __post_init__(self) -> None:
        """Refuse limits that no picture meets."""
        if self.min_side < 0 or self.max_ratio <= 1:
            raise ValueError(
                f"expected min_side >= 0 and max_ratio > 1, got {self.min_side}, {self.max_ratio}"
            )

    def check(self, size: Size, key: str) -> None:
        """RowError for a picture of (height, width) outside the limits."""
        if min(size) <= self.min_side:
            raise RowError(f"{key}: {size[1]}x{size[0]} pixels; both sides must exceed {self.min_side}")
        if max(size) >= self.max_ratio * min(size):
            raise RowError(
                f"{key}: {size[1]}x{size[0]} pixels; the longer side must stay below {self.max_ratio:g} "
                "times the shorter"
            )


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training example: text, reference pictures, and the target picture.

    Attributes:
        key: "file:row" or "tar!member", for errors and logs.
        references: the pictures given to an edit, in the order the text counts them; none to generate.
        size: (height, width) of the target as a viewer shows it, where the manifest knows it.
        reference_sizes: the same of each reference.
        limits: what the source refuses, judged once the size is known.
    """

    task: Task
    text: str
    target: ImageContent
    key: str
    references: tuple[ImageContent, ...] = ()
    language: str | None = None
    size: Size | None = None
    reference_sizes: tuple[Size, ...] | None = None
    limits: ImageLimits | None = None

    def __post_init__(self) -> None:
        """RowError for what contradicts itself."""
        if self.task not in TASKS:
            raise RowError(f"{self.key}: expected task {' or '.join(TASKS)}, found {self.task!r}")
        if self.task == "edit" and not self.references:
            raise RowError(f"{self.key}: an edit needs at least one input picture, found none")
        if self.task == "generate" and self.references:
            raise RowError(
                f"{self.key}: input pictures are for edits, found {len(self.references)} in a row to generate"
            )
        if self.reference_sizes is not None and len(self.reference_sizes) != len(self.references):
            raise RowError(
                f"{self.key}: {len(self.references)} input pictures but {len(self.reference_sizes)} sizes"
            )


__getattr__ = renamed(
    __name__, {"Limits": "deepgen.data.example.ImageLimits", "Picture": "deepgen.data.example.ImageContent"}
)
