"""Where examples come from: one file per format, and the file's name is the source's name.

Such a file defines `options`, a frozen dataclass of what may be set, and `source`, a class that is made from
those options. Fields called `path` or `..._dir` are places on disk, which a mixture joins to its root folder.
A name may also be the place of a class of the user's own, `mine.py:Rows` (data/own_source.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from deepgen import config
from deepgen.data.example import Example, Task
from deepgen.registry import Registry
from deepgen.user_files import split_place


def _adapted(place: str, found: Any, digest: str) -> Any:
    from deepgen.data.own_source import adapted  # here: of use to sources from elsewhere only

    return adapted(place, found, digest)


SOURCES = Registry("source", __name__, __path__, {"storybook": "deepgen.tiny.source"}, adapt=_adapted)


class Source(Protocol):
    """Examples by number. Reading one is cheap: no pixel is decoded.

    It may have `notes`, a tuple of sentences: what it repeats or left out, with counts. They are shown
    wherever data is opened.
    """

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
    return SOURCES.names()


def make_source(name: str, **options: Any) -> Source:
    """A source by its name; ValueError lists unknown names and everything wrong with the options."""
    made = SOURCES.make(name, options)
    if (place := split_place(name)) is None:
        return made
    from deepgen.data.own_source import OwnSource  # here: of use to sources from elsewhere only

    return OwnSource(make_source, str(place.path.resolve()), place.name, options, made)


def option_fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The options a source has."""
    return config.option_fields(SOURCES.load(name).options)


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a source's options, all at once; looks at no file."""
    return SOURCES.option_problems(name, options)


def options_from_text(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options as a command line gives them; lists are separated by commas. Nothing is checked beyond that."""
    return SOURCES.options_from_text(name, texts)
