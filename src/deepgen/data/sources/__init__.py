"""Where examples come from: one file per format, and the file's name is the source's name.

Such a file defines `options`, a frozen dataclass of what may be set, and `source`, a class that is made from
those options. Fields called `path` or `..._dir` are places on disk, which a mixture joins to its root folder.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

from deepgen import config
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
    return module.source(config.build(module.options, options))


def option_fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The options a source has."""
    return config.option_fields(_module(name).options)


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a source's options, all at once; looks at no file."""
    if name not in source_names():
        return [f"unknown source {name!r}; known: {', '.join(source_names())}"]
    return config.problems_with(_module(name).options, options, name)


def options_from_text(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options as a command line gives them; lists are separated by commas. Nothing is checked beyond that."""
    return config.from_texts(_module(name).options, texts)


def _module(name: str) -> Any:
    if name not in source_names():
        raise ValueError(f"unknown source {name!r}; known: {', '.join(source_names())}")
    return importlib.import_module(f"{__name__}.{name}")
