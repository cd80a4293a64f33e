"""A data source of the user's own, by the place of its class: `mine.py:Rows`.

Processes that read ahead get the source by the place of its class and its options, because they cannot
import the user's file by a name. What goes wrong in the class is one line with the file and the line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deepgen.data.example import TASKS, Example, RowError, Task
from deepgen.registry import options_of
from deepgen.user_files import UserFileError, described, digest_of

_NEEDED = ("__len__", "__getitem__")


def adapted(place: str, found: Any, digest: str) -> SimpleNamespace:
    """`source` and `options` of a class; ValueError where it is none, or lacks something."""
    if not inspect.isclass(found):
        raise ValueError(
            f"{place} is {type(found).__name__}; a source is a class with task, __len__ and __getitem__"
        )
    lacking = [name for name in _NEEDED if not hasattr(found, name)]
    if lacking:
        raise ValueError(f"{place} lacks {' and '.join(lacking)}; a source has task, __len__ and __getitem__")
    return SimpleNamespace(source=found, options=options_of(found))


class OwnSource:
    """The user's source, as the rest of the package sees it.

    Args:
        make: makes a source from a place and options.
        path: of the file.
        name: of the class in it; empty for the file's `source`.
        options: what it was made with.
        made: the source itself.
    """

    def __init__(
        self, make: Callable[..., Any], path: str, name: str, options: Mapping[str, Any], made: Any
    ) -> None:
        self._make, self._path, self._name, self._options, self._made = make, path, name, dict(options), made
        self._digest = digest_of(Path(path))
        task = getattr(made, "task", None)
        if task not in TASKS:
            raise ValueError(f"{self._place}: task is {' or '.join(TASKS)}, got {task!r}")
        self.task: Task = task

    @property
    def _place(self) -> str:
        return f"{self._path}:{self._name}" if self._name else self._path

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> Example:
        """Row `index`; RowError when it cannot be used, UserFileError for a fault of the class."""
        try:
            example = self._made[index]
        except RowError:
            raise
        except Exception as error:  # whatever the user's code raises is a fault of that file
            raise UserFileError(f"{described(error)} (row {index} of {self._place})") from error
        if not isinstance(example, Example):
            raise UserFileError(
                f"{self._place}: row {index} is {type(example).__name__}; a source returns "
                "deepgen.data.example.Example"
            )
        return example

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._make, self._path, self._name, self._options, self._digest)


def _again(make: Callable[..., Any], path: str, name: str, options: Mapping[str, Any], digest: str) -> Any:
    made = make(f"{path}:{name}" if name else path, **options)
    if digest_of(Path(path)) != digest:
        raise UserFileError(f"{path} was changed while it was in use; start again")
    return made
