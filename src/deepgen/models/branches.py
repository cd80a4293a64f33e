"""What the DiT is given at the steps of a run besides latents: for both branches, or the positive alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from deepgen.models.trajectory import Trajectory
from deepgen.types import Condition

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
        self._alone: dict[str, Any] = {}  # the same for the positive rows, made when first needed

    @property
    def embeds(self) -> dict[str, Tensor]:
        """What callbacks may see and replace."""
        return {
            "prompt_embeds": self._both["encoder_hidden_states"],
            "pooled_prompt_embeds": self._both["pooled_projections"],
        }

    def inputs(self, step: int, *, is_positive_alone: bool) -> dict[str, Any]:
        """Arguments of the DiT's forward at a step."""
        if is_positive_alone and not self._alone:
            first = len(self._both["pooled_projections"]) // 2
            for name, value in self._both.items():
                if name == "trajectory":
                    self._alone[name] = self._trajectory()
                else:
                    self._alone[name] = None if value is None else value[first:]
        given = self._alone if is_positive_alone else self._both
        if given["trajectory"] is not None:
            given["trajectory"].step = step
        return given

    def replace(self, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor) -> None:
        """Go on with another condition, where it is another one."""
        old = self.embeds
        if prompt_embeds is old["prompt_embeds"] and pooled_prompt_embeds is old["pooled_prompt_embeds"]:
            return
        self._both |= {"encoder_hidden_states": prompt_embeds, "pooled_projections": pooled_prompt_embeds}
        self._alone = {}

    def _trajectory(self) -> Trajectory | None:
        return None if self._timesteps is None else Trajectory(self._timesteps)
