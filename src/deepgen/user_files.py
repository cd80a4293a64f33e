"""Python files of the user's own, named by path: run once for each content, and kept on record.

`PATH.py` or `PATH.py:NAME` stands where a name of the package would: a reward, a source, an objective, a
recipe. A file is code, so it is run only where the user named it: on the command line, or in a call from
Python. What a data file, a run's folder or a result names is refused until the user has named the same file
(`allow`). An error in such a file is one line with the file and the line where it happened.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

_PLACE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^/\\:=]*))?")
_PREFIX = "deepgen_user_file_"  # of the names of their modules

_modules: dict[tuple[Path, str], ModuleType] = {}  # by path and sha256
_run: dict[Path, str] = {}  # the files that were run, with the sha256 of what was run
_allowed: set[Path] = set()


class UserFileError(ValueError):
    """A fault in a file of the user's own; the message begins with `FILE:LINE:`."""

    def __init__(self, message: str) -> None:
        # A process that reads data sends errors as a text with its whole traceback; the last line says it.
        lines = message.strip().splitlines() or [""]
        super().__init__(lines[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


@dataclass(frozen=True)
class Place:
    """What `PATH.py` or `PATH.py:NAME` means.

    Attributes:
        path: the file, as it was written.
        name: of what is meant in it; empty for what the file says itself, as `reward = ...`.
    """

    path: Path
    name: str

    @property
    def short(self) -> str:
        """What it is called in logs and metrics: the name, or that of the file."""
        return self.name or self.path.stem

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.path}:{self.name}" if self.name else str(self.path)


def split_place(text: str) -> Place | None:
    """The place that a text names; None for a plain name."""
    match = _PLACE.fullmatch(text)
    return None if match is None else Place(Path(match["path"]).expanduser(), match["name"] or "")


def absolute(text: str) -> str:
    """The place that a text names, with a whole path; a plain name as it is."""
    place = split_place(text)
    return text if place is None else str(Place(place.path.absolute(), place.name))


def load_file(path: Path) -> ModuleType:
    """The module of a file, run once for each content.

    What is run are the bytes whose sha256 goes on record. Modules that lie beside the file are not found: no
    file is run that was not named.

    Raises:
        FileNotFoundError: there is no such file.
        UserFileError: what is wrong in it, with file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.absolute()}")
    path = path.resolve()
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if (path, digest) not in _modules:
        _modules[path, digest] = _execute(path, content, digest)
    _run[path] = digest
    return _modules[path, digest]


def _execute(path: Path, content: bytes, digest: str) -> ModuleType:
    module = ModuleType(f"{_PREFIX}{path.stem}_{digest[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    linecache.checkcache(str(path))
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever the user's code raises is a fault of that file
        del sys.modules[module.__name__]
        raise UserFileError(described(error, path)) from error
    return module


def found_in(place: Place) -> Any:
    """What a place with a name means.

    Raises:
        FileNotFoundError, UserFileError: see `load_file`.
        ValueError: the file has nothing of that name.
    """
    module = load_file(place.path)
    if not hasattr(module, place.name):
        raise ValueError(
            f"{place.path} defines no {place.name}; it defines: {', '.join(defined(module)) or 'nothing'}"
        )
    return getattr(module, place.name)


def defined(module: ModuleType) -> list[str]:
    """The classes and functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


# --- which files may be run ---------------------------------------------------------------------------------


def allow(words: Iterable[str]) -> None:
    """The user has named these files; words that name no Python file are left alone.

    Args:
        words: paths, or words of a command line such as `--rewards=mine.py:redness=1`.
    """
    for word in words:
        for text in (word, *re.split(r"[=,]", word)):
            place = split_place(text)
            if place is not None and place.path.is_file():
                _allowed.add(place.path.resolve())


def named_by(document: Path | str, text: str, folder: Path) -> str:
    """The place that a document names, with a whole path; a plain name as it is.

    Args:
        document: what names it, for the message.
        text: a name, or `PATH.py:NAME`.
        folder: where a relative path starts.

    Raises:
        ValueError: the file was not named by the user.
    """
    place = split_place(text)
    if place is None:
        return text
    path = folder / place.path
    if path.resolve() not in _allowed and path.resolve() not in _run:
        raise ValueError(
            f"{document} would run {path}, and only files that you name are run; read it, and if you trust "
            f"it, add --plugins {path}"
        )
    return str(Place(path, place.name))


# --- errors in them -----------------------------------------------------------------------------------------


def line_of(error: BaseException, path: Path | None = None) -> str | None:
    """`FILE:LINE` of the last line of a user's file that an error passed through, or None."""
    if isinstance(error, SyntaxError) and error.filename and (path is None or error.filename == str(path)):
        known = {str(each) for each in _run} | ({str(path)} if path else set())
        return f"{error.filename}:{error.lineno}" if error.filename in known else None
    names = {str(path)} if path is not None else {str(each) for each in _run}
    lines = [f"{file}:{line}" for file, line in _lines(error.__traceback__) if file in names]
    return lines[-1] if lines else None


def described(error: BaseException, path: Path | None = None) -> str:
    """An error in one line: `FILE:LINE: TypeError: ...` for one in a user's file, else without the place."""
    if isinstance(error, UserFileError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = line_of(error, path) or path
    return f"{place}: {words}" if place else words


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    for frame, line in traceback.walk_tb(trace):
        yield frame.f_code.co_filename, line


# --- what was run -------------------------------------------------------------------------------------------


def record() -> list[dict[str, str]]:
    """Path and sha256 of every file that this process has run, in the order of their paths."""
    return [{"path": str(path), "sha256": _run[path]} for path in sorted(_run)]


def digest_of(path: Path) -> str:
    """The sha256 of what was last run of a file; empty where it was not run."""
    return _run.get(path.resolve(), "")


def changed(before: Sequence[Mapping[str, str]]) -> list[str]:
    """Files of an earlier record that were run with another content now, a line each.

    A file that is not used any more, or is new, is a change of the config, and shows there.

    Args:
        before: an earlier `record()`. A folder may have moved: a file counts as the same by its name and
            content.
    """
    now: dict[str, set[str]] = {}
    for row in record():
        now.setdefault(Path(row["path"]).name, set()).add(row["sha256"])
    lines = []
    for row in before:
        path = Path(row["path"])
        digests = {_run[path]} if path in _run else now.get(path.name, {row["sha256"]})
        if row["sha256"] not in digests:
            lines.append(f"{path} (sha256 {row['sha256'][:12]} then, {min(digests)[:12]} now)")
    return lines
