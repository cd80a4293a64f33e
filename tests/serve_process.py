"""A real `deepgen serve` with the model inside the package, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@contextmanager
def listening(
    arguments: list[str], pattern: str = r"serving on (http://\S+)", python: str | Path = sys.executable
) -> Iterator[tuple[str, list[str]]]:
    """Runs `deepgen` with these arguments; (the address it says, its lines on stderr so far)."""
    command = [str(python), "-m", "deepgen", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if match := re.search(pattern, line):
                    break
            else:
                raise AssertionError(f"{command} ended before it listened:\n{''.join(lines)}")
            reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
            reader.start()  # so that its log never blocks it
            yield match[1], lines
            process.terminate()
            process.wait(30)
        finally:
            process.kill()


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address of a server of the small model."""
    with listening(["serve", "tiny", "--port", "0", *arguments]) as (url, _):
        yield url
