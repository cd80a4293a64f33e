"""Rewards and candidates made for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from PIL import Image

from deepgen.rewards.reward import Candidate, Kind, RewardResult


def candidate(grey: int = 0, prompt: str = "a cat", **metadata: object) -> Candidate:
    return Candidate(image=Image.new("RGB", (8, 8), (grey, grey, grey)), prompt=prompt, metadata=metadata)


def grey_of(one: Candidate) -> float:
    return one.image.getpixel((0, 0))[0] / 255  # pyright: ignore


class FakeReward:
    """Scores the grey of a picture, or does what it is told, and remembers what it was asked."""

    def __init__(
        self,
        answer: Callable[[Sequence[Candidate]], list[RewardResult]] | None = None,
        *,
        kind: Kind = "pointwise",
        needs: tuple[str, ...] = (),
        concurrency: int = 1,
        version: str = "fake-1",
    ) -> None:
        self.answer = answer or (
            lambda candidates: [RewardResult(grey_of(one), "grey") for one in candidates]
        )
        self.kind: Kind = kind
        self.needs, self.concurrency, self._version = needs, concurrency, version
        self.low, self.high = 0.0, 1.0
        self.calls: list[list[Candidate]] = []
        self.most_at_once, self._running, self._lock = 0, 0, threading.Lock()

    @property
    def version(self) -> str:
        return self._version

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        with self._lock:
            self.calls.append(list(candidates))
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            return self.answer(candidates)
        finally:
            with self._lock:
                self._running -= 1
