"""What the DiT is given at the steps of a run besides latents: for both branches, or one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from deepgen.models.trajectory import Trajectory
from deepgen.types import Condition

Rows = Literal["both", "negative", "positive"]

# B samples


class Branches:
    """Rows are [negative, positive], B of each, or B positive ones where there is no guidance.

    Args:
        condition: of all rows.
        references: of every sample, its latents; None for text to image.
        count: rows a sample has: 2 with guidance, otherwise 1.
        timesteps: of the run's calls, (T,); None where nothing may be kept from step to step.
    """

    def __init__(
        self,
        condition: Condition,
        references: Sequence[Sequence[Tensor]] | None,
        count: int,
        timesteps: Tensor | None,
    ) -> None:
        self.count, self._timesteps = count, timesteps
        self._both: dict[str, Any] = {
            "encoder_hidden_states": condition.prompt_embeds,
            "pooled_projections": condition.pooled_prompt_embeds,
            "encoder_attention_mask": condition.mask,
            "reference_latents": None if references is None else list(references) * count,
            "trajectory": self._trajectory(),
        }
        self._alone: dict[
            Rows, dict[str, Any]
        ] = {}  # the same for rows of one branch, made when first needed

    @property
    def embeds(self) -> dict[str, Tensor]:
        """What callbacks may see and replace."""
        return {
            "prompt_embeds": self._both["encoder_hidden_states"],
            "pooled_prompt_embeds": self._both["pooled_projections"],
        }

    def inputs(self, step: int, rows: Rows = "both") -> dict[str, Any]:
        """Arguments of the DiT's forward at a step, for both branches' rows or those of one."""
        given = self._both if rows == "both" else self._of(rows)
        if given["trajectory"] is not None:
            given["trajectory"].step = step
        return given

    def _of(self, rows: Rows) -> dict[str, Any]:
        if rows not in self._alone:
            half = len(self._both["pooled_projections"]) // 2
            own = slice(half) if rows == "negative" else slice(half, None)
            self._alone[rows] = {
                name: self._trajectory() if name == "trajectory" else None if value is None else value[own]
                for name, value in self._both.items()
            }
        return self._alone[rows]

    def replace(self, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor) -> bool:
        """Go on with another condition, where it is another one; whether it was.

        Given the positive rows alone, the run goes on without the negative ones. diffusers' own callbacks
        hand back the last row, which is the positive one of a single sample; of several samples it stands for
        all positive rows, as these callbacks mean it.

        Raises:
            ValueError: neither as many rows as before nor as many as there are samples.
        """
        old = self.embeds
        if prompt_embeds is old["prompt_embeds"] and pooled_prompt_embeds is old["pooled_prompt_embeds"]:
            return False
        new = {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}
        rows = len(old["prompt_embeds"])
        samples = rows // self.count
        known = f"{rows} (negative, then positive) or {samples} (positive)" if self.count == 2 else str(rows)
        if any(len(value) != rows for value in new.values()):
            new = {name: self._positive(name, value, samples) for name, value in new.items()}
            for name, value in new.items():
                if len(value) != samples:
                    raise ValueError(f"a callback returned {name} of {len(value)} rows, expected {known}")
            if self.count == 2:
                self._both, self.count = self._of("positive"), 1
        self._both = {
            **self._both,
            "encoder_hidden_states": new["prompt_embeds"],
            "pooled_projections": new["pooled_prompt_embeds"],
        }
        self._alone = {}
        return True

    def _positive(self, name: str, value: Tensor, samples: int) -> Tensor:
        """The positive rows of what a callback returned."""
        old = self.embeds[name]
        if len(value) == len(old):
            return value[-samples:]
        is_last_row = len(value) == 1 and value.shape == old[-1:].shape and torch.equal(value, old[-1:])
        return old[-samples:] if is_last_row else value

    def _trajectory(self) -> Trajectory | None:
        return None if self._timesteps is None else Trajectory(self._timesteps)
