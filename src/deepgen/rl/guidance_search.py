"""Search for the best guidance scale: the same prompts drawn with several scales, and scored.

Rewards that saw pictures drawn without guidance move part of its work into the weights, and a model that then
draws with the scale it had before may overdo it. The scale is a number in the model's folder, and can follow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgen.data.prompts import Prompt, PromptMix
from deepgen.generation import FALLBACK_DEFAULTS, GenerationSettings
from deepgen.rewards.ensemble import RewardEnsemble
from deepgen.rl.advantages import weighted_totals
from deepgen.rl.evaluation import draw_and_judge

INDEX = "model_index.json"
EDIT_SETTING = "edit_guidance_scale"
_SEED = 0x5CA1E  # of the prompts; no training seed, and not the evaluation's


@dataclass(frozen=True, kw_only=True)
class GuidanceResult:
    """What the pictures of one scale were worth.

    Attributes:
        is_edit: of edits, or of pictures drawn from words alone.
        scale: the guidance scale they were drawn with; 1 is none.
        reward: mean of their weighted rewards.
        error: its standard error, of the prompts. The same prompts and noise are drawn with every scale, so
            the difference of two scales is known better than either.
        num_judged: pictures that have a verdict.
    """

    is_edit: bool
    scale: float
    reward: float
    error: float
    num_judged: int

    @property
    def setting(self) -> str:
        """The name of the scale among a model's defaults."""
        return EDIT_SETTING if self.is_edit else "guidance_scale"


def fixed_prompts(mix: PromptMix, num_prompts: int) -> list[Prompt]:
    """The prompts every scale draws: the first of the mix in an order of their own."""
    return [mix.draw(_SEED, number) for number in range(num_prompts)]


def check_scales(scales: Sequence[float]) -> None:
    """Raise ValueError unless there are some, all of them finite and at least 1, which is no guidance."""
    wrong = [scale for scale in scales if not scale >= 1 or math.isinf(scale)]
    if wrong or not scales:
        got = f"{wrong[0]:g}" if wrong else "none"
        raise ValueError(f"guidance scales are finite numbers of at least 1, got {got}")


def try_scales(
    pipe: Callable[..., Any],
    prompts: Sequence[Prompt],
    ensemble: RewardEnsemble,
    scales: Sequence[float],
    *,
    batch_size: int = 16,
    num_inference_steps: int | None = None,
) -> Iterator[GuidanceResult]:
    """Draw the prompts with each scale; captions and edits are judged apart.

    Args:
        pipe: the model.
        prompts: with the weights of their rewards.
        ensemble: the rewards.
        scales: guidance scales, 1 or more.
        batch_size: prompts drawn together.
        num_inference_steps: default the model's own.

    Yields:
        One result of captions and one of edits for each scale, where there are such prompts, as it is known.

    Raises:
        ValueError: a scale is none, or no picture of a scale could be judged.
    """
    check_scales(scales)
    for scale in dict.fromkeys(scales):
        order, scores = draw_and_judge(
            pipe,
            prompts,
            ensemble,
            batch_size=batch_size,
            num_inference_steps=num_inference_steps,
            guidance_scale=scale,
        )
        totals = weighted_totals(
            *(torch.from_numpy(part) for part in (scores.rewards, scores.valid, scores.weights))
        ).numpy()
        edits = np.array([bool(prompts[place].references) for place in order])
        for is_edit in sorted(set(edits.tolist())):
            worth = totals[edits == is_edit]
            worth = worth[~np.isnan(worth)]
            if not len(worth):
                reasons = {reason for said in scores.reasons for reason in said.values() if reason}
                num_drawn = int((edits == is_edit).sum())
                raise ValueError(
                    f"none of {num_drawn} pictures with guidance {scale:g} got a verdict: "
                    f"{'; '.join(sorted(reasons)[:3]) or 'the rewards gave no reason'}"
                )
            yield GuidanceResult(
                is_edit=is_edit,
                scale=scale,
                reward=float(worth.mean()),
                error=float(worth.std() / math.sqrt(len(worth))),
                num_judged=len(worth),
            )


def best_scales(
    results: Sequence[GuidanceResult], defaults: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """The scales with the largest reward, by their names among a model's defaults.

    Of scales worth the same, the model's own is kept where it is one of them; otherwise it is the smallest.
    """
    best = {}
    for name in sorted({result.setting for result in results}, reverse=True):
        own = _own_scale(defaults, name == EDIT_SETTING) if defaults else None
        some = [result for result in results if result.setting == name]
        best[name] = max(some, key=lambda one: (one.reward, one.scale == own, -one.scale)).scale
    return best


def _own_scale(defaults: Mapping[str, Any], is_edit: bool) -> float:
    return GenerationSettings().resolve(defaults, is_edit).guidance_scale


def check_folder(folder: Path) -> None:
    """Raise FileNotFoundError where a folder holds no pipeline, which alone has defaults of its own."""
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} holds no {INDEX}; export the run to a folder first")


def write_scales(folder: Path, scales: Mapping[str, float]) -> None:
    """Make the scales a model's own. Edits keep theirs where only that of captions is given.

    Args:
        folder: of a pipeline, as `save_pretrained` or an export writes it.
        scales: from `best_scales`.

    Raises:
        FileNotFoundError: the folder holds no pipeline.
    """
    check_folder(folder)
    index = folder / INDEX
    about = json.loads(index.read_text(encoding="utf-8"))
    defaults = {**FALLBACK_DEFAULTS, **about.get("defaults", {})}
    defaults.setdefault(EDIT_SETTING, _own_scale(defaults, is_edit=True))
    about["defaults"] = {**defaults, **scales}
    part = index.with_name(index.name + ".part")
    part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    part.replace(index)
