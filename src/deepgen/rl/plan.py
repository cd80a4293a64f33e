"""Plan of a reinforcement-learning run before it starts: memory, arithmetic, hours.

A rollout reads each prompt once, draws every image in `num_inference_steps` passes, decodes it, and passes it
through the DiT again, with gradient, at each trained step. What rewards take is not in the count: they judge
one group while the next is drawn, and may stand on other machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from deepgen.generation import GenerationSettings
from deepgen.models.config import Architecture
from deepgen.planning.accelerators import Accelerator
from deepgen.planning.flops import SampleShape, dit, is_trained, positions, sample_flops, vae_decoder
from deepgen.rl.config import RLSettings
from deepgen.training.activations import vae_working_bytes
from deepgen.training.plan import Counts, PlanConfig, Task, TrainingPlan, plan, plan_of_recipe


@dataclass(frozen=True)
class RLPlan:
    """What a run needs. Arithmetic is in FLOP, memory in bytes.

    Attributes:
        memory: the fullest moment on every process, its rows, and what to do where it does not fit.
        passes: of one image through the DiT, by purpose, in one rollout of all processes.
        flops: of one rollout of all processes, by task and purpose.
        num_rollouts: of the whole run.
        num_images: of one rollout.
        num_epochs: of prompts that could not be counted; the run may end after them, before its last step.
    """

    memory: TrainingPlan
    passes: dict[str, int]
    flops: dict[Task, dict[str, float]]
    num_rollouts: int
    num_images: int
    num_processes: int
    num_epochs: int | None = None

    def hours(self, task: Task) -> float:
        """Of the whole run where every prompt is of that task, at the card's assumed utilisation."""
        accelerator = self.memory.accelerator
        reached = self.num_processes * accelerator.tflops * 1e12 * accelerator.mfu
        return self.num_rollouts * sum(self.flops[task].values()) / reached / 3600

    def __str__(self) -> str:
        tasks = list(self.flops)
        lines = [*self.memory.memory_lines(), ""]
        lines.append(f"{'TFLOP of one rollout':28}" + "".join(f"{task:>12}" for task in tasks))
        for purpose in self.flops[tasks[0]]:
            numbers = [self.flops[task][purpose] / 1e12 for task in tasks]
            if any(numbers):
                lines.append(f"  {purpose:26}" + "".join(f"{number:>12,.1f}" for number in numbers))
        passes = ", ".join(f"{count:,} {purpose}" for purpose, count in self.passes.items() if count)
        lines += [f"  passes through the DiT: {passes}", ""]
        work = f"{self.num_rollouts:,} rollouts of {self.num_images:,} images"
        hours = {task: self.hours(task) for task in tasks}
        lines += self.memory.lines_of_tasks(work, hours, self.num_processes)
        lines.append("without what rewards take; they judge while the next group is drawn")
        if self.num_epochs is not None:
            lines.append(
                f"at most: the run ends after {self.num_epochs} epochs of its prompts, "
                "which could not be counted here"
            )
        return "\n".join(lines)


def plan_rl(
    recipe: RLSettings,
    architecture: Architecture,
    accelerator: Accelerator,
    num_processes: int = 1,
    price_per_hour: float | None = None,
) -> RLPlan:
    """Count what a recipe of reinforcement learning needs on such cards. Takes a few seconds.

    Args:
        recipe: the recipe; neither its prompts nor its data are opened.
        architecture: of the model it starts from.
        accelerator: one for every process.
        num_processes: which share the groups; each holds the whole model.
        price_per_hour: of one card, in any currency.
    """
    side = max(side or architecture.defaults["height"] for side in (recipe.height, recipe.width))
    config = plan_of_recipe(
        recipe,
        architecture,
        accelerator,
        image_size=side,
        edit_share=0.5,  # both kinds of prompts are shown
        micro_batch_size=recipe.micro_batch_size * _branches(recipe, architecture),
        global_batch_size=max(2, recipe.prompts_per_rollout * recipe.group_size),
        has_cached_latents=False,
    )
    counts = Counts()
    rollout = _Rollout(recipe, counts.models_of(config), num_processes, _branches(recipe, architecture))
    memory = plan(config, accelerator, recipe.num_steps, price_per_hour, counts, rollout.held_by)
    return RLPlan(
        memory=memory,
        passes=rollout.passes(),
        flops={task: rollout.flops(sample) for task, sample in config.samples.items()},
        num_rollouts=recipe.num_steps // recipe.updates_per_rollout,
        num_images=rollout.num_images,
        num_processes=num_processes,
    )


