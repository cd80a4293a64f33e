"""Evaluation of the policy during training: fixed prompts and seeds, the model's own sampler, the rewards.

Training draws stochastic steps, few of them and mostly without guidance; what a user gets is drawn here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepgen.config import COUNT, NOT_NEGATIVE, check_bounds
from deepgen.data.prompts import Prompt, PromptMix
from deepgen.rewards.ensemble import RewardEnsemble
from deepgen.rewards.reward import Candidate
from deepgen.rewards.reward_batch import RewardBatch
from deepgen.rl.rollout_metrics import Metrics

_SEED = 0x5EED  # of the prompts that are looked at; no training seed


@dataclass(frozen=True, kw_only=True)
class RLEvaluationConfig:
    """What is looked at, and how often.

    Attributes:
        prompts: a mix of its own, or a file scored with the run's rewards; None looks at nothing.
        every: optimizer steps between two looks; there is one before the first step and one after the last.
        num_prompts: one picture each; drawn from the sets as a rollout draws them.
        prompts_per_set: the first so many of every set instead, so that each is looked at equally well.
        num_inference_steps, guidance_scale: default the model's own.
        batch_size: prompts drawn together.
    """

    prompts: Path | None = None
    every: int = 50
    num_prompts: int = 64
    prompts_per_set: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        counts = (self.every, self.num_prompts, self.batch_size, self.prompts_per_set or 1)
        if min(counts) < 1 or self.prompts_per_set == 0:
            raise ValueError(
                "an evaluation needs every, num_prompts, prompts_per_set and batch_size of at least 1"
            )
        check_bounds(self, {"num_inference_steps": COUNT, "guidance_scale": NOT_NEGATIVE})


class RLEvaluation:
    """Mean rewards over fixed prompts, by the set a prompt is from.

    Args:
        config: what and how often.
        stage: a stage of reinforcement learning.
        mix: the prompts.
        ensemble: the rewards; those held out are logged too.
    """

    def __init__(
        self, config: RLEvaluationConfig, stage: Any, mix: PromptMix, ensemble: RewardEnsemble
    ) -> None:
        self.config, self.stage, self.ensemble = config, stage, ensemble
        self.every = config.every
        self.prompts = fixed_prompts(config, mix)

    def __call__(self, step: int, output_dir: Path | None = None) -> Metrics:
        """`evaluation/SET/REWARD`, each as (sum, count) over the prompts that could be judged.

        `judged/SET/REWARD` is their number; `not judged/REWARD/REASON` counts the others.
        """
        config = self.stage.config
        with self.stage.supervised.autocast():
            order, scores = draw_and_judge(
                self.stage.pipe,
                self.prompts,
                self.ensemble,
                batch_size=self.config.batch_size,
                height=config.height,
                width=config.width,
                num_inference_steps=self.config.num_inference_steps,
                guidance_scale=self.config.guidance_scale,
            )
        totals: Metrics = {
            f"not judged/{name}/{reason}": (float(count), 0.0)
            for name, tally in scores.tallies.items()
            for reason, count in tally.masked.items()
        }
        for names, values, valid in (
            (scores.names, scores.rewards, scores.valid),
            (scores.held_out_names, scores.held_out, scores.held_out_valid),
        ):
            for column, name in enumerate(names):
                for row, n in enumerate(order):
                    if valid[row, column]:
                        key = f"{self.prompts[n].dataset}/{name}"
                        total, count = totals.get(f"evaluation/{key}", (0.0, 0.0))
                        totals[f"evaluation/{key}"] = (total + float(values[row, column]), count + 1)
                        totals[f"judged/{key}"] = (count + 1, 0.0)
        return totals


def fixed_prompts(config: RLEvaluationConfig, mix: PromptMix) -> list[Prompt]:
    """The prompts that an evaluation looks at every time."""
    if config.prompts_per_set is None:
        return [mix.draw(_SEED, number) for number in range(config.num_prompts)]
    return [
        one.prompt(index) for one in mix.sets for index in range(min(config.prompts_per_set, len(one.rows)))
    ]


@torch.no_grad()
def draw_and_judge(
    pipe: Callable[..., Any],
    prompts: Sequence[Prompt],
    ensemble: RewardEnsemble,
    *,
    batch_size: int,
    **options: Any,
) -> tuple[list[int], RewardBatch]:
    """One picture of each prompt, seeded with its place, and what the rewards say of it.

    Args:
        pipe: called with texts, `image`, `seed` and the options.
        prompts: captions and edits; these are drawn after those.
        ensemble: the rewards; nothing else may be under way there.
        batch_size: prompts drawn together.
        **options: of every call.

    Returns:
        The prompts' places in the order they were drawn, and their scores in that order.
    """
    order: list[int] = []
    for is_edit in (False, True):
        some = [n for n, prompt in enumerate(prompts) if bool(prompt.references) == is_edit]
        for begin in range(0, len(some), batch_size):
            members = some[begin : begin + batch_size]
            asked = [prompts[n] for n in members]
            images = pipe(
                [prompt.text for prompt in asked],
                image=[list(prompt.references) for prompt in asked] if is_edit else None,
                seed=members,
                **options,
            ).images
            for prompt, image in zip(asked, images, strict=True):
                candidate = Candidate(
                    image=image, prompt=prompt.text, references=prompt.references, metadata=prompt.metadata
                )
                ensemble.submit([candidate], prompt.weights)
            order += members
    return order, ensemble.collect()
