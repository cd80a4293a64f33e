"""The gap between the log-probabilities a rollout was drawn with and those of its first loss.

Before the first update both are of the same weights at the same latents, so they differ by rounding alone. A
wider gap means that another policy is trained than the one that drew: dropout that was left on, another
number format, prompts that are padded otherwise. The ratio then leaves the clip range at random, and the run
learns from noise while its reward curve looks like any other's.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from torch import Tensor

from deepgen.training.parallel import Processes
from deepgen.transfer import to_host

# Edges of the noise levels whose gaps are logged apart.
_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


class PolicyMismatch(ValueError):
    """The policy that is trained is not the one that drew the images."""


class LogProbGap:
    """The largest gap of one rollout at each noise level.

    Args:
        limit: a wider one stops the run; infinite where none does.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._largest: dict[str, float] = {}
        self._found: list[tuple[Tensor, Tensor]] = []  # noise level and widest gap, not read yet

    def add(self, sigma: Tensor, gaps: Tensor) -> None:
        """Gaps of some images at a noise level in (0, 1], (B,); nothing is read yet."""
        self._found.append((sigma, gaps.abs().max()))

    def check(self) -> None:
        """Read what was added; the host waits for the device once.

        Raises:
            PolicyMismatch: a gap is beyond the limit, or no number.
        """
        numbers = to_host([number for pair in self._found for number in pair])
        self._found = []
        for level, widest in zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True):
            bin_name = _bin(level)
            self._largest[bin_name] = max(self._largest.get(bin_name, 0.0), widest)
            if not widest <= self.limit:
                raise PolicyMismatch(
                    f"log-probabilities of a rollout and of its first loss differ by {widest:.3g} at noise "
                    f"level {level:.3g}, and max_log_prob_gap is {self.limit:g}: what is trained is not the "
                    "policy that drew the images; look for dropout or a number format that differ between "
                    "the two, or raise the limit"
                )

    def take(self, processes: Processes) -> dict[str, tuple[float, float]]:
        """`log_prob_gap/largest` and `log_prob_gap/sigma A-B` over all processes, once; as (value, 1)."""
        self.check()
        mine, self._largest = self._largest, {}
        largest: dict[str, float] = {}
        for part in processes.gather(mine):
            for name, value in part.items():
                largest[name] = max(largest.get(name, 0.0), value)
        if not largest:
            return {}
        named = {f"log_prob_gap/sigma {name}": value for name, value in sorted(largest.items())}
        named["log_prob_gap/largest"] = max(largest.values())
        return {name: (value, 1.0) for name, value in named.items() if math.isfinite(value)}


def _bin(sigma: float) -> str:
    """The bin a noise level is in; 1 is in the last."""
    upper = min(bisect_right(_EDGES, sigma), len(_EDGES) - 1)
    return f"{_EDGES[upper - 1]:g}-{_EDGES[upper]:g}"
