"""Distribution matching as a stage of the training loop: draw, compare, learn twice.

    drawn        = the student's pictures, through all of its steps
    student loss = half the squared distance to where teacher and fake score would move them
    fake loss    = flow matching of the fake score on the same pictures

Student and fake score share no trained weight, so one optimizer step updates both. The fake score has to
follow the student closely, so it learns from the pictures of a round in further optimizer steps alone; then
they are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgen.distillation.answers import fine_sigmas
from deepgen.distillation.config import FAKE
from deepgen.distillation.matching import blurred, draw_by_steps, fake_score, matching_losses
from deepgen.distillation.stage import StudentStage
from deepgen.rl.policy import EncodedPrompt
from deepgen.sampling.noise_levels import sample_losses
from deepgen.training.config import StageLoss
from deepgen.training.noise_levels import noise_levels
from deepgen.training.randomness import normal
from deepgen.transfer import to_device


@dataclass(frozen=True, eq=False)
class MatchingBatch:
    """Paths of one size, task and number of steps, in one update of a round.

    Attributes:
        paths: their numbers.
        prompts: with the condition of both branches.
        update: of the round, from 0.
        num_total: paths of the round, on all processes.
        trains_student: otherwise the fake score learns alone.
        drawn: what the student drew of them in the round's first update, (B, C, h, w); None in that one.
    """

    paths: Sequence[int]
    prompts: Sequence[EncodedPrompt]
    update: int
    num_total: int
    trains_student: bool
    drawn: Tensor | None = None


class MatchingStage(StudentStage):
    """Paths, and micro-batches of both losses."""

    def begin(self) -> None:
        """The fake score, beside the student's weights."""
        self.fake = fake_score(self.policy.pipe.transformer)
        self.supervised.objective.add_module(FAKE, self.fake)  # so that the loop trains and saves it
        self._drawn: dict[tuple[int, ...], Tensor] = {}  # of this round

    def batches(self, step: int) -> Iterator[MatchingBatch]:
        """This process's micro-batches of an optimizer step."""
        config = self.config
        number, update = divmod(step, config.updates_per_round)
        paths = self.paths(number)
        own = list(paths[self.processes.rank :: self.processes.world_size])
        if update == 0:
            self._drawn.clear()
        with self.supervised.autocast():
            encoded = dict(zip(own, self.sampler.encode(own), strict=True))
        trains_student = update == 0 and number >= config.matching.warmup_rounds
        for some in self.sampler.alike(encoded, config.micro_batch_size):
            prompts, drawn = [encoded[path] for path in some], self._drawn.get(tuple(some))
            yield MatchingBatch(some, prompts, update, len(paths), trains_student, drawn)

    def loss(self, batch: MatchingBatch) -> StageLoss:
        """A micro-batch's share of the mean over the round's paths."""
        with self.supervised.autocast():
            drawn = batch.drawn
            if drawn is None:
                with torch.set_grad_enabled(batch.trains_student):
                    drawn = self.draw(batch)
                self._drawn[tuple(batch.paths)] = drawn.detach()
            fake = self.fake_losses(batch, drawn.detach())
            loss, task = fake.sum(), "edit" if batch.prompts[0].references else "generate"
            shown: dict[str, Tensor] = {"loss/fake": fake.detach()}
            if batch.trains_student:
                losses, gaps = self.student_losses(batch, drawn)
                loss = loss + losses.sum()
                steps = self.sampler.num_steps(batch.paths[0])
                shown |= {"gap": gaps, f"gap/{task}": gaps, f"gap/{steps} steps": gaps}
        metrics = {name: (values.sum(), float(len(values))) for name, values in shown.items()}
        return StageLoss(loss / batch.num_total, metrics)

    def draw(self, batch: MatchingBatch) -> Tensor:
        """What the student draws, float32 (B, C, h, w)."""
        sampler, prompts = self.sampler, batch.prompts
        num_steps = sampler.num_steps(batch.paths[0])
        noise = self._normal("path noise", batch)
        sigmas = fine_sigmas(self.policy, sampler.schedules[num_steps], 1, noise.shape[2:]).tolist()

        def velocity(noisy: Tensor, sigma: float) -> Tensor:
            levels = torch.full((len(prompts),), sampler.level(num_steps, sigma), device=self.device)
            return sampler.student(prompts, noisy, levels)

        return draw_by_steps(velocity, noise, sigmas)

    def student_losses(self, batch: MatchingBatch, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Of every path, float32 (B,): the loss, and the squared difference of the two velocities."""
        sigma, prompts = self._sigma(batch, 0), batch.prompts
        with torch.no_grad():
            noisy = blurred(drawn, self._normal("matching noise 0", batch), sigma)
            teacher = self.policy.velocity(prompts, range(len(prompts)), noisy, sigma, by_reference=True)
            fake = self._fake_velocity(batch, noisy, sigma)
            gaps = (fake.float() - teacher.float()).square().flatten(1).mean(1)
        return matching_losses(drawn, noisy, sigma, teacher, fake), gaps

    def fake_losses(self, batch: MatchingBatch, drawn: Tensor) -> Tensor:
        """Flow matching on what the student drew, float32 (B,)."""
        number = batch.update + 1
        sigma, noise = self._sigma(batch, number), self._normal(f"matching noise {number}", batch)
        return sample_losses(self._fake_velocity(batch, blurred(drawn, noise, sigma), sigma), drawn, noise)

    def _fake_velocity(self, batch: MatchingBatch, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Of the student's pictures of that number of steps, which it knows as the student does."""
        offset = self.sampler.level(self.sampler.num_steps(batch.paths[0]), 0.0)
        return self.sampler.student(batch.prompts, noisy, sigma + offset, self.fake)

    def _sigma(self, batch: MatchingBatch, number: int) -> Tensor:
        """Noise levels of every path for one of its draws, (B,): over a round they are spread evenly."""
        pipe, config = self.policy.pipe, self.config
        draws = config.matching.fake_updates + 1
        height, width = self.sampler.latent_shape(batch.prompts[0])[1:]
        tokens = height * width // pipe.transformer.config.patch_size**2
        samples = [path * draws + number for path in batch.paths]
        total = config.paths_per_round * draws
        levels = noise_levels(
            config.levels, pipe.scheduler, config.seed, samples, total, [tokens] * len(samples)
        )
        low, high = config.matching.least_sigma, 1 - config.matching.least_sigma
        return to_device(levels.sigma.clamp(low, high), self.device)

    def _normal(self, purpose: str, batch: MatchingBatch) -> Tensor:
        shape = self.sampler.latent_shape(batch.prompts[0])
        drawn = [normal(self.config.seed, purpose, path, shape) for path in batch.paths]
        return to_device(torch.stack(drawn), self.device)
