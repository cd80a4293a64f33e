"""What a model that was distilled to few steps was trained for: its noise levels, for each number of steps.

Training draws its intervals from `even_schedules` or `weighted_schedules` and writes them beside the weights,
and drawing takes them from there; so a model is drawn with exactly the levels it has seen. They stand in the
model's defaults and in the metadata of a LoRA under `KEY`.

One network serves several numbers of steps. At one noise level it then has to know how far the step goes,
and the DiT has no second time input. So every number but the usual one has its timesteps moved by an offset,
which an adapter on the timestep embedding can tell apart. With the usual number nothing is moved: that model
is an ordinary one with other weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

KEY = "distilled"
USUAL_STEPS = 4
_HOW = (
    "distil it with `deepgen train distill`, or load the LoRA of such a run; "
    "presets balanced and fast work with any model"
)


@dataclass(frozen=True, kw_only=True)
class FewStepSchedule:
    """The steps of a distilled model, for one number of them.

    Attributes:
        sigmas: noise level before each step and before the scheduler's shift, falling from 1; after the last
            step it is 0.
        timestep_offset: added to 1000 * sigma, so that the network knows the number of steps.
    """

    sigmas: tuple[float, ...]
    timestep_offset: float = 0.0

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in zip((math.inf, *self.sigmas), (*self.sigmas, 0.0), strict=True))
        if not self.sigmas or self.sigmas[0] != 1 or not falls or not math.isfinite(self.timestep_offset):
            raise ValueError(
                "noise levels of a distilled model must fall from 1 and stay above 0, got "
                f"{self.sigmas} with offset {self.timestep_offset}"
            )


@dataclass(frozen=True, kw_only=True)
class FewSteps:
    """What a model or a LoRA was distilled for.

    Attributes:
        schedules: by their number of steps.
        lora: a file in the model's folder that makes the model a distilled one; None where the weights, or
            the LoRA that says this, are distilled themselves.
    """

    schedules: Mapping[int, FewStepSchedule]
    lora: str | None = None

    @property
    def usual_steps(self) -> int:
        """Steps of a drawing that does not say: 4, or the nearest number there is."""
        return min(self.schedules, key=lambda count: (abs(math.log2(count / USUAL_STEPS)), count))

    def schedule(self, num_steps: int) -> FewStepSchedule:
        """The levels of so many steps; ValueError where the model has not learnt that number."""
        if num_steps not in self.schedules:
            known = ", ".join(map(str, sorted(self.schedules)))
            raise ValueError(
                f"preset 'turbo' draws in as many steps as the model was distilled for, {known}; "
                f"got {num_steps}"
            )
        return self.schedules[num_steps]

    def to_json(self) -> dict[str, Any]:
        """As it stands in model_index.json, and as text in the metadata of a LoRA."""
        steps = {
            str(count): {"sigmas": list(one.sigmas), "timestep_offset": one.timestep_offset}
            for count, one in sorted(self.schedules.items())
        }
        return {"steps": steps} if self.lora is None else {"steps": steps, "lora": self.lora}


def even_schedules(counts: Iterable[int], offset: float) -> dict[int, FewStepSchedule]:
    """Levels at even distances before the shift, so that those of 4 steps are among those of 8.

    Args:
        counts: numbers of steps.
        offset: of the timesteps for each halving of the number below the usual one, and minus it for each
            doubling.
    """
    return _schedules(counts, offset, lambda share: share)


def weighted_schedules(
    counts: Iterable[int], offset: float, mean: float, std: float
) -> dict[int, FewStepSchedule]:
    """Levels with equal shares of a logit-normal density between them: short steps where it is high.

    What a picture shows is decided over a narrow range of levels, and there a long step is hard to learn
    (docs/distillation.md measures which). Those of 4 steps are again among those of 8.

    Args:
        counts: see `even_schedules`.
        offset: see `even_schedules`.
        mean: of the density's logit, before the shift; 0 is the middle.
        std: of the density's logit.
    """
    density = NormalDist(mean, std)

    def level(share: float) -> float:
        return 1.0 if share == 1 else 1 / (1 + math.exp(-density.inv_cdf(share)))

    return _schedules(counts, offset, level)


def _schedules(
    counts: Iterable[int], offset: float, level: Callable[[float], float]
) -> dict[int, FewStepSchedule]:
    return {
        count: FewStepSchedule(
            sigmas=tuple(level(1 - step / count) for step in range(count)),
            timestep_offset=offset * math.log2(USUAL_STEPS / count) + 0.0,
        )
        for count in counts
    }


def read_few_steps(value: Any, where: str) -> FewSteps | None:
    """What a model's defaults or a LoRA's metadata say; None where they say nothing.

    Args:
        value: a mapping, or the same as JSON.
        where: what is read, for errors.

    Raises:
        ValueError: it cannot be read.
    """
    if value is None:
        return None
    try:
        found = json.loads(value) if isinstance(value, str) else value
        schedules = {
            int(count): FewStepSchedule(
                sigmas=tuple(float(sigma) for sigma in one["sigmas"]),
                timestep_offset=float(one.get("timestep_offset", 0.0)),
            )
            for count, one in found["steps"].items()
        }
        if not schedules or any(count != len(one.sigmas) for count, one in schedules.items()):
            raise ValueError("each number of steps needs as many levels")
        return FewSteps(schedules=schedules, lora=found.get("lora"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: the entry {KEY!r} cannot be read ({error})") from None


def required(value: Any, preset: str) -> FewSteps:
    """What a model was distilled for; ValueError says why a preset for distilled models is refused."""
    found = read_few_steps(value, "the model's defaults")
    if found is None:
        raise ValueError(
            f"preset {preset!r} is for a model that was distilled to few steps, and this one was not; {_HOW}"
        )
    return found
