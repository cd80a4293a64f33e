"""Old import paths and names, kept for one release: they work, and a DeprecationWarning says the new one.

Nothing is imported before an old name is used. A module whose classes got new names says so itself:

    __getattr__ = renamed(__name__, {"OldName": "deepgen.folder.module.NewName"})

A folder that moved keeps an `__init__.py` that calls `keep_modules`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def renamed(module: str, names: Mapping[str, str], rest: str | None = None) -> Callable[[str], Any]:
    """The `__getattr__` of a module some of whose names are elsewhere now.

    Args:
        module: its own name.
        names: old name to the dotted path of the new one.
        rest: a module that has all other names, under the names they had.
    """

    def find(name: str) -> Any:
        target = names.get(name)
        if target is not None:
            # 2: the line that uses the old name
            warnings.warn(f"{module}.{name} is now {target}", DeprecationWarning, stacklevel=2)
            home, _, attribute = target.rpartition(".")
            return getattr(importlib.import_module(home), attribute)
        if rest is not None and not name.startswith("__"):
            return getattr(importlib.import_module(rest), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def keep_modules(modules: Mapping[str, str], names: Mapping[str, Mapping[str, str]]) -> None:
    """Make old modules importable.

    Args:
        modules: old module to the new one that has its names.
        names: by old module, names that changed too, as in `renamed`.
    """
    sys.meta_path.append(_OldModules(modules, names))


class _OldModules(MetaPathFinder, Loader):
    """Finds modules at their old paths; each hands out the names of the new one."""

    def __init__(self, modules: Mapping[str, str], names: Mapping[str, Mapping[str, str]]) -> None:
        self._modules, self._names = modules, names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._modules:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self._modules)
        return ModuleSpec(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, self._modules[module.__name__]
        # 2: the line that imports the old module; frames of the import machinery do not count
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        module.__doc__ = f"Old path of `{new}`."
        module.__getattr__ = renamed(old, self._names.get(old, {}), rest=new)  # type: ignore[method-assign]
