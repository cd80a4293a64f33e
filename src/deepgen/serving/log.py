"""The server's log: one JSON object a line, whoever speaks.

What goes through `logging` (our own lines, uvicorn's) has its fields; what libraries and we ourselves print
on stderr becomes a line of the same form. Only the one line of a start that failed stays plain, as with every
command.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

LogFormat = Literal["json", "text"]


class JsonFormatter(logging.Formatter):
    """A record as a JSON object of one line; `extra={"fields": {...}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = getattr(record, "fields", {})
        line = json_line(record.levelname.lower(), record.name, record.getMessage(), record.created, **fields)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class JsonStream(io.TextIOBase):
    """Stands in for stderr: every line that is written becomes a JSON object, unless it is one already.

    Args:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""
        self._lock = threading.RLock()

    def write(self, text: str, /) -> int:
        """Keep what is no whole line yet."""
        with self._lock:
            *lines, self._begun = (self._begun + text.replace("\r", "\n")).split("\n")
            for line in filter(str.strip, lines):
                self._stream.write(f"{_as_json(line)}\n")
            if lines:
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Lines have been flushed."""

    def finish(self) -> None:
        """Write what has no end of line."""
        if self._begun:
            self.write("\n")

    def isatty(self) -> bool:
        """Never, so that nobody draws progress bars."""
        return False

    def fileno(self) -> int:
        """Of the stream behind, for what writes there by itself."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Yes."""
        return True


def json_line(level: str, name: str, message: str, created: float, **fields: Any) -> dict[str, Any]:
    """What every line begins with: the time (UTC), how bad, who speaks, what."""
    seconds, milliseconds = divmod(int(created * 1000), 1000)
    now = time.strftime(f"%Y-%m-%dT%H:%M:%S.{milliseconds:03d}Z", time.gmtime(seconds))
    return {
        "time": now,
        "level": level,
        "logger": name,
        "message": message,
        **fields,
    }


@contextmanager
def logging_to_stderr(form: LogFormat) -> Iterator[None]:
    """Log from INFO on, in this form, until the block is left."""
    plain, root = sys.stderr, logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = JsonStream(plain) if form == "json" else plain
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("%(message)s"))
    sys.stderr = stream
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        sys.stderr = plain
        root.handlers[:] = before
        root.setLevel(level)
        if isinstance(stream, JsonStream):
            stream.finish()


def _as_json(line: str) -> str:
    if line.startswith('{"time": '):
        return line
    name, is_ours, message = line.partition("deepgen: ")
    if name or not is_ours:
        return json.dumps(json_line("info", "stderr", line, time.time()))
    return json.dumps(json_line("info", "deepgen", message, time.time()))
