"""Old import paths and names, kept for one release: they work, and a DeprecationWarning says the new one.

Nothing is imported before an old name is used. `old_paths.py` has the table of modules; a module whose
classes got new names says so itself:

    __getattr__ = renamed(__name__, {"OldName": "deepgen.folder.module.NewName"})
"""

from __future__ import annotations

import importlib
import importlib.util
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


class OldModules(MetaPathFinder, Loader):
    """Finds modules at their old paths; each hands out the names of the new one.

    Args:
        folders: old package to the new one whose modules kept their names.
        modules: old module to the new one, where more than the folder changed.
        names: by old module, names that changed too, as in `renamed`.
    """

    def __init__(
        self,
        folders: Mapping[str, str],
        modules: Mapping[str, str],
        names: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._folders, self._modules, self._names = folders, modules, names

    def register(self) -> None:
        """Ask this finder for every module that Python finds nowhere else."""
        sys.meta_path.append(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("deepgen.") or self._new_path(fullname) is None:
            return None
        return ModuleSpec(fullname, self, is_package=self._is_package(fullname))

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = self._new_path(old)
        assert new is not None  # find_spec asked
        # 2: the line that imports the old module; frames of the import machinery do not count
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        module.__doc__ = f"Old path of `{new}`."
        module.__getattr__ = renamed(old, self._names.get(old, {}), rest=new)  # type: ignore[method-assign]

    def _new_path(self, old: str) -> str | None:
        if old in self._modules:
            return self._modules[old]
        for folder, new_folder in self._folders.items():
            if old == folder or old.startswith(f"{folder}."):
                new = new_folder + old.removeprefix(folder)
                return new if importlib.util.find_spec(new) is not None else None
        return None

    def _is_package(self, old: str) -> bool:
        listed = (*self._folders, *self._modules)
        new = importlib.util.find_spec(self._new_path(old) or "")
        is_package = new is not None and new.submodule_search_locations is not None
        return is_package or old in self._folders or any(name.startswith(f"{old}.") for name in listed)
