"""The DiT's inputs besides latents at the steps of a run: for both branches of guidance, or one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgen.sampling.step_cache import JoinedStepCache, StepCache
from deepgen.types import Condition

Rows = Literal["both", "negative", "positive"]

# B samples, R rows, L context tokens of width J


class GuidedInputs:
    """Rows are [negative, positive], B of each, or B positive ones where there is no guidance.

    Args:
        condition: of all rows.
        references: of every sample, its latents; None for text to image.
        num_branches: rows a sample has: 2 with guidance, otherwise 1.
        make_cache: makes an empty cache of what the run's steps share; None where nothing may be kept.
    """

    def __init__(
        self,
        condition: Condition,
        references: Sequence[Sequence[Tensor]] | None,
        num_branches: int,
        make_cache: Callable[[], StepCache] | None = None,
    ) -> None:
        self.num_branches, self._make_cache = num_branches, make_cache
        self._both: dict[str, Any] = {
            "encoder_hidden_states": condition.prompt_embeds,
            "pooled_projections": condition.pooled_prompt_embeds,
            "encoder_attention_mask": condition.mask,
            "lengths": condition.lengths,
            "reference_latents": None if references is None else list(references) * num_branches,
            "step_cache": self._cache(),
        }
        self._alone: dict[Rows, dict[str, Any]] = {}  # the same for one branch's rows, made when first needed
        self._positive_rows: GuidedInputs | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._both["pooled_projections"]) // self.num_branches

    @property
    def embeds(self) -> dict[str, Tensor]:
        """What callbacks may see and replace."""
        return {
            "prompt_embeds": self._both["encoder_hidden_states"],
            "pooled_prompt_embeds": self._both["pooled_projections"],
        }

    @property
    def positive(self) -> GuidedInputs:
        """The positive rows alone; these inputs themselves where there are no others."""
        if self.num_branches == 1:
            return self
        if self._positive_rows is None:
            self._positive_rows = copy.copy(self)
            self._positive_rows._both, self._positive_rows._alone = self._of("positive"), {}
            self._positive_rows.num_branches = 1
        return self._positive_rows

    def arguments(self, steps: Sequence[int], rows: Rows = "both") -> dict[str, Any]:
        """Arguments of the DiT's forward, for both branches' rows or those of one.

        Args:
            steps: number of the model call, one; of joined inputs one for each run.
            rows: which.
        """
        of_rows = self._of(rows).items()
        given = {name: value for name, value in of_rows if value is not None and name != "lengths"}
        if "step_cache" in given:
            given["step_cache"] = given["step_cache"].at(steps)
        return given

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
        rows, samples, is_guided = len(old["prompt_embeds"]), len(self), self.num_branches == 2
        known = f"{rows} (negative, then positive) or {samples} (positive)" if is_guided else str(rows)
        if any(len(value) != rows for value in new.values()):
            new = {name: self._replaced_positive(name, value, samples) for name, value in new.items()}
            for name, value in new.items():
                if len(value) != samples:
                    raise ValueError(f"a callback returned {name} of {len(value)} rows, expected {known}")
            if is_guided:
                self._both, self.num_branches = self._of("positive"), 1
        self._both = {
            **self._both,
            "encoder_hidden_states": new["prompt_embeds"],
            "pooled_projections": new["pooled_prompt_embeds"],
            "lengths": None if self._both["encoder_attention_mask"] is None else self._both["lengths"],
        }
        self._alone, self._positive_rows = {}, None
        return True

    def _of(self, rows: Rows) -> dict[str, Any]:
        if rows == "both":
            return self._both
        if rows not in self._alone:
            half = len(self._both["pooled_projections"]) // 2
            own = slice(half) if rows == "negative" else slice(half, None)
            self._alone[rows] = {
                name: None if value is None else value[own]
                for name, value in self._both.items()
                if name != "step_cache"
            }
            self._alone[rows]["step_cache"] = self._cache()
        return self._alone[rows]

    def _replaced_positive(self, name: str, value: Tensor, samples: int) -> Tensor:
        """The positive rows of what a callback returned."""
        old = self.embeds[name]
        if len(value) == len(old):
            return value[-samples:]
        is_last_row = len(value) == 1 and value.shape == old[-1:].shape and torch.equal(value, old[-1:])
        return old[-samples:] if is_last_row else value

    def _cache(self) -> StepCache | None:
        return None if self._make_cache is None else self._make_cache()


class JoinedInputs(GuidedInputs):
    """Inputs of several runs that share a model call: rows are [all negatives, all positives].

    Args:
        parts: inputs of each run, all with the same number of branches; one may stand there several times.
        text_length: context tokens to pad to, more than any has; None pads where they differ.
    """

    def __init__(self, parts: Sequence[GuidedInputs], text_length: int | None = None) -> None:
        self._parts, num_branches = tuple(parts), parts[0].num_branches
        rows: list[Rows] = ["both"] if num_branches == 1 else ["negative", "positive"]
        condition = Condition.cat([_condition(part._of(one)) for one in rows for part in parts])  # (R, L, J)
        references = None
        if all(part._both["reference_latents"] is not None for part in parts):
            references = [own for part in parts for own in part._both["reference_latents"][: len(part)]]
        super().__init__(
            condition if text_length is None else _padded(condition, text_length), references, num_branches
        )

    def is_of(self, parts: Sequence[GuidedInputs]) -> bool:
        """Whether these are the runs that were joined, in their order."""
        return len(parts) == len(self._parts) and all(
            one is other for one, other in zip(parts, self._parts, strict=True)
        )

    def _cache(self) -> StepCache | None:
        given = [part._both for part in self._parts]
        caches = [one["step_cache"] for one in given if one["step_cache"] is not None]
        if len(caches) < len(given):
            return None
        pooled = [one["pooled_projections"] for one in given]
        return JoinedStepCache(caches, pooled, self._parts[0].num_branches)


def guided_condition(positive: Condition, negative: Condition | None, dtype: torch.dtype) -> Condition:
    """Rows [negative, positive], or the positive ones, in the DiT's precision: parts may differ in theirs."""
    return (positive if negative is None else Condition.cat([negative, positive])).to(dtype)


def _condition(given: dict[str, Any]) -> Condition:
    return Condition(
        given["encoder_hidden_states"],
        given["pooled_projections"],
        given["encoder_attention_mask"],
        given["lengths"],
    )


def _padded(condition: Condition, length: int) -> Condition:
    """Rows of this many tokens, with a mask."""
    missing, mask = length - condition.prompt_embeds.shape[1], condition.mask
    if mask is None:
        mask = torch.ones(condition.prompt_embeds.shape[:2], dtype=torch.bool, device=condition.device)
    embeds = F.pad(condition.prompt_embeds, (0, 0, 0, missing))  # (R, L, J)
    padded = F.pad(mask, (0, missing))  # (R, L)
    return Condition(embeds, condition.pooled_prompt_embeds, padded, condition.lengths)