def _branches(recipe: RLSettings, architecture: Architecture) -> int:
    """Passes of the DiT at a step: guidance needs the negative branch too."""
    settings = GenerationSettings(guidance_scale=recipe.guidance_scale).resolve(architecture.defaults)
    return 2 if settings.is_guided else 1


class _Rollout:
    """The numbers of one rollout."""

    def __init__(
        self, recipe: RLSettings, models: Mapping[str, Any], num_processes: int, branches: int
    ) -> None:
        self.recipe, self.models, self.num_processes, self.branches = recipe, models, num_processes, branches
        self.objective = recipe.made_objective()
        self.num_images = recipe.prompts_per_rollout * recipe.group_size
        if self.objective.works_on == "clean":
            self.num_trained = recipe.num_levels
        else:
            self.num_trained = len(recipe.window.select(recipe.num_inference_steps, 0).trained)

    def passes(self) -> dict[str, int]:
        """Of one image through the DiT, by purpose."""
        trained = self.num_images * self.num_trained * self.branches
        return {
            "to draw": self.num_images * self.recipe.num_inference_steps * self.branches,
            "to train": trained,
            "by the reference": trained if self.objective.kl_coef else 0,
        }

    def flops(self, sample: SampleShape) -> dict[str, float]:
        """By purpose, of all processes."""
        recipe, p = self.recipe, positions(self.models, sample)
        work = sample_flops(self.models, sample, is_checkpointing=recipe.is_checkpointing_activations)
        forward = dit(self.models["transformer"], p, False).forward
        passes = self.passes()
        parts = ("vae", "vision", "vlm", "connector") if sample.references else ("vlm", "connector")
        reading = sum(work[part].forward for part in parts)
        trains_condition = is_trained(self.models["connector"]) or is_trained(self.models["vlm"])
        training = work["transformer"].training
        if trains_condition:
            training += work["vlm"].training + work["connector"].training
        supervised = recipe.updates_per_rollout * recipe.global_batch_size if recipe.sft_coef else 0
        return {
            "read the prompts": recipe.prompts_per_rollout * self.branches * reading,
            "draw": passes["to draw"] * forward,
            "decode": self.num_images * vae_decoder(self.models["vae"], sample.image_size),
            "train": passes["to train"] * training,
            "the KL's reference": passes["by the reference"] * forward,
            "supervised loss": supervised * sum(part.training for part in work.values()),
        }

    def held_by(self, found: TrainingPlan) -> TrainingPlan:
        """The plan of a supervised stage with what a rollout holds beside it."""
        rows = found.weights | self._rows(found.config)
        training = found.peak + sum(rows.values()) - sum(found.weights.values())
        batch = max(self.recipe.rollout_batch_size or self.recipe.micro_batch_size, self.recipe.group_size)
        # The decoder's widest layers of full size have twice the channels of the encoder's.
        working = 2 * vae_working_bytes(
            self.models["vae"], found.config.image_size, found.config.arithmetic.compute
        )
        drawing = (
            sum(rows.values()) - rows["gradients"] + batch * working + found.accelerator.overhead_gb * 1e9
        )
        return replace(found, weights=rows, peak=max(training, drawing))

    def _rows(self, config: PlanConfig) -> dict[str, float]:
        """Bytes of what a process keeps from drawing to training."""
        vae, transformer = self.models["vae"], self.models["transformer"]
        latent = config.image_size // 2 ** (len(vae.config.block_out_channels) - 1)
        size = latent**2 * transformer.config.in_channels * config.arithmetic.compute.itemsize
        states = 1 + 2 * self.num_trained  # the picture, and each trained step's two ends
        rows: dict[str, float] = {"trajectories": -(-self.num_images // self.num_processes) * states * size}
        if self.objective.kl_coef and config.trains_transformer:
            stored = config.frozen_dtype or config.compute_dtype
            count = sum(parameter.numel() for parameter in transformer.parameters())
            rows["the KL's reference"] = count * getattr(torch, stored).itemsize
        return rows
