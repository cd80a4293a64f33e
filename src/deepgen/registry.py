"""Registries of data sources, rewards, objectives and benchmarks: one file each, named as the thing is.

The registry is the folder itself, so a new file is all that a new thing takes. Things of the embedded world
lie in `deepgen/tiny`, beside that world, and are listed by name. Without editing the package there are two
more ways: an installed package offers things by the entry point group `deepgen.rewards` (or sources,
objectives, benchmarks, recipes), and a file of one's own is named by its path, `mine.py:redness`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from deepgen import config
from deepgen.suggestions import suggestion_or_all
from deepgen.user_files import Place, defined, digest_of, found_in, load_file, split_place

logger = logging.getLogger(__name__)

# What a class, function or value becomes that is no file of the folder: something with the same names in it.
Adapter = Callable[[str, Any, str], Any]


class Registry:
    """The modules of one folder, by name.

    Args:
        kind: what they are, in messages, and the name that a file gives its own: "reward".
        package: the dotted name of their folder.
        path: its `__path__`.
        elsewhere: dotted names of modules that belong to the registry and lie in another folder, by name.
        adapt: makes of (place or name, what is there, sha256 of its file or "") what a file of the folder
            holds; ValueError where it is something else.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        path: Iterable[str],
        elsewhere: Mapping[str, str] | None = None,
        *,
        adapt: Adapter | None = None,
    ) -> None:
        self.kind, self._package, self._path = kind, package, path
        self._elsewhere = dict(elsewhere or {})
        self._adapt = adapt or (lambda name, found, digest: SimpleNamespace(**{kind: found}))
        self.group = f"deepgen.{kind}s"

    def names(self) -> list[str]:
        """All of them, sorted. Nothing is imported."""
        return sorted([*self._own(), *self._packaged()])

    def problem(self, name: str) -> str | None:
        """Why there is no such name, with the nearest one or those there are; None where there is one."""
        if (place := split_place(name)) is not None:
            return self._problem_of(place)
        if name in self._own():
            return None
        names = self.names()
        return None if name in names else f"unknown {self.kind} {name!r}{suggestion_or_all(name, names)}"

    def short(self, name: str) -> str:
        """What a name or `PATH.py:NAME` is called in logs."""
        place = split_place(name)
        return name if place is None else place.short

    def load(self, name: str) -> Any:
        """The module of that name, or what stands for it; the code of a file given by its path is run.

        Raises:
            FileNotFoundError, ValueError: there is none, its name is taken, or what is wrong with it.
        """
        if (place := split_place(name)) is not None:
            return self._of_file(place)
        if problem := self.problem(name):
            raise ValueError(problem)
        if name not in self._own():
            return self._of_point(self._packaged()[name])
        return importlib.import_module(self._elsewhere.get(name, f"{self._package}.{name}"))

    def make(self, name: str, given: Mapping[str, Any]) -> Any:
        """What a name stands for, made with options; ValueError names everything that is wrong with them."""
        if problems := self.option_problems(name, given):
            raise ValueError(f"{self.kind} {name}: {'; '.join(problems)}")
        module = self.load(name)
        kind = getattr(module, self.kind)
        return kind() if module.options is NoOptions else kind(config.build(module.options, given))

    def option_problems(self, name: str, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with options, all at once; looks at no file of theirs and asks no service."""
        if problem := self.problem(name):
            return [problem]
        return config.problems_with(self.load(name).options, given, name)

    def options_from_text(self, name: str, texts: Mapping[str, str]) -> dict[str, Any]:
        """Options as a command line gives them; lists are separated by commas. Nothing is checked beyond
        that.
        """
        return config.from_texts(self.load(name).options, texts)

    def _own(self) -> list[str]:
        return [*(module.name for module in pkgutil.iter_modules(self._path)), *self._elsewhere]

    # --- files of one's own

    def _problem_of(self, place: Place) -> str | None:
        if not place.path.is_file():
            return f"there is no file {place.path.absolute()}"
        return self.clash(place.short, place)

    def clash(self, name: str, whose: object) -> str | None:
        """Why something from elsewhere cannot have a name: there is one of that name."""
        if name not in self.names():
            return None
        return f"{whose} is called {name}, as a {self.kind} that there is; give yours another name"

    def _of_file(self, place: Place) -> Any:
        if place.path.is_file() and (problem := self._problem_of(place)):
            raise ValueError(problem)
        if place.name:
            return self._adapt(str(place), found_in(place), digest_of(place.path))
        module = load_file(place.path)
        if hasattr(module, self.kind):
            return self._complete(str(place), module)
        known = defined(module)
        raise ValueError(
            f"{place.path} defines no {self.kind}: it ends with `{self.kind} = ...`"
            + (f", or name what you mean in it, as {place.path}:{known[0]}" if known else "")
        )

    def _complete(self, name: str, module: ModuleType) -> Any:
        """A file that is written as one of the folder; what it leaves out is made."""
        digest = digest_of(Path(module.__file__)) if module.__file__ else ""
        found = getattr(module, self.kind)
        made = self._adapt(name, found, digest)
        if hasattr(module, "options") and isinstance(found, type):  # a function says its options itself
            made.options = module.options
        return made

    # --- installed packages

    def _packaged(self) -> dict[str, metadata.EntryPoint]:
        return _entry_points(self.kind, self.group, tuple(self._own()))

    def _of_point(self, point: metadata.EntryPoint) -> Any:
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self.kind} {point.name} of {point.value} cannot be loaded: {error}"
            ) from error
        if isinstance(found, ModuleType):
            if not hasattr(found, self.kind):
                raise ValueError(f"{self.kind} {point.name}: {point.value} defines no {self.kind}")
            return self._complete(point.name, found)
        return self._adapt(point.name, found, "")


@dataclass(frozen=True)
class NoOptions:
    """The options of what has nothing to set."""


def options_of(made: type) -> type:
    """The dataclass of options that a class is made from, read from its `__init__`; `NoOptions` for none."""
    hints = typing.get_type_hints(made.__init__)
    hints.pop("return", None)
    found = [hint for hint in hints.values() if isinstance(hint, type) and is_dataclass(hint)]
    needed = [
        parameter.name
        for parameter in list(inspect.signature(made).parameters.values())
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if not needed:
        return NoOptions
    if len(needed) > 1 or not found:
        raise ValueError(
            f"{made.__name__} is made from {', '.join(needed)}; it takes nothing, or one frozen dataclass of "
            "options, as `def __init__(self, options: MyOptions)`"
        )
    return found[0]


@cache
def _entry_points(kind: str, group: str, taken: tuple[str, ...]) -> dict[str, metadata.EntryPoint]:
    """Entry points of installed packages by name; a name that is taken is left out, and that is said."""
    found: dict[str, metadata.EntryPoint] = {}
    twice = set()
    for point in metadata.entry_points(group=group):
        if point.name in taken:
            logger.warning(
                "%s offers a %s %s, which deepgen has itself; it is left out", point.value, kind, point.name
            )
        elif point.name in found and found[point.name].value != point.value:
            twice.add(point.name)
            logger.warning(
                "%s and %s both offer a %s %s; both are left out",
                found[point.name].value,
                point.value,
                kind,
                point.name,
            )
        else:
            found[point.name] = point
    return {name: point for name, point in found.items() if name not in twice}
