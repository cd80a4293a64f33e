"""Options from files and command lines, checked against the fields of a frozen dataclass.

Whatever lives in a folder as a registry (data sources, rewards) is checked here, all problems at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Options = TypeVar("Options")


# What a number may be: least and most.
SHARE, COUNT, NOT_NEGATIVE = (0.0, 1.0), (1.0, math.inf), (0.0, math.inf)
POSITIVE, BELOW_ONE = (math.nextafter(0, 1), math.inf), (0.0, math.nextafter(1, 0))
_SAID = {
    SHARE: "from 0 to 1",
    COUNT: "at least 1",
    NOT_NEGATIVE: "at least 0",
    POSITIVE: "above 0",
    BELOW_ONE: "at least 0 and below 1",
}


def check_bounds(config: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """ValueError for the first number in a config that is not within its bounds, NaN included.

    Args:
        config: a dataclass.
        bounds: field -> one of SHARE, COUNT, NOT_NEGATIVE, POSITIVE and BELOW_ONE. Fields that the config has
            not, and values that are no numbers, are left out.
    """
    for name, (least, most) in bounds.items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and not least <= value <= most:
            raise ValueError(f"{name} must be {_SAID[least, most]}, got {value}")


def option_fields(options: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields that may be set, in their order."""
    return {field.name: field for field in dataclasses.fields(options)}


def problems_with(options: type, given: Mapping[str, Any], owner: str) -> list[str]:
    """What is wrong with the values given for a dataclass of options: unknown, missing, of the wrong type."""
    fields = option_fields(options)
    hints = typing.get_type_hints(options)
    known = ", ".join(fields) or "none"
    problems = [f"unknown option {key!r}; {owner} has: {known}" for key in given if key not in fields]
    problems += [
        f"{key} is missing"
        for key, field in fields.items()
        if key not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    problems += [
        f"{key} must be {_in_words(hints[key])}, got {given[key]!r}"
        for key in fields
        if key in given and not _fits(given[key], hints[key])
    ]
    return problems


def build(options: type[Options], given: Mapping[str, Any]) -> Options:
    """The dataclass of values that have been checked; lists become tuples."""
    return options(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    )


def from_texts(options: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """Values as a command line gives them; lists, and pairs `name=number`, are separated by commas. Nothing
    is checked beyond that.
    """
    hints = typing.get_type_hints(options)
    return {key: _from_text(text, hints.get(key, str)) for key, text in texts.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a file or a command line may stand for a type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    if typing.get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(
            isinstance(name, str) and _fits(number, float) for name, number in value.items()
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _from_text(text: str, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):  # "X | None": a text is never None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if typing.get_origin(hint) is Mapping:
        pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
        if any(len(pair) < 2 for pair in pairs):
            return text  # refused with all other wrong options
        return {name.strip(): _from_text(number, float) for name, number in pairs}
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            return text  # refused with all other wrong options
    return text


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(typing.get_args(hint))
    words = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    if typing.get_origin(hint) is tuple:
        return "a list of texts"
    if typing.get_origin(hint) is Mapping:
        return "numbers by name"
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return " or ".join(_in_words(part) for part in parts) if parts else words.get(hint.__name__, str(hint))
