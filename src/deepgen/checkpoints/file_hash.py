"""The sha256 of a file, in pieces, so that weights of many gigabytes need no memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 22  # bytes read at a time
Progress = Callable[[int], object]


def hash_file(path: Path, progress: Progress = lambda nbytes: None) -> str:
    """The sha256 of a file, read a few megabytes at a time; `progress` is called with the bytes of each."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
