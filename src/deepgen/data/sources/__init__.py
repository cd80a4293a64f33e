"""Where examples come from: one file per format, and the file's name is the source's name.

Such a file defines `options`, a frozen dataclass of what may be set, and `source`, a class that is made from
those options. Fields called `path` or `..._dir` are places on disk, which a mixture joins to its root folder.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import types
import typing
from collections.abc import Mapping
from typing import Any, Protocol

from deepgen.data.example import Example, Task


class Source(Protocol):
    """Examples by number. Reading one is cheap: no pixel is decoded."""

    @property
    def task(self) -> Task:
        """What every example of this source is for."""
        ...

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Row `index`, or RowError when it cannot be used."""
        ...


def source_names() -> list[str]:
    """The sources there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_source(name: str, **options: Any) -> Source:
    """A source by its name; ValueError lists unknown names and everything wrong with the options."""
    problems = option_problems(name, options)
    if problems:
        raise ValueError(f"source {name}: {'; '.join(problems)}")
    module = _module(name)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return module.source(module.options(**values))


def option_fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The options a source has."""
    return {field.name: field for field in dataclasses.fields(_module(name).options)}


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a source's options, all at once; looks at no file."""
    if name not in source_names():
        return [f"unknown source {name!r}; known: {', '.join(source_names())}"]
    fields = option_fields(name)
    hints = typing.get_type_hints(_module(name).options)
    problems = [
        f"unknown option {key!r}; {name} has: {', '.join(fields)}" for key in options if key not in fields
    ]
    problems += [
        f"{key} is missing"
        for key, field in fields.items()
        if key not in options and field.default is dataclasses.MISSING
    ]
    problems += [
        f"{key} must be {_in_words(hints[key])}, got {options[key]!r}"
        for key in fields
        if key in options and not _fits(options[key], hints[key])
    ]
    return problems


def options_from_text(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options as a command line gives them; lists are separated by commas. Nothing is checked beyond that."""
    hints = typing.get_type_hints(_module(name).options)
    return {key: _from_text(text, hints.get(key, str)) for key, text in texts.items()}


def _module(name: str) -> Any:
    if name not in source_names():
        raise ValueError(f"unknown source {name!r}; known: {', '.join(source_names())}")
    return importlib.import_module(f"{__name__}.{name}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a file or a command line may stand for a type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _from_text(text: str, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
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
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return " or ".join(_in_words(part) for part in parts) if parts else words.get(hint.__name__, str(hint))
