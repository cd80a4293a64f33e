"""Settings of stage 3, reinforcement learning: sampling, scoring and the policy update.

Whatever reads settings reads `RLSettings`; a recipe is an `RLConfig` (recipe.py), which can also build its
stage. So the parts of a stage know their settings, and the stage its parts, without a circle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepgen.rewards.ensemble import RewardEnsembleConfig
from deepgen.rl.advantages import check_advantages
from deepgen.rl.evaluation import RLEvaluationConfig
from deepgen.rl.objective import Objective
from deepgen.rl.objectives import make_objective
from deepgen.sampling.sde import check_sampler
from deepgen.sampling.windows import WindowConfig
from deepgen.training.adapters import LoraSettings
from deepgen.training.optim import OptimConfig
from deepgen.training.overrides import override
from deepgen.training.supervised_settings import SupervisedSettings

FlatGroups = Literal["drop", "keep", "resample"]


@dataclass(frozen=True, kw_only=True)
class RLSettings(SupervisedSettings):
    """What is drawn, how it is scored and how the policy follows.

    `data`, `global_batch_size`, `dropout` and `levels` are those of the supervised loss that is mixed in
    where `sft_coef` is above 0. The defaults are a cheap rollout; the recipe `rl-published` has the published
    one.

    Attributes:
        num_epochs: the run ends after so many times the number of prompts, where that is before `num_steps`.
        prompts: a mix of prompts (.yaml), or a .txt, .jsonl or .parquet file scored with `rewards`.
        rewards: weights of a file's rewards, as `name=weight`.
        group_size: images of a prompt, which are compared with each other.
        prompts_per_rollout: groups of a rollout, on all processes together.
        updates_per_rollout: optimizer steps that follow it. `num_steps` counts optimizer steps.
        num_inference_steps: solver steps of a rollout.
        sampler, eta: the stochastic sampler and its noise (sampling/sde.py).
        window: which steps are stochastic, and which are trained.
        num_levels: noise levels an image is trained at, for objectives that work on clean latents.
        guidance_scale: of rollout and loss; 1 draws without the negative branch, None with the model's own
            for pictures and for edits, as a user does.
        shares_noise: images of a group begin with the same noise.
        height, width: of what is drawn, pixels; default the model's own, or an edit's source's.
        rollout_batch_size: images of a forward pass of the rollout; default `micro_batch_size`.
        objective, objective_options: name of a file in rl/objectives, and its fields as `name=value`.
        advantage, advantage_clip: name of a way in rl/advantages.py, and the largest value.
        flat_groups: what becomes of groups in which all rewards are equal.
        max_resamples: how many times they are replaced by groups of other prompts.
        max_log_prob_gap: how far log-probabilities of a rollout and of its first loss may differ before the
            run is stopped, because it trains another policy than the one that drew; inf never stops.
        sft_coef: lambda of (1 - lambda) RL + lambda supervised loss, in each optimizer step.
        panel: time-outs, retries and failure limits of rewards.
        evaluation: fixed prompts that are drawn and judged as a user would see them.
        sheet_every: optimizer steps between pictures of a rollout with rewards and advantages; 0 draws none.
        sheet_groups: groups on such a picture.
    """

    num_steps: int = 500
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-4, muon_lr=None, warmup_steps=5, decay_share=0.0, betas=(0.9, 0.999)
        )
    )
    ema_decay: float | None = None
    trains_connector: bool = False
    transformer_lora: LoraSettings | None = field(
        default_factory=lambda: LoraSettings(rank=32, alpha=64, dropout=0.0)
    )
    num_workers: int = 0
    save_every: int = 50
    log_every: int = 1
    num_epochs: int | None = None
    prompts: Path | None = None
    rewards: tuple[str, ...] = ()
    group_size: int = 8
    prompts_per_rollout: int = 32
    updates_per_rollout: int = 1
    num_inference_steps: int = 12
    sampler: str = "cps"
    eta: float = 0.8
    window: WindowConfig = field(default_factory=lambda: WindowConfig(kind="random", size=4))
    num_levels: int = 4
    guidance_scale: float | None = 1.0
    shares_noise: bool = True
    height: int | None = None
    width: int | None = None
    rollout_batch_size: int | None = None
    objective: str = "flow_grpo"
    objective_options: tuple[str, ...] = ()
    advantage: str = "gdpo"
    advantage_clip: float = 5.0
    flat_groups: FlatGroups = "drop"
    max_resamples: int = 2
    max_log_prob_gap: float = 1e-3
    sft_coef: float = 0.0
    panel: RewardEnsembleConfig = field(default_factory=RewardEnsembleConfig)
    evaluation: RLEvaluationConfig = field(default_factory=RLEvaluationConfig)
    sheet_every: int = 20
    sheet_groups: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        counts = {
            name: getattr(self, name)
            for name in ("prompts_per_rollout", "updates_per_rollout", "num_levels", "max_resamples")
        }
        wrong = [name for name, value in counts.items() if value < 1]
        if wrong:
            raise ValueError(f"{wrong[0]} must be at least 1, got {counts[wrong[0]]}")
        if self.group_size < 2:
            raise ValueError(f"group_size {self.group_size} leaves nothing to compare with; set 2 or more")
        if self.num_steps % self.updates_per_rollout or self.save_every % self.updates_per_rollout:
            raise ValueError(
                f"num_steps {self.num_steps} and save_every {self.save_every} count optimizer steps and must "
                f"be multiples of updates_per_rollout {self.updates_per_rollout}"
            )
        if self.num_epochs is not None and self.num_epochs < 1:
            raise ValueError(f"num_epochs must be at least 1, or none, got {self.num_epochs}")
        if not self.max_log_prob_gap > 0:
            raise ValueError(
                f"max_log_prob_gap must be above 0, got {self.max_log_prob_gap}; inf never stops"
            )
        if not 0 <= self.sft_coef < 1:
            raise ValueError(f"sft_coef must be in [0, 1), got {self.sft_coef}")
        if self.sharding != "none":
            raise ValueError(
                f"a rollout draws with the whole model on each process, got sharding {self.sharding!r}; "
                "set sharding=none, and a LoRA where the weights do not fit"
            )
        for name in ("transformer_lora", "vlm_lora"):
            settings = getattr(self, name)
            if settings is not None and settings.dropout:
                raise ValueError(
                    f"{name}.dropout {settings.dropout} makes the policy another one at every look; set 0"
                )
        check_sampler(self.sampler, self.eta)
        check_advantages(self.advantage, self.advantage_clip)
        objective = self.made_objective()
        if objective.works_on == "trajectory":
            self.window.check(self.num_inference_steps)
        elif self.shares_noise:
            raise ValueError(
                f"objective {self.objective} draws along the ODE, where equal noise gives equal images; "
                "set shares_noise=false"
            )

    @property
    def images_per_step(self) -> float:
        """Images drawn per optimizer step."""
        return self.prompts_per_rollout * self.group_size / self.updates_per_rollout

    def steps_of(self, num_prompts: int) -> int:
        """Optimizer steps of the run: `num_epochs` times so many prompts, `num_steps` at most."""
        if self.num_epochs is None:
            return self.num_steps
        num_rollouts = math.ceil(self.num_epochs * num_prompts / self.prompts_per_rollout)
        return min(self.num_steps, num_rollouts * self.updates_per_rollout)

    def made_objective(self) -> Objective:
        """The objective with its options."""
        wrong = [option for option in self.objective_options if "=" not in option]
        if wrong:
            raise ValueError(f"objective option {wrong[0]!r} is not name=value")
        changes = dict(option.split("=", 1) for option in self.objective_options)
        made: Any = make_objective(self.objective)
        return override(made, changes)
