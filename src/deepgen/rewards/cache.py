"""Cache of reward results, by the content that was judged.

A key covers the reward's name and version, every pixel, the prompt, the references and the metadata, so a
changed judge or a changed claim is a new question. Only verdicts with a score are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from deepgen.moved import renamed
from deepgen.rewards.reward import Candidate, RewardResult


def content_key(name: str, version: str, candidates: Sequence[Candidate]) -> str:
    """SHA-256 in hex of a question: one candidate of a pointwise reward, or a whole group in its order."""
    digest = hashlib.sha256(json.dumps(["deepgen verdict 1", name, version]).encode())
    for candidate in candidates:
        words = {"prompt": candidate.prompt, "metadata": dict(candidate.metadata)}
        digest.update(json.dumps(words, sort_keys=True, default=repr).encode())
        for image in (candidate.image, *candidate.references):
            _add_image(digest, image)
        digest.update(b"end of candidate")
    return digest.hexdigest()


def _add_image(digest: hashlib._Hash, image: Image.Image) -> None:
    digest.update(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())


class RewardCache:
    """The last `size` verdicts in memory, and all of them in a folder if one is given.

    A file is written whole or not at all; one that cannot be read is taken as absent and written again.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        self.size, self.folder = size, folder
        self._kept: OrderedDict[str, tuple[RewardResult, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> tuple[RewardResult, ...] | None:
        """The verdicts on a question, or None if it is new."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        verdicts = self._read(key)
        if verdicts is not None:
            self._keep(key, verdicts)
        return verdicts

    def put(self, key: str, verdicts: Sequence[RewardResult]) -> None:
        """Keep the verdicts on a question, unless one of them has no score."""
        if any(verdict.score is None for verdict in verdicts):
            return
        self._keep(key, tuple(verdicts))
        if self.folder is not None:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
                json.dump([asdict(verdict) for verdict in verdicts], file)
            os.replace(file.name, path)  # noqa: PTH105

    def _keep(self, key: str, verdicts: tuple[RewardResult, ...]) -> None:
        with self._lock:
            self._kept[key] = verdicts
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def _read(self, key: str) -> tuple[RewardResult, ...] | None:
        if self.folder is None:
            return None
        try:
            return tuple(RewardResult(**values) for values in json.loads(self._path(key).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key[2:]}.json"


__getattr__ = renamed(__name__, {"VerdictCache": "deepgen.rewards.cache.RewardCache"})
