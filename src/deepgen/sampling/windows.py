"""Which steps of a rollout are stochastic, and which of those are trained.

A step that is not stochastic is an ODE step: cheaper to follow and free of noise, but it has no log-prob to
improve. MixGRPO (arXiv 2507.21802) keeps the noise in a window that slides over the steps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["full", "fixed", "sliding", "random"]


@dataclass(frozen=True)
class Window:
    """Steps of one rollout, numbers from 0 (pure noise) to num_steps - 1, sorted.

    Attributes:
        stochastic: steps that draw noise.
        trained: those of them that the loss sees.
    """

    stochastic: tuple[int, ...]
    trained: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Where the noise is, and how much of it is trained.

    The last step is never trained: "cps" draws nothing there, and its latents are the picture.

    Attributes:
        kind: "full" is stochastic at every step. The others are so at `size` steps in a row: "fixed" from
            `start`, "sliding" from `start` and `stride` further every `slide_every` rollouts, back to
            `start` where it would leave the picture, "random" anywhere from `start` on.
        size: steps of a window; unused by "full".
        start: first step a window may have.
        stride: steps a sliding window moves.
        slide_every: rollouts until it does.
        num_trained: a random subset of so many stochastic steps is trained; None for all.
        trained_fraction: instead of num_trained, a share of the stochastic steps in (0, 1], rounded down,
            at least one step. A share of 1 is all but the last step.
        seed: of the random choices. Equal on all processes, so all train the same steps.
    """

    kind: Kind = "full"
    size: int = 4
    start: int = 0
    stride: int = 1
    slide_every: int = 25
    num_trained: int | None = None
    trained_fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Impossible settings fail here; what depends on the number of steps fails in `check`."""
        if self.kind not in ("full", "fixed", "sliding", "random"):
            raise ValueError(f"unknown window {self.kind!r}; known: full, fixed, sliding, random")
        least = {"size": 1, "start": 0, "stride": 1, "slide_every": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} of a window must be at least {lowest}, got {getattr(self, name)}")
        if self.kind == "full" and self.start:
            raise ValueError(f"window 'full' starts at step 0, got start {self.start}; use 'fixed'")
        if self.num_trained is not None and self.trained_fraction is not None:
            raise ValueError("set num_trained or trained_fraction of a window, not both")
        if self.num_trained is not None and self.num_trained < 1:
            raise ValueError(f"num_trained must be at least 1, got {self.num_trained}")
        if self.trained_fraction is not None and not 0 < self.trained_fraction <= 1:
            raise ValueError(f"trained_fraction must be in (0, 1], got {self.trained_fraction}")

    def check(self, num_steps: int) -> None:
        """ValueError where a rollout of so many steps has no room for the window or nothing to train.

        Every position the window may take is looked at, so a run does not fail on its thousandth rollout.
        """
        if num_steps < 2:
            raise ValueError(
                f"a rollout needs at least 2 steps, of which the last is not trained; got {num_steps}"
            )
        if self.kind != "full" and self.start + self.size > num_steps:
            raise ValueError(
                f"a window of {self.size} steps from step {self.start} needs "
                f"{self.start + self.size} steps, got {num_steps}"
            )
        for first in self._starts(num_steps):
            trainable = len(self._trainable(self._stochastic(first, num_steps), num_steps))
            if trainable < (self.num_trained or 1):
                raise ValueError(
                    f"the window from step {first} has {trainable} steps that can be trained, "
                    f"fewer than {self.num_trained or 1}; the last of {num_steps} steps is never trained"
                )

    def select(self, num_steps: int, rollout: int) -> Window:
        """The steps of one rollout, a function of (seed, rollout) and of nothing else.

        Args:
            num_steps: steps of the rollout, at least 2.
            rollout: its number in the run, from 0.

        Raises:
            ValueError: the window does not fit.
        """
        self.check(num_steps)
        draw = random.Random(f"{self.seed} {rollout}")  # text seeds are hashed the same way everywhere
        starts = self._starts(num_steps)
        if self.kind == "sliding":
            first = starts[rollout // self.slide_every % len(starts)]
        else:
            first = draw.choice(starts)
        stochastic = self._stochastic(first, num_steps)
        trainable = self._trainable(stochastic, num_steps)
        wanted = self.num_trained or len(trainable)
        if self.trained_fraction is not None:
            # 1e-9: 0.29 of 100 steps are 29, though the product is 28.999999999999996.
            wanted = max(1, int(len(stochastic) * self.trained_fraction + 1e-9))
        trained = sorted(draw.sample(trainable, min(wanted, len(trainable))))
        return Window(stochastic, tuple(trained))

    def _starts(self, num_steps: int) -> range:
        """First steps that a window may have."""
        if self.kind == "full":
            return range(1)
        if self.kind == "fixed":
            return range(self.start, self.start + 1)
        stride = self.stride if self.kind == "sliding" else 1
        return range(self.start, num_steps - self.size + 1, stride)

    def _stochastic(self, first: int, num_steps: int) -> tuple[int, ...]:
        """Steps of a window."""
        return tuple(range(first, num_steps if self.kind == "full" else first + self.size))

    @staticmethod
    def _trainable(stochastic: tuple[int, ...], num_steps: int) -> tuple[int, ...]:
        """All of them but the last step of the rollout."""
        return tuple(step for step in stochastic if step < num_steps - 1)
