"""A reward service in a process of its own that takes its time: python reward_process.py PORT SECONDS."""

from __future__ import annotations

import sys
import time

import numpy as np

from deepgen.rewards.reward import EachAlone, RewardResult
from deepgen.rewards.service import make_app


class Slow(EachAlone):
    """How bright a picture is, said late."""

    version = "slow-1"
    concurrency = 8

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, candidates) -> list[RewardResult]:
        time.sleep(self.seconds)
        return super().__call__(candidates)

    def judge(self, candidate) -> RewardResult:
        return RewardResult(float(np.asarray(candidate.image).mean() / 255))


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app({"slow": Slow(float(sys.argv[2]))}), port=int(sys.argv[1]), log_level="error")
