"""The one reader of text files: UTF-8, with or without a byte order mark, in lines that end at a line feed.

Other characters that `str.splitlines` takes for ends of lines (U+2028, U+0085, form feeds, ...) are part of
what people write, so they stay. A line in another encoding is an error of that line alone; the others count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class TextLine(NamedTuple):
    """A line as it stands in the file, without its end.

    Attributes:
        number: from 1.
        content: undecoded.
    """

    number: int
    content: bytes

    def text(self) -> str:
        """ValueError where it is no UTF-8."""
        return decoded(self.content)


def decoded(content: bytes) -> str:
    """The text of some bytes, without a byte order mark; ValueError says where it is no UTF-8."""
    content = content.removeprefix(_MARK)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        wrong = content[error.start : error.start + 1]
        raise ValueError(f"not UTF-8 at byte {error.start} ({wrong!r}); save it as UTF-8") from error


def shown(text: str) -> str:
    """A text, or a name of a file, as valid Unicode: bytes that are no UTF-8 become `\\xe9`."""
    return text.encode("utf-8", "surrogateescape" if _is_of_bytes(text) else "backslashreplace").decode(
        "utf-8", "backslashreplace"
    )


def _is_of_bytes(text: str) -> bool:
    """Whether its lone surrogates all stand for bytes, as in names that the system gave."""
    return all("\udc80" <= letter <= "\udcff" for letter in text if "\ud800" <= letter <= "\udfff")


def json_value(content: bytes) -> Any:
    """What a JSON text says; ValueError where it is no UTF-8, no JSON, or nested too deeply."""
    text = decoded(content)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error


def read_text(path: Path) -> str:
    """A whole file as one text, with line feeds for other ends of lines.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8; the message names file and line.
    """
    content = path.read_bytes()
    _check_kind(content, path)
    try:
        return decoded(content).replace("\r\n", "\n")
    except ValueError as error:
        for line in text_lines(path):
            try:
                line.text()
            except ValueError as reason:
                raise ValueError(f"{path}, line {line.number}: {reason}") from None
        raise ValueError(f"{path}: {error}") from error


def text_lines(path: Path) -> Iterator[TextLine]:
    """The lines of a file, empty ones included; the end of the last one may be missing.

    Raises:
        OSError: it cannot be read.
        ValueError: it is text in UTF-16, or its lines end with carriage returns alone.
    """
    content = path.read_bytes()
    _check_kind(content, path)
    if b"\r" in content and b"\n" not in content:
        raise ValueError(f"{path}: its lines end with carriage returns alone; save it with line feeds")
    lines = content.removeprefix(_MARK).split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield TextLine(number, line.removesuffix(b"\r"))


def _check_kind(content: bytes, path: Path) -> None:
    if content.startswith(_UTF_16):
        raise ValueError(f"{path} is text in UTF-16; save it as UTF-8")
