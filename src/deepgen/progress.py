"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere.

A bar redraws its line by carriage returns, which in a pipe, a file or the log of a job scheduler become one
endless line. There a line is printed once in a while instead, and one at the end.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partialmethod
from types import TracebackType
from typing import Any, TextIO

LINE_EVERY_S = 30.0  # seconds between two plain lines


class PlainProgress:
    """The part of tqdm's interface that we use, as lines.

    Args:
        total: units of the whole work.
        desc: what is done.
        unit: what is counted; `B` is shown in megabytes.
        initial: units that were done before.
        file: where lines go.
    """

    def __init__(self, total: int, desc: str, unit: str, initial: int, file: TextIO) -> None:
        self.n = self._initial = initial
        self._total, self._desc, self._unit, self._file = total, desc, unit, file
        self._started = self._last = time.monotonic()
        self._is_closed = False

    def update(self, n: float = 1) -> None:
        """`n` more units are done."""
        self.n += n
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S and self.n < self._total:
            self._last = now
            self._print(now)

    def close(self) -> None:
        """Say where it ended; what is closed stays closed."""
        if not self._is_closed:
            self._is_closed = True
            self._print(time.monotonic())

    def __enter__(self) -> PlainProgress:
        """Closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, after an error too."""
        self.close()

    def _print(self, now: float) -> None:
        seconds = now - self._started
        scale, unit = (1e6, "MB") if self._unit == "B" else (1, self._unit)
        done, total, rate = self.n / scale, self._total / scale, (self.n - self._initial) / scale
        speed = f", {rate / seconds:.3g} {unit}/s" if seconds > 0 and rate else ""
        print(
            f"deepgen: {self._desc}: {done:.0f} of {total:.0f} {unit}, {seconds:.0f} s{speed}",
            file=self._file,
            flush=True,
        )


def progress_bar(
    total: int, desc: str, unit: str, *, initial: int = 0, is_shown: bool = True
) -> Any:  # tqdm or PlainProgress
    """What to `update` and `close`, or to use in a `with`: tqdm on a terminal, else `PlainProgress`.

    Args:
        total: units of the whole work.
        desc: what is done, in a few words.
        unit: what is counted, such as `picture`; `B` for bytes.
        initial: units that were done before.
        is_shown: print at all; False in processes other than the first.
    """
    if is_shown and not sys.stderr.isatty():
        return PlainProgress(total, desc, unit, initial, sys.stderr)
    from tqdm import tqdm

    is_bytes = unit == "B"
    return tqdm(total=total, desc=desc, unit=unit, initial=initial, unit_scale=is_bytes, disable=not is_shown)


def hide_bars_of_libraries() -> None:
    """Bars of transformers, diffusers and others, for a process whose stderr is no terminal.

    Says it to tqdm by the environment, before it is imported, and thereby to worker processes as well; a
    value that is set already stays.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def hide_bars_of_loaded_libraries() -> None:
    """The same where tqdm has been imported, and has read the environment, before."""
    from tqdm import tqdm

    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


def write_line(text: str, *, to_stderr: bool = False) -> None:
    """A line on stdout or stderr, above a bar that may be on the terminal."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr if to_stderr else sys.stdout)
