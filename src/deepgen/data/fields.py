"""Reading fields of a record, with an error that names what is missing.

Shared by the sources: an error names the row, what was expected there and what was found instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepgen.data.example import Example, ImageContent, RowError, Size
from deepgen.json_values import unicode_fault
from deepgen.moved import renamed

CHECKED_ROWS = 10


class ImageFolders:
    """Where the paths of a manifest start, and the folders they may not leave.

    A manifest comes with its pictures, often from strangers, and must not name other files of the machine.
    Names are compared, not links followed: folders of links are common, and the user's own work.

    Args:
        start: relative paths are joined to it.
        others: further folders in which a path may lie.
        anywhere: no folder is closed, because the user said so.
    """

    def __init__(self, start: Path, *others: Path, anywhere: bool = False) -> None:
        self.start, self.anywhere = start, anywhere
        self._open = [Path(os.path.normpath(folder.absolute())) for folder in (start, *others)]

    def path(self, value: Any, name: str, key: str) -> Path:
        """The place of a path in field `name`; RowError for one that leaves the folders, or is no path."""
        if not isinstance(value, str) or not value:
            raise RowError(f"{key}: expected a path in field {name!r}, found {_short(value)}")
        if "\0" in value or unicode_fault(value) is not None:
            raise RowError(f"{key}: no file can have the name in field {name!r}, {_short(value)}")
        place = self.start / value
        if not self.anywhere and (".." in value or place == Path(value)):
            absolute = Path(os.path.normpath(place.absolute()))
            if not any(absolute.is_relative_to(folder) for folder in self._open):
                raise RowError(
                    f"{key}: field {name!r} names {value[:200]!r}, which lies outside of "
                    f"{' and '.join(map(str, dict.fromkeys(self._open)))}; it is not opened. If it is meant, "
                    "set the option outside=true"
                )
        return place


def text_field(record: Mapping[str, Any], name: str, key: str) -> str:
    """A field that holds text; it may be empty, since some sets carry empty captions on purpose."""
    value = _value(record, name, key)
    if not isinstance(value, str):
        raise RowError(f"{key}: expected text in field {name!r}, found {_short(value)}")
    if (place := unicode_fault(value)) is not None:
        raise RowError(f"{key}: the text in field {name!r} has half of a surrogate pair at character {place}")
    return value


def path_field(record: Mapping[str, Any], name: str, key: str, place: ImageFolders) -> Path:
    """A field that holds one path."""
    return place.path(_value(record, name, key), name, key)


def paths_field(record: Mapping[str, Any], name: str, key: str, place: ImageFolders) -> tuple[Path, ...]:
    """A field that holds a list of paths; a single path counts as a list of one."""
    value = _value(record, name, key)
    return tuple(
        place.path(part, name, key) for part in (value if isinstance(value, list | tuple) else [value])
    )


def size_value(value: Any, name: str, key: str) -> Size:
    """A [height, width] pair of whole positive numbers."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(type(side) is int and side > 0 for side in value):
        raise RowError(f"{key}: expected [height, width] in field {name!r}, found {_short(value)}")
    return value[0], value[1]


def image_value(value: Any, column: str, key: str, place: ImageFolders) -> ImageContent:
    """A cell as a picture: a path, the bytes of a file, or a struct that holds either."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        return place.path(value, column, key)
    found = "nothing" if not value else type(value).__name__
    raise RowError(
        f"{key}: expected a picture (path, bytes or a struct of them) in {column!r}, found {found}"
    )


def images_value(
    row: Mapping[str, Any], columns: Sequence[str], key: str, place: ImageFolders
) -> tuple[ImageContent, ...]:
    """The pictures of several columns in their order; a cell may hold a list of them."""
    cells = [(column, row[column]) for column in columns]
    return tuple(
        image_value(part, column, key, place)
        for column, cell in cells
        for part in (cell if isinstance(cell, list) else [cell])
    )


def original_place(manifest: str, image_dir: str | None, outside: bool) -> ImageFolders:
    """Where paths of the original's manifests start: in `image_dir`, or else in the folder one works in."""
    if image_dir is not None:
        return ImageFolders(Path(image_dir).expanduser(), anywhere=outside)
    path = Path(manifest).expanduser()
    return ImageFolders(Path(), path if path.is_dir() else path.parent, anywhere=outside)


def check_first_rows(source: Any, what: str) -> None:
    """ValueError when a source is empty or none of its first rows can be used: its settings are then wrong.

    A single bad row is no reason to refuse a set of millions; that is counted while training.
    """
    if len(source) == 0:
        raise ValueError(f"{what} holds no rows; expected at least one")
    first: RowError | None = None
    for index in range(min(CHECKED_ROWS, len(source))):
        try:
            example = source[index]
        except RowError as error:
            first = first or error
        else:
            assert isinstance(example, Example)
            return
    raise ValueError(f"none of the first rows of {what} can be used: {first}") from first


def _value(record: Mapping[str, Any], name: str, key: str) -> Any:
    if name not in record:
        found = ", ".join(sorted(map(str, record))) or "none"
        raise RowError(f"{key}: expected a field {name!r}, found the fields: {found}")
    return record[name]


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"


__getattr__ = renamed(
    __name__,
    {
        "picture_value": "deepgen.data.fields.image_value",
        "pictures_value": "deepgen.data.fields.images_value",
    },
)
