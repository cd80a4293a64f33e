"""Presets: solver, number of steps and spacing under one name, for nearly the same picture in fewer steps.

A picture is the end of an ODE, and 50 steps of Euler spend most of their passes on a path that a solver of
second order with memory (UniPC, arXiv 2302.04867) follows in a third of them. Two things make that so. The
last step of UniPC can only be of first order, so it must be short: noise levels are spaced by a power, closer
together towards the picture. And the difference between both branches of guidance hardly changes near the
picture, so below some noise level it is computed no more and the last one is kept.

A model that was distilled (docs/distillation.md) needs four steps and no negative branch: `turbo`.

Caches of blocks (first-block cache, TaylorSeer) are not in here. `benchmarks/preset_quality.py` measures them
beside the presets; the former also decides for a whole batch at once, so a picture would depend on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgen.sampling.few_steps import USUAL_STEPS, FewStepSchedule
from deepgen.sampling.schedule import set_timesteps
from deepgen.sampling.solvers import make_scheduler, without_waits


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How the flow is followed.

    Attributes:
        name: what it is asked for by.
        solver: name of a solver, see `solvers.py`; None: the pipeline's own.
        num_steps: solver steps, where the model's own are not fewer; None: the model's own.
        spacing: (power, last): noise levels before the model's shift are a straight line from 1 to
            last^(1 / power), raised to the power; None: the solver's own.
        guided_above: noise level in [0, 1] below which the negative branch is skipped and the last difference
            of both branches is kept; 0 computes both at every step.
        is_distilled: for models that were distilled: no negative branch, and their own noise levels.
        schedule: those levels, once the model and the number of steps are known (`with_schedule`).
    """

    name: str
    solver: str | None = None
    num_steps: int | None = None
    spacing: tuple[float, float] | None = None
    guided_above: float = 0.0
    is_distilled: bool = False
    schedule: FewStepSchedule | None = None

    def with_schedule(self, schedule: FewStepSchedule | None) -> Preset:
        """This preset with the noise levels of a distilled model."""
        return self if schedule is None else replace(self, schedule=schedule)

    def prepare(
        self,
        scheduler: Any,
        num_steps: int,
        device: torch.device | str | None,
        num_tokens: int,
        sigmas: Sequence[float] | None = None,
    ) -> tuple[Any, Tensor]:
        """The scheduler that follows this preset, ready for so many steps, and 1000 * sigma of every model
        call, (num_calls,) float32.

        Args:
            scheduler: the pipeline's.
            num_steps: solver steps.
            device: where the timesteps are wanted.
            num_tokens: DiT tokens of the target, see `set_timesteps`.
            sigmas: noise levels (num_steps,) before the scheduler's shift, instead of its own spacing.

        Raises:
            ValueError: the preset chooses the solver, and the pipeline's was already replaced, or its
                schedule shifts dynamically; or the preset spaces the steps and sigmas are given, or needs a
                distilled model's levels and has none.
        """
        if self.solver is not None:
            if type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
                raise ValueError(
                    f"preset {self.name!r} chooses the solver, and the pipeline has "
                    f"{type(scheduler).__name__}; leave out --scheduler, or use preset 'exact'"
                )
            scheduler = make_scheduler(self.solver, scheduler)
        scheduler = without_waits(scheduler)
        spacing = None if sigmas is None else np.array(sigmas, dtype=np.float32)
        if self.spacing is not None:
            if sigmas is not None:
                raise ValueError(f"preset {self.name!r} spaces its steps itself; use 'exact' with sigmas")
            spacing = spaced(num_steps, *self.spacing)
        offset = 0.0
        if self.is_distilled:
            if sigmas is not None or self.schedule is None:
                raise ValueError(f"preset {self.name!r} draws with the levels the model was distilled for")
            spacing, offset = np.array(self.schedule.sigmas, np.float32), self.schedule.timestep_offset
        timesteps = set_timesteps(scheduler, num_steps, device, num_tokens=num_tokens, sigmas=spacing)
        return scheduler, timesteps + offset if offset else timesteps

    def guided(self, timesteps: Tensor) -> list[bool]:
        """Whether the negative branch runs, of each model call's 1000 * sigma, (num_calls,), on the host."""
        above = (timesteps >= 1000 * self.guided_above).tolist()
        return [True, *above[1:]]  # the first difference has to come from somewhere


def spaced(num_steps: int, power: float, last: float) -> np.ndarray:
    """Noise levels (num_steps,) from 1 to `last`, the closer together the smaller they are."""
    return np.linspace(1, last ** (1 / power), num_steps) ** power


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="exact"),
        Preset(name="balanced", solver="unipc", num_steps=17, spacing=(1.6, 0.01), guided_above=0.1),
        Preset(name="fast", solver="unipc", num_steps=12, spacing=(1.4, 0.02), guided_above=0.2),
        Preset(name="turbo", solver="euler", num_steps=USUAL_STEPS, is_distilled=True),
    )
}
NAMES = tuple(PRESETS)


def get_preset(name: str) -> Preset:
    """The preset of that name; ValueError names the known ones."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(NAMES)}")
    return PRESETS[name]
