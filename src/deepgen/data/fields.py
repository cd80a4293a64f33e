"""Reading fields of a record, with an error that names what is missing.

Shared by the sources: an error names the row, what was expected there and what was found instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepgen.data.example import Example, ImageContent, RowError, Size
from deepgen.moved import renamed

CHECKED_ROWS = 10


def text_field(record: Mapping[str, Any], name: str, key: str) -> str:
    """A field that holds text; it may be empty, since some sets carry empty captions on purpose."""
    value = _value(record, name, key)
    if not isinstance(value, str):
        raise RowError(f"{key}: expected text in field {name!r}, found {_short(value)}")
    return value


def path_field(record: Mapping[str, Any], name: str, key: str, folder: Path) -> Path:
    """A field that holds one path, joined to `folder` unless it is absolute."""
    return _path(_value(record, name, key), name, key, folder)


def paths_field(record: Mapping[str, Any], name: str, key: str, folder: Path) -> tuple[Path, ...]:
    """A field that holds a list of paths; a single path counts as a list of one."""
    value = _value(record, name, key)
    return tuple(
        _path(part, name, key, folder) for part in (value if isinstance(value, list | tuple) else [value])
    )


def size_value(value: Any, name: str, key: str) -> Size:
    """A [height, width] pair of whole positive numbers."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(type(side) is int and side > 0 for side in value):
        raise RowError(f"{key}: expected [height, width] in field {name!r}, found {_short(value)}")
    return value[0], value[1]


def image_value(value: Any, column: str, key: str, folder: Path) -> ImageContent:
    """A cell as a picture: a path, the bytes of a file, or a struct that holds either."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        return folder / value
    found = "nothing" if not value else type(value).__name__
    raise RowError(
        f"{key}: expected a picture (path, bytes or a struct of them) in {column!r}, found {found}"
    )


def images_value(
    row: Mapping[str, Any], columns: Sequence[str], key: str, folder: Path
) -> tuple[ImageContent, ...]:
    """The pictures of several columns in their order; a cell may hold a list of them."""
    cells = [(column, row[column]) for column in columns]
    return tuple(
        image_value(part, column, key, folder)
        for column, cell in cells
        for part in (cell if isinstance(cell, list) else [cell])
    )


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


def _path(value: Any, name: str, key: str, folder: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise RowError(f"{key}: expected a path in field {name!r}, found {_short(value)}")
    return folder / value


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
