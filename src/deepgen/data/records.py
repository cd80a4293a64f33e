"""Records of JSON files, read one at a time.

A manifest of 35 million rows is several gigabytes of text and ten times that as dictionaries, in every
process. So only where each record begins and ends is kept, 16 bytes a row; for large files that list lies
in a cache folder and is memory-mapped, shared by all processes of a machine.

A `.json` file holds one array of objects, a `.jsonl` file one object a line; a folder stands for its files,
in the order of their names.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from deepgen.data.example import RowError
from deepgen.data.file_stamp import FileStamp
from deepgen.text_lines import json_value, shown

logger = logging.getLogger(__name__)

CACHED_FROM_BYTES = 32 * 2**20  # smaller files are indexed so quickly that a cache does not pay
_CHUNK = 2**24
_SPACE = " \t\r\n"


class RecordFile(Sequence[dict[str, Any]]):
    """The records of one file. Opened for each read, so that it can be sent to worker processes."""

    def __init__(self, path: Path, cache_dir: Path | None = None) -> None:
        self.path, self.stamp = path, FileStamp.of(path)
        self._cache: Path | None = None
        if self.stamp.size < CACHED_FROM_BYTES:
            self._spans = _find_spans(path)
        else:
            self._cache = kept_index(path, ".spans.npy", cache_dir, lambda: _find_spans(path))
            self._spans = np.load(self._cache, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, row: int) -> dict[str, Any]:  # type: ignore[override]
        begin, end = (int(x) for x in self._spans[row])
        with self.stamp.open(self.path) as file:
            file.seek(begin)
            content = file.read(end - begin)
        try:
            record = json_value(content)
        except ValueError as error:
            raise RowError(f"{self.key(row)}: {error}{self._line(row)}") from error
        if not isinstance(record, dict):
            raise RowError(f"{self.key(row)}: expected an object, found {type(record).__name__}")
        return record

    def key(self, row: int) -> str:
        """Names a record in errors and logs; rows count from 0."""
        return f"{self.path}:{row}"

    def _line(self, row: int) -> str:
        """Where a row of a .jsonl file stands, from 1; empty lines are no rows, so the two may differ."""
        if self.path.suffix.lower() != ".jsonl":
            return ""
        begin = np.asarray(self._spans[: row + 1, 0])
        starts = np.concatenate([[0], np.asarray(self._spans[:row, 1]) + 1])  # after the line before
        line = row + 1
        with self.path.open("rb") as file:
            for gap in np.flatnonzero(begin != starts):
                file.seek(int(starts[gap]))
                line += file.read(int(begin[gap] - starts[gap])).count(b"\n")
        return f" (line {line} of the file)"

    def __getstate__(self) -> dict[str, Any]:
        """A mapped list is sent as its file's name."""
        return {**self.__dict__, "_spans": None} if self._cache else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The other side of `__getstate__`."""
        self.__dict__.update(state)
        if self._cache:
            self._spans = np.load(self._cache, mmap_mode="r")


class Records(Sequence[dict[str, Any]]):
    """The records of a file, or of all files of some kinds in a folder."""

    def __init__(
        self, path: str | Path, suffixes: Sequence[str] = (".json",), cache_dir: Path | None = None
    ) -> None:
        self.files = [RecordFile(file, cache_dir) for file in find_files(path, suffixes)]
        self.notes = hidden_files(path, suffixes)
        self._ends = list(accumulate(len(file) for file in self.files))
        if not self._ends[-1]:
            raise ValueError(f"{path} holds no records; expected at least one")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        file, row = self.locate(index)
        return file[row]

    def key(self, index: int) -> str:
        """Names a record in errors and logs, as `file:row`."""
        file, row = self.locate(index)
        return file.key(row)

    def locate(self, index: int) -> tuple[RecordFile, int]:
        """Which file a record is in, and which of its rows."""
        if not 0 <= index < len(self):
            raise IndexError(f"expected a row in [0, {len(self)}), got {index}")
        number = bisect_right(self._ends, index)
        return self.files[number], index - (self._ends[number - 1] if number else 0)


def find_files(path: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """The file itself, or the folder's files of these kinds in the order of their names; never none."""
    place = Path(path).expanduser()
    kinds = " or ".join(suffixes)
    if place.is_file():
        if place.suffix.lower() not in suffixes:
            raise ValueError(f"expected a {kinds} file, got {place}")
        return [place]
    if not place.exists():
        raise FileNotFoundError(
            f"there is nothing at {place.absolute()}; expected a {kinds} file or a folder of them"
        )
    # Names that begin with a dot are what a Mac, or a program that was interrupted, leaves beside the others.
    files = sorted(
        file for file in place.iterdir() if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(f"the folder {place.absolute()} holds no {kinds} file")
    return files


def hidden_files(path: str | Path, suffixes: Sequence[str]) -> tuple[str, ...]:
    """A note about files of these kinds that `find_files` passes over in a folder, where there are any."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return ()
    names = sorted(
        file.name for file in place.iterdir() if file.suffix.lower() in suffixes and file.name.startswith(".")
    )
    if not names:
        return ()
    more = ", ..." if len(names) > 1 else ""
    return (f"passed over: {len(names)} file(s) whose names begin with a dot ({shown(names[0])}{more})",)


def cache_path(source: Path, suffix: str, cache_dir: Path | None = None) -> Path:
    """Where something made from a file is kept; another name once the file changes."""
    stat = source.stat()
    text = f"{source.resolve()}/{stat.st_size}/{stat.st_mtime_ns}".encode()
    folder = cache_dir or _home() / ".cache" / "deepgen" / "index"
    return folder / f"{source.name}-{hashlib.blake2b(text, digest_size=8).hexdigest()}{suffix}"


def kept_index(
    source: Path, suffix: str, cache_dir: Path | None, make: Callable[[], np.ndarray | bytes]
) -> Path:
    """The file with what was made from a data file, made now where it is not there.

    Where the cache folder cannot be written, it goes into a folder of this process alone, and this is said.
    """
    path = cache_path(source, suffix, cache_dir)
    with suppress(OSError):  # where the folder may not be read
        if path.exists():
            return path
    content = make()
    try:
        write_whole(path, content)
    except OSError as error:
        own = _folder_of_this_process() / path.name
        logger.warning(
            "the index of %s cannot be kept in %s (%s); it is kept in %s until this run ends. Choose another "
            "folder with cache_dir, or make that one writable",
            *(source, path.parent, error.strerror or error, own.parent),
        )
        write_whole(own, content)
        return own
    return path


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        return _folder_of_this_process()


@lru_cache(maxsize=1)
def _folder_of_this_process() -> Path:
    folder, process = Path(tempfile.mkdtemp(prefix="deepgen-index-")), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # a forked worker leaves it to the one that made it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def write_whole(path: Path, content: np.ndarray | bytes) -> None:
    """A file that is there with all its content or not at all, even if other processes write it, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                np.save(file, content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _find_spans(path: Path) -> np.ndarray:
    """(rows, 2): where each record begins and ends, in bytes."""
    is_lines = path.suffix.lower() == ".jsonl"
    if is_lines:
        return _line_spans(path)
    flat = np.fromiter((edge for span in _array_spans(path) for edge in span), dtype=np.int64)
    return flat.reshape(-1, 2)


def _line_spans(path: Path) -> np.ndarray:
    ends, base = [], 0
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path} is text in UTF-16; save it as UTF-8")
        file.seek(0)
        while chunk := file.read(_CHUNK):
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")).astype(np.int64) + base)
            base += len(chunk)
    end = np.concatenate([*ends, np.array([base], dtype=np.int64)])  # the last line may lack its newline
    begin = np.concatenate([np.zeros(1, dtype=np.int64), end[:-1] + 1])
    spans = np.stack([begin, end], axis=1)
    length = end - begin
    is_record = length > 1
    if (short := np.flatnonzero(length == 1)).size:  # the "\r" of an empty line, or a row that is damaged
        is_record[short] = np.memmap(path, np.uint8, "r")[begin[short]] != ord("\r")
    return spans[is_record]


def _array_spans(path: Path) -> Iterator[tuple[int, int]]:
    """Where each object of one JSON array begins and ends.

    Bytes are read as Latin-1, one character each, so that positions in the text are positions in the file:
    JSON's own marks are ASCII, and UTF-8 never uses ASCII bytes for anything else.
    """
    decoder = json.JSONDecoder()
    with path.open("rb") as file:
        text, base = file.read(_CHUNK).decode("latin-1"), 0
        place = _skip(text, 3 if text.startswith("\xef\xbb\xbf") else 0)
        if text[place : place + 1] != "[":
            raise ValueError(
                f"{path}: expected one JSON array, found {text[place : place + 20]!r} at its beginning; "
                "name a file of one object a line .jsonl"
            )
        place, is_first = place + 1, True
        while True:
            place = _skip(text, place)
            mark = text[place : place + 1]
            if mark == "]":
                return
            start = place if is_first else _skip(text, place + 1)
            if mark and not is_first and mark != ",":
                raise ValueError(f"{path}: expected a comma or ] at byte {base + place}, found {mark!r}")
            try:
                if text[start : start + 1] not in ("{", ""):
                    raise ValueError(
                        f"{path}: expected an object at byte {base + start}, found "
                        f"{text[start : start + 20]!r}"
                    )
                _, end = decoder.raw_decode(text, start)
            except RecursionError as error:
                raise ValueError(f"{path}: the object at byte {base + start} is nested too deeply") from error
            except json.JSONDecodeError as error:  # perhaps only because the chunk ends here
                more = file.read(max(_CHUNK, len(text) - place))  # doubling: a huge record is not read n^2
                if not more:
                    raise ValueError(
                        f"{path} is cut short or not valid JSON at byte {base + error.pos}: {error.msg}"
                    ) from error
                text, base, place = text[place:] + more.decode("latin-1"), base + place, 0
                continue
            yield base + start, base + end
            place, is_first = end, False


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place
