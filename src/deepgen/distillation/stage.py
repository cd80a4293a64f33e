"""Distillation as a stage of the training loop, by regression: draw, ask, learn.

    answers = draw the student's and the teacher's paths for some prompts, and ask the teacher at each step
    loss    = squared error of the student's velocity against the mean of the teacher's

A round is drawn with the weights of its beginning and followed by exactly `updates_per_round` optimizer
steps, after which it is forgotten; so a run is stopped and saved between rounds only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepgen.data.prompts import PromptMix
from deepgen.distillation.answers import AnswerSampler, StepTarget
from deepgen.distillation.config import DistillSettings
from deepgen.distillation.mean_velocity import mean_velocity_losses
from deepgen.rl.policy import Policy
from deepgen.training.checkpoint_folders import USE_OLDER, whole_checkpoint
from deepgen.training.checkpoints import read_checkpoint_folder
from deepgen.training.config import StageLoss
from deepgen.training.parallel import Processes
from deepgen.training.randomness import generator
from deepgen.training.supervised_stage import SupervisedStage
from deepgen.training.trained_pipeline import TrainedPipeline
from deepgen.transfer import to_device

Metrics = dict[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class DistillBatch:
    """A micro-batch of answers of one size, and the number of all answers of the optimizer step."""

    answers: Sequence[StepTarget]
    num_total: int


class StudentStage:
    """A student and its teacher, which is the same model without what is trained: what objectives share.

    An objective adds `batches` and `loss`, and what it keeps in `begin`.

    Args:
        config: the recipe.
        processes: this process among the others.
        pipe: the model; its DiT is changed in place.
        mix: prompts.
    """

    def __init__(
        self, config: DistillSettings, processes: Processes, pipe: TrainedPipeline, mix: PromptMix
    ) -> None:
        self.config, self.processes, self.mix = config, processes, mix
        self.supervised = SupervisedStage(config, processes, pipe, None)
        self.modules, self.device = self.supervised.modules, self.supervised.device
        self.policy = Policy(
            pipe,
            guidance_scale=config.guidance_scale,
            is_condition_trained=False,
            has_reference=True,
            device=self.device,
        )
        self.sampler = AnswerSampler(config, self.policy, mix, self.supervised.dtype)
        self.observers: list = []
        self.period = config.updates_per_round
        if config.student is not None:
            go_on_from(config.student, self.supervised.objective)
        self.begin()

    def begin(self) -> None:
        """Make what the objective keeps besides, once the student has its first weights."""

    def paths(self, number: int) -> range:
        """Numbers of the paths of a round, of all processes."""
        count = self.config.paths_per_round
        return range(number * count, (number + 1) * count)


class DistillStage(StudentStage):
    """Rounds of answers, and micro-batches of the student's loss."""

    def begin(self) -> None:
        """No round is drawn yet."""
        self._round, self._answers = -1, list[StepTarget]()
        self._metrics: Metrics = {}

    def batches(self, step: int) -> Iterator[DistillBatch]:
        """This process's micro-batches of an optimizer step; the first of a round draws it."""
        number, update = divmod(step, self.config.updates_per_round)
        if update == 0 or self._round != number:  # the latter: a run that ended inside a round goes on
            self._draw(number)
        part = self.part(number, update)
        wanted = set(part)
        alike: dict[tuple, list[StepTarget]] = {}
        for answer in self._answers:
            if (answer.path, answer.step) in wanted:
                key = answer.prompt.size, len(answer.prompt.references)
                alike.setdefault(key, []).append(answer)
        size = self.config.micro_batch_size
        for members in alike.values():
            for begin in range(0, len(members), size):
                yield DistillBatch(members[begin : begin + size], len(part))

    def part(self, number: int, update: int) -> list[tuple[int, int]]:
        """(path, step) of all processes' answers that an update of a round learns from."""
        config = self.config
        every = [(path, step) for path in self.paths(number) for step in range(self.sampler.num_steps(path))]
        once, part = divmod(update, config.updates_per_pass)
        order = generator(config.seed, "answers", number, once).permutation(len(every))
        return [every[place] for place in order[part :: config.updates_per_pass]]

    def _draw(self, number: int) -> None:
        started, self.sampler.num_forwards = time.perf_counter(), 0
        own = list(self.paths(number)[self.processes.rank :: self.processes.world_size])
        with self.supervised.autocast():
            self._answers, self._round = self.sampler.draw(own), number
        self._metrics = {
            "seconds/draw": (time.perf_counter() - started, 1.0),
            "dit_passes": (float(sum(self.processes.gather(self.sampler.num_forwards))), 1.0),
        }

    def loss(self, batch: DistillBatch) -> StageLoss:
        """A micro-batch's share of the mean over the step's answers."""
        answers = batch.answers
        with self.supervised.autocast():
            losses = self.losses(answers)
        values = losses.detach()
        scales = torch.stack([answer.target for answer in answers]).float().square().flatten(1).mean(1)
        rows: dict[str, list[int]] = {}
        for row, answer in enumerate(answers):
            task = "edit" if answer.prompt.references else "generate"
            for name in (f"loss/{task}", f"loss/step {answer.step + 1} of {answer.num_steps}"):
                rows.setdefault(name, []).append(row)
        shown = {"loss": values, "error_share": values / scales}
        shown |= {name: torch.stack([values[row] for row in some]) for name, some in rows.items()}
        metrics = {name: (some.sum(), float(len(some))) for name, some in shown.items()}
        return StageLoss(losses.sum() / batch.num_total, metrics)

    def losses(self, answers: Sequence[StepTarget]) -> Tensor:
        """Of every answer, float32 (B,)."""
        noisy = torch.stack([answer.noisy for answer in answers])  # (B, C, h, w)
        target = torch.stack([answer.target for answer in answers])
        levels = [self.sampler.level(answer.num_steps, answer.sigma) for answer in answers]
        level = to_device(torch.tensor(levels), self.device)  # (B,)
        velocity = self.sampler.student([answer.prompt for answer in answers], noisy, level)
        return mean_velocity_losses(velocity, target)

    def take_metrics(self) -> Metrics:
        """What a round has to say of itself, once, with its first optimizer step."""
        metrics, self._metrics = self._metrics, {}
        return metrics


def go_on_from(run_dir: Path, objective: nn.Module) -> None:
    """Put the student of an earlier run, its averages where it kept some, into the trained parameters.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: the checkpoint is damaged, or of other parameters.
    """
    snapshot = read_checkpoint_folder(whole_checkpoint(run_dir, advice=USE_OLDER))
    values = snapshot.ema or snapshot.model
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            shape = tuple(values[name].shape) if name in values else "none"
            if shape != tuple(parameter.shape):
                raise ValueError(
                    f"the student of {run_dir} is not of this recipe: {name} has shape {shape} there and "
                    f"{tuple(parameter.shape)} here; take the same transformer_lora"
                )
            parameter.copy_(values[name])
