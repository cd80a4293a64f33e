"""Settings of distillation: what is drawn for it, by how many steps, and how the teacher answers.

Whatever reads settings reads `DistillSettings`; a recipe is a `DistillConfig` (recipe.py), which can also
build its stage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepgen.sampling.few_steps import FewSteps, even_schedules, weighted_schedules
from deepgen.training.adapters import LoraSettings
from deepgen.training.optim import OptimConfig
from deepgen.training.supervised_settings import SupervisedSettings

Objective = Literal["mean-velocity", "distribution-matching"]
FAKE = "fake"  # first word of the names of the fake score's parameters


@dataclass(frozen=True, kw_only=True)
class MatchingSettings:
    """Of the objective distribution-matching (matching.py).

    Attributes:
        warmup_rounds: rounds in which the fake score learns alone.
        fake_updates: optimizer steps of a round. In each of them the fake score learns from the round's
            pictures, at new noise levels; the student learns in the first.
        least_sigma: noise levels are kept this far from 0 and 1.
    """

    warmup_rounds: int = 15
    fake_updates: int = 3
    least_sigma: float = 0.02

    def __post_init__(self) -> None:
        """Refuse a fake score that learns nothing, and levels of nothing."""
        if self.warmup_rounds < 0 or self.fake_updates < 1 or not 0 < self.least_sigma < 0.5:
            raise ValueError(
                "matching needs warmup_rounds of at least 0, fake_updates of at least 1 and least_sigma in "
                f"(0, 0.5), got {self.warmup_rounds}, {self.fake_updates} and {self.least_sigma}"
            )


@dataclass(frozen=True, kw_only=True)
class DistillSettings(SupervisedSettings):
    """A student of few steps without a negative branch, from the model itself with its guidance.

    No pictures are needed: prompts, and for edits their references. A round draws paths for some prompts,
    asks the teacher what each step of the student should have been, and is followed by
    `updates_per_round` optimizer steps on these answers. `num_steps` counts optimizer steps; a run is saved
    between rounds, where `save_every` steps and a round end together, and at its end. With the objective
    distribution-matching there are no answers: `passes_per_round`, `updates_per_pass`, `own_share` and
    `teacher_steps` are not read, and `matching` says what a round is. `data` and `dropout` never are,
    `levels` only by that objective.

    Attributes:
        objective: mean-velocity: the pictures the teacher makes of the same noise; distribution-matching:
            pictures distributed as the teacher's, for a student that began with the former.
        student: output folder of an earlier run of distillation from the same model, whose student goes on.
        matching: of the objective distribution-matching.
        prompts: a mix of prompts (.yaml), or a .txt, .jsonl or .parquet file; their rewards are not read.
        num_inference_steps: numbers of steps the student learns to draw with.
        first_share: share of the paths that are drawn with the first of them; the others share the rest.
        level_mean: of the logit-normal density with equal shares of which between the student's noise levels
            (before the shift; 0 is the middle), so that steps are short where it is high; None spaces them
            evenly.
        level_std: of that density.
        timestep_offset: by which the timesteps of other numbers than 4 are moved for each halving.
        paths_per_round: prompts of a round, on all processes together.
        passes_per_round: how many times each answer is learnt from.
        updates_per_pass: optimizer steps into which one time is divided.
        own_share: share of the paths that go on from where the student's own step led, in [0, 1]; the others
            go on from the teacher's answer.
        teacher_steps: solver steps of the teacher from noise to picture.
        guidance_scale: of the teacher; None is the model's own, for generation and for edits each its own.
        empty_share: share of the paths whose prompt is left empty.
        sizes: (width x height) that are drawn, in turn; without any, the model's own, or an edit's source's.
        draw_batch_size: paths of a forward pass of teacher and student; default `micro_batch_size`.
        max_kept_prompts: encoded prompts that are kept for further rounds.
    """

    num_steps: int = 3000
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-4, muon_lr=None, warmup_steps=50, betas=(0.9, 0.99))
    )
    ema_decay: float | None = 0.995
    trains_connector: bool = False
    transformer_lora: LoraSettings | None = field(
        default_factory=lambda: LoraSettings(rank=64, alpha=64, dropout=0.0, targets="linear")
    )
    num_workers: int = 0
    save_every: int = 100
    log_every: int = 10
    objective: Objective = "mean-velocity"
    student: Path | None = None
    matching: MatchingSettings = field(default_factory=MatchingSettings)
    prompts: Path | None = None
    num_inference_steps: tuple[int, ...] = (4,)
    first_share: float = 0.5
    level_mean: float | None = None
    level_std: float = 1.0
    timestep_offset: float = 20.0
    paths_per_round: int = 64
    passes_per_round: int = 2
    updates_per_pass: int = 2
    own_share: float = 0.5
    teacher_steps: int = 16
    guidance_scale: float | None = None
    empty_share: float = 0.05
    sizes: tuple[str, ...] = ()
    draw_batch_size: int | None = None
    max_kept_prompts: int = 4096

    def __post_init__(self) -> None:
        """Refuse what cannot be distilled."""
        super().__post_init__()
        for name in ("paths_per_round", "passes_per_round", "updates_per_pass", "teacher_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        counts = self.num_inference_steps
        if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
            raise ValueError(f"num_inference_steps must be different numbers of at least 1, got {counts}")
        if max(counts) > self.teacher_steps:
            raise ValueError(
                f"the teacher takes teacher_steps {self.teacher_steps} from noise to picture and the student "
                f"up to {max(counts)}; the teacher must take at least as many"
            )
        if wrong := [size for size in self.sizes if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size)]:
            raise ValueError(f"sizes are WIDTHxHEIGHT in pixels, such as 512x512; got {wrong[0]!r}")
        if self.benchmarks.names or self.validation.data is not None:
            raise ValueError(
                "benchmarks and validation look at a model with its guidance, which a student has not; "
                "evaluate its export with --preset turbo"
            )
        if not self.level_std > 0:
            raise ValueError(f"level_std must be positive, got {self.level_std}")
        for name in ("own_share", "first_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.trains_connector or self.vlm_lora is not None:
            raise ValueError(
                "distillation changes the DiT alone: its teacher reads the same condition; set "
                "trains_connector=false and vlm_lora=none"
            )
        if self.sharding != "none":
            raise ValueError(
                f"a path is drawn with the whole model on each process, got sharding {self.sharding!r}; set "
                "sharding=none, and a LoRA where the weights do not fit"
            )
        if self.objective == "distribution-matching" and self.is_compiled:
            raise ValueError(
                "the objective distribution-matching makes a second network of the DiT, which a compiled one "
                "cannot give; set is_compiled=false"
            )
        if self.transformer_lora is not None and self.transformer_lora.dropout:
            raise ValueError(
                f"transformer_lora.dropout {self.transformer_lora.dropout} makes the student another one at "
                "every look; set 0"
            )

    @property
    def drawn_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of `sizes`, pixels."""
        return [(int(height), int(width)) for width, height in (size.split("x") for size in self.sizes)]

    @property
    def untold(self) -> tuple[str, ...]:
        """The fake score serves the training alone."""
        return (f"{FAKE}.",)

    @property
    def updates_per_round(self) -> int:
        """Optimizer steps that follow a round."""
        if self.objective == "distribution-matching":
            return self.matching.fake_updates
        return self.passes_per_round * self.updates_per_pass

    @property
    def few_steps(self) -> FewSteps:
        """What the student is made for, which is written beside its weights."""
        counts, offset, mean = self.num_inference_steps, self.timestep_offset, self.level_mean
        if mean is None:
            return FewSteps(schedules=even_schedules(counts, offset))
        return FewSteps(schedules=weighted_schedules(counts, offset, mean, self.level_std))
