"""Paths of student and teacher, and what the teacher answers at each of the student's steps.

Everything random belongs to the number of a path, so it is the same on any number of processes and after a
restart: its prompt, its noise, the number of steps and whether it goes on from the student's own states.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgen.data.prompts import Prompt, PromptMix
from deepgen.distillation.config import DistillSettings
from deepgen.distillation.mean_velocity import mean_velocity, teacher_path
from deepgen.rl.policy import EncodedPrompt, Policy
from deepgen.sampling.few_steps import FewStepSchedule
from deepgen.sampling.schedule import set_timesteps
from deepgen.training.randomness import generator, is_dropped, normal
from deepgen.transfer import to_device

# B paths drawn together; C, h, w latent channels and sides


@dataclass(frozen=True, eq=False)
class StepTarget:
    """One step of one path.

    Attributes:
        path: its number.
        step: of the student, from 0.
        num_steps: of the student.
        prompt: with the condition of both branches.
        noisy: the state the step begins at, (C, h, w).
        sigma: its noise level.
        target: mean velocity of the teacher from there to the next level, (C, h, w).
    """

    path: int
    step: int
    num_steps: int
    prompt: EncodedPrompt
    noisy: Tensor
    sigma: float
    target: Tensor


class AnswerSampler:
    """Draws paths.

    Args:
        config: the recipe.
        policy: the student; its reference is the teacher.
        mix: prompts.
        dtype: in which states and answers are kept.

    Attributes:
        num_forwards: of one sample and branch through the DiT, since it was last set to 0.
    """

    def __init__(self, config: DistillSettings, policy: Policy, mix: PromptMix, dtype: torch.dtype) -> None:
        self.config, self.policy, self.mix, self.dtype = config, policy, mix, dtype
        self.schedules = config.few_steps.schedules
        self.num_forwards = 0
        self._kept: dict[tuple[str, str, tuple[int, int] | None], EncodedPrompt] = {}

    def num_steps(self, path: int) -> int:
        """Steps of the student on a path."""
        first, *others = self.config.num_inference_steps
        rng = generator(self.config.seed, "steps", path)
        is_first = not others or rng.random() < self.config.first_share
        return first if is_first else int(others[rng.integers(len(others))])

    @torch.no_grad()
    def draw(self, paths: Sequence[int]) -> list[StepTarget]:
        """The answers of some paths."""
        encoded = dict(zip(paths, self.encode(paths), strict=True))
        answers = []
        for some in self.alike(encoded, self.config.draw_batch_size or self.config.micro_batch_size):
            answers += self._follow(some, [encoded[path] for path in some])
        return answers

    def alike(self, encoded: Mapping[int, EncodedPrompt], batch_size: int) -> Iterator[list[int]]:
        """The paths in batches of one size, number of references and number of steps each."""
        groups: dict[tuple, list[int]] = {}
        for path, one in encoded.items():
            groups.setdefault((one.size, len(one.references), self.num_steps(path)), []).append(path)
        for members in groups.values():
            for begin in range(0, len(members), batch_size):
                yield members[begin : begin + batch_size]

    def student(
        self, prompts: Sequence[EncodedPrompt], noisy: Tensor, levels: Tensor, network: Any = None
    ) -> Tensor:
        """Velocities (B, C, h, w) of the student, without a negative branch.

        Args:
            prompts: of every sample.
            noisy: (B, C, h, w).
            levels: timesteps of every sample, with their offset, as a share of 1000: (B,).
            network: another DiT in its place.
        """
        alone = [replace(prompt, negative=None) for prompt in prompts]
        return self.policy.velocity(alone, range(len(alone)), noisy, levels, network=network)

    def level(self, num_steps: int, sigma: float) -> float:
        """What `student` takes for a noise level, where the path has so many steps."""
        trained = self.policy.pipe.scheduler.config.num_train_timesteps
        return sigma + self.schedules[num_steps].timestep_offset / trained

    # --- prompts --------------------------------------------------------------------------------------------

    def encode(self, paths: Sequence[int]) -> list[EncodedPrompt]:
        """Their prompts, read once as long as they are kept."""
        seed, wanted = self.config.seed, []
        for path in paths:
            prompt, height_width = self.mix.draw(seed, path), self._size(path)
            if is_dropped(seed, "empty prompt", path, self.config.empty_share):
                prompt = replace(prompt, text="")
            wanted.append(((prompt.key, prompt.text, height_width), prompt))
        missing: dict[tuple[int, int] | None, dict] = {}
        for key, prompt in wanted:
            if key not in self._kept:
                missing.setdefault(key[2], {})[key] = prompt
        found = {key: self._kept[key] for key, _ in wanted if key in self._kept}
        for size, prompts in missing.items():
            found |= self._read(prompts, size)
        self._kept |= found
        while len(self._kept) > self.config.max_kept_prompts:
            del self._kept[next(iter(self._kept))]
        return [found[key] for key, _ in wanted]

    def _read(self, prompts: dict[tuple, Prompt], size: tuple[int, int] | None) -> dict[tuple, EncodedPrompt]:
        """One by one: a prompt read beside others is rounded differently, and a run that goes on reads it
        beside others than the run that kept it.
        """
        height, width = size or (None, None)
        found = {}
        for key, prompt in prompts.items():
            generators = [torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))]
            found[key] = self.policy.encode([prompt], generators, height, width)[0]
        return found

    def _size(self, path: int) -> tuple[int, int] | None:
        sizes = self.config.drawn_sizes
        return sizes[path % len(sizes)] if sizes else None

    # --- paths ----------------------------------------------------------------------------------------------

    def _follow(self, paths: Sequence[int], prompts: Sequence[EncodedPrompt]) -> list[StepTarget]:
        """The answers along paths of one size and one number of steps."""
        config, policy, num_steps = self.config, self.policy, self.num_steps(paths[0])
        shape = self.latent_shape(prompts[0])
        noisy = torch.stack([normal(config.seed, "path noise", path, shape) for path in paths])
        noisy = to_device(noisy, policy.device)  # (B, C, h, w)
        own_paths = [is_dropped(config.seed, "own states", path, config.own_share) for path in paths]
        is_own = to_device(torch.tensor(own_paths), policy.device).view(-1, 1, 1, 1)
        fine, each = self.fine_sigmas(num_steps, shape[1:])
        rows, branches = range(len(prompts)), 1 if prompts[0].negative is None else 2
        answers = []
        for step in range(num_steps):
            piece = fine[step * each : (step + 1) * each + 1]  # (each + 1,)
            sigma, sigma_next = float(piece[0]), float(piece[-1])
            reached = teacher_path(
                lambda x, s: policy.velocity(prompts, rows, x, s, by_reference=True),
                noisy,
                to_device(piece, policy.device),
            )
            self.num_forwards += len(paths) * branches * (each + 1)
            target = mean_velocity(noisy, reached, sigma, sigma_next)
            answers += [
                StepTarget(
                    path,
                    step,
                    num_steps,
                    prompts[n],
                    noisy[n].to(self.dtype),
                    sigma,
                    target[n].to(self.dtype),
                )
                for n, path in enumerate(paths)
            ]
            if step + 1 < num_steps:
                if any(own_paths):
                    level = torch.full((len(paths),), self.level(num_steps, sigma), device=policy.device)
                    own = noisy + (sigma_next - sigma) * self.student(prompts, noisy, level).float()
                    self.num_forwards += len(paths)
                    reached = torch.where(is_own, own, reached)
                noisy = reached
        return answers

    def fine_sigmas(self, num_steps: int, latent_size: Sequence[int]) -> tuple[Tensor, int]:
        """Levels of the teacher, float32 (num_steps * each + 1,) on the host, and its steps for each of the
        student's.
        """
        each = max(1, round(self.config.teacher_steps / num_steps))
        return fine_sigmas(self.policy, self.schedules[num_steps], each, latent_size), each

    def latent_shape(self, prompt: EncodedPrompt) -> tuple[int, int, int]:
        """(C, h, w) of what is drawn."""
        pipe = self.policy.pipe
        height, width = (side // pipe.vae_scale_factor for side in prompt.size)
        return pipe.transformer.config.in_channels, height, width


def fine_sigmas(policy: Policy, schedule: FewStepSchedule, each: int, latent_size: Sequence[int]) -> Tensor:
    """The student's levels with `each - 1` more between every two, as the scheduler shifts them, float32
    (num_steps * each + 1,) on the host. Every `each`-th is exactly what is drawn with.
    """
    coarse = np.array([*schedule.sigmas, 0.0])
    places = np.arange((len(coarse) - 1) * each) / each
    levels = np.interp(places, np.arange(len(coarse)), coarse).astype(np.float32)
    scheduler = copy.deepcopy(policy.pipe.scheduler)
    tokens = latent_size[0] * latent_size[1] // policy.pipe.transformer.config.patch_size**2
    set_timesteps(scheduler, len(levels), "cpu", num_tokens=tokens, sigmas=levels)
    return scheduler.sigmas.to(torch.float32)
