"""Names of files that rows of a prompt file ask for, checked before anything is drawn.

A file of prompts comes from anywhere. A name that leaves the folder, or that no disk takes, is an error of
its row; found after an hour of drawing it would end the others.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from deepgen.cli.outputs import check_file_name

MOST_BYTES = 200  # of one name: file systems have 255, and a picture is written under a longer name first
MOST_BYTES_OF_PATH = 1000
# Of Unicode's direction of writing: with them a name is shown as another than it is.
_TURNING = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def check_name(given: str) -> PurePosixPath:
    """A picture's name below the output folder; ValueError for one that cannot be, or should not."""
    shown = repr(given if len(given) <= 60 else f"{given[:60]}...")
    wrong = next(
        (letter for letter in given if unicodedata.category(letter) == "Cc" or letter in _TURNING), None
    )
    if wrong is not None:
        raise ValueError(f"name {shown} holds the control character {wrong!r}")
    kinds: tuple[PurePath, ...] = (PurePosixPath(given), PureWindowsPath(given))
    if any(path.anchor or path.drive or ".." in path.parts for path in kinds):
        raise ValueError(f"name {shown} must lie below the output folder")
    name = PurePosixPath(given)
    if (longest := max((len(part.encode()) for part in name.parts), default=0)) > MOST_BYTES:
        raise ValueError(f"name {shown} has a part of {longest} bytes, more than {MOST_BYTES}")
    if (size := len(given.encode())) > MOST_BYTES_OF_PATH:
        raise ValueError(f"name {shown} has {size} bytes, more than {MOST_BYTES_OF_PATH}")
    check_file_name(Path(name), "name")
    return name


class TakenNames:
    """Names of earlier rows, so that none is asked for twice and none is also a folder of another."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def check(self, name: str) -> None:
        """ValueError where the name cannot stand beside the earlier ones."""
        if name in self._files:
            raise ValueError(f"name {name!r} was given to an earlier line")
        if name in self._folders:
            raise ValueError(f"name {name!r} is the folder of an earlier line's picture")
        if taken := next((parent for parent in _parents(name) if parent in self._files), None):
            raise ValueError(f"name {name!r} lies in a folder, but {taken!r} is a picture of an earlier line")

    def add(self, name: str) -> None:
        """Note a name that was checked."""
        self._files.add(name)
        self._folders.update(_parents(name))


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]


def check_place(target: Path, folder: Path) -> None:
    """ValueError where something else than a file stands at a picture's place, or at its folder's."""
    if target.is_dir():
        raise ValueError(f"there is a folder at {target}; move it, or give the row another name")
    for parent in target.parents:
        if parent == folder:
            return
        if parent.is_file():
            raise ValueError(f"there is a file at {parent}, where a folder is needed; give another name")
