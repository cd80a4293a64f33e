"""SHA256SUMS files: the sums of every file of a saved model, in the format of the program `sha256sum`.

A damaged file of weights can load without complaint and draw noise. So whatever we save says its own sums,
and `sha256sum -c SHA256SUMS` checks them without this package. The list is written beside its final name and
renamed, after the files it lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from deepgen.checkpoints.file_hash import hash_file
from deepgen.models.containment import require_inside, require_plain
from deepgen.models.errors import CheckpointError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
LARGEST_LIST = 2**26  # bytes


def write_sums(
    folder: str | Path, entries: Iterable[str] | None = None, known: Mapping[str, str] | None = None
) -> Path:
    """Write the folder's SHA256SUMS: of every file in it, or of some and what was listed of the others.

    Args:
        folder: of a model.
        entries: files and folders in it that were written just now; what an older list says of other files
            that are still there is kept. None: everything is new. Names that begin with a dot, such as a
            Hub client's notes, are left out.
        known: sums of files that were computed as they were written, by name; not read again.

    Returns:
        The list's path.
    """
    folder, sums = Path(folder), dict(known or {})
    if entries is not None:
        sums = _kept(folder, entries) | sums
    for name, file in sorted(_files(folder, entries)):
        if known is None or name not in known:
            sums[name] = hash_file(file)
    return write_list(folder, sums)


def write_list(folder: Path, sums: Mapping[str, str]) -> Path:
    """Write these sums, by file name, as the folder's SHA256SUMS; it replaces an older one atomically."""
    target, unfinished = folder / SUMS, folder / f".{SUMS}.{os.getpid()}"
    try:
        with unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.writelines(_line(name, sums[name]) for name in sorted(sums))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def read_sums(folder: Path) -> dict[str, str]:
    """The sums of a folder by file name; empty where it has no list.

    Raises CheckpointError where the list cannot be understood, or names a file outside the folder.
    """
    path = folder / SUMS
    if not path.is_file():
        return {}
    require_inside(path, folder)
    if path.stat().st_size > LARGEST_LIST:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, which no list of sums needs")
    sums: dict[str, str] = {}
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.removesuffix("\r"))
        if match is None:
            raise CheckpointError(
                f"{path} line {number} is no line of sha256sum (64 hexadecimal digits, two spaces, a name): "
                f"{line[:80]!r}; write the list again or delete it"
            )
        name = _unescaped(match[3]) if match[1] else match[3]
        name = require_plain(name.removeprefix("./"), path)
        require_inside(folder / name, folder)
        if sums.setdefault(name, match[2].lower()) != match[2].lower():
            raise CheckpointError(f"{path} line {number}: {name} is listed twice, with two sums")
    return sums


def _line(name: str, digest: str) -> str:
    """As GNU sha256sum writes it: a line that begins with a backslash has an escaped name."""
    escaped = re.sub(r"[\\\n\r]", lambda match: _ESCAPES[match[0]], name)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def _unescaped(name: str) -> str:
    known = {escaped[1]: plain for plain, escaped in _ESCAPES.items()}
    return re.sub(r"\\(.)", lambda match: known.get(match[1], match[0]), name)


def _kept(folder: Path, entries: Iterable[str]) -> dict[str, str]:
    """What the list there says of files that were not written now and still exist."""
    new = set(entries)
    try:
        old = read_sums(folder)
    except CheckpointError:  # a file of other content under this name, or a damaged list: kept as .old
        (folder / SUMS).replace(folder / f"{SUMS}.old")
        return {}
    return {
        name: digest
        for name, digest in old.items()
        if name.split("/")[0] not in new and (folder / name).is_file()
    }


def _files(folder: Path, entries: Iterable[str] | None) -> Iterator[tuple[str, Path]]:
    """(name, file) of the files to list, names with / between folders."""
    for place in [folder] if entries is None else [folder / name for name in sorted(set(entries))]:
        if place.is_file():
            yield place.relative_to(folder).as_posix(), place
        for directory, folders, files in os.walk(place):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in files:
                file = Path(directory, name)
                if not name.startswith(".") and file.is_file() and file != folder / SUMS:
                    yield file.relative_to(folder).as_posix(), file
