"""Registries of data sources, rewards, objectives and benchmarks: one file each, named as the thing is.

The registry is the folder itself, so a new file is all that a new thing takes. Things of the embedded world
lie in `deepgen/tiny`, beside that world, and are listed by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType

from deepgen.suggestions import suggestion_or_all


class Registry:
    """The modules of one folder, by name.

    Args:
        kind: what they are, in messages: "reward".
        package: the dotted name of their folder.
        path: its `__path__`.
        elsewhere: dotted names of modules that belong to the registry and lie in another folder, by name.
    """

    def __init__(
        self, kind: str, package: str, path: Iterable[str], elsewhere: Mapping[str, str] | None = None
    ) -> None:
        self.kind, self._package, self._path = kind, package, path
        self._elsewhere = dict(elsewhere or {})

    def names(self) -> list[str]:
        """All of them, sorted. Nothing is imported."""
        return sorted([*(module.name for module in pkgutil.iter_modules(self._path)), *self._elsewhere])

    def problem(self, name: str) -> str | None:
        """Why there is no such name, with the nearest one or those there are; None where there is one."""
        names = self.names()
        return None if name in names else f"unknown {self.kind} {name!r}{suggestion_or_all(name, names)}"

    def load(self, name: str) -> ModuleType:
        """The module of that name; ValueError lists the names there are."""
        if problem := self.problem(name):
            raise ValueError(problem)
        return importlib.import_module(self._elsewhere.get(name, f"{self._package}.{name}"))
