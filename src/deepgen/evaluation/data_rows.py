"""Rows of official files as items: one with a null or absent field is a finding of its item, not of the run.

Official files hold what they should and are checked by their hashes. Files of one's own and later revisions
(`--allow-altered-data`) may not: a row that cannot be read becomes an item with a `fault`, which is neither
drawn nor graded and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deepgen.evaluation.benchmark import Item

UNREADABLE = "unreadable rows"  # their category
_STUMBLES = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def items_of(
    label: str, rows: Iterable[tuple[str, Any]], make: Callable[[str, Any], Item]
) -> tuple[list[Item], list[str]]:
    """(items, what is wrong with rows, one line each).

    Args:
        label: of the benchmark.
        rows: names and rows; the name is the item's where the row cannot be read.
        make: a name and a row to an item.
    """
    items, problems = [], []
    for name, row in rows:
        try:
            item = make(name, row)
            if not item.prompt.strip():
                raise ValueError("its prompt is empty")
        except _STUMBLES as error:
            fault = f"its row in the data cannot be read: {_reason(row, error)}"
            item = Item(id=_safe(name), category=UNREADABLE, prompt="", fault=fault)
            problems.append(f"{label}: {name}: {fault}")
        items.append(item)
    return items, problems


def named(rows: Iterable[Any], key: str, before: str = "") -> list[tuple[str, Any]]:
    """(name, row): by a field where it names something, else by the place in the file."""
    found = []
    for index, row in enumerate(rows):
        try:
            found.append((f"{before}{name_of(row, key)}", row))
        except _STUMBLES:
            found.append((f"{before}row{index}", row))
    return found


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A field that has to be a text."""
    if not isinstance(row[key], str):
        raise ValueError(f"{key} is {_short(row[key])} instead of a text")
    return row[key]


def name_of(row: Mapping[str, Any], key: str) -> str:
    """A field that names something: a text that is not empty, or a whole number."""
    if isinstance(row[key], bool) or not isinstance(row[key], str | int) or row[key] == "":
        raise ValueError(f"{key} is {_short(row[key])} instead of a name")
    return str(row[key])


def _reason(row: Any, error: Exception) -> str:
    if not isinstance(row, Mapping):
        return f"it is {_short(row)}"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, ValueError):
        return str(error)
    nulls = [str(key) for key, value in row.items() if value is None]
    return f"{', '.join(nulls)} without a value" if nulls else f"{type(error).__name__}: {error}"


def _short(value: Any) -> str:
    return "null" if value is None else repr(value)[:60]


def _safe(name: str) -> str:
    """A name that can be part of a path."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".")
