"""Drawing a rollout: groups of images for prompts, handed to the rewards as they come.

Which prompts, which noise and which steps are stochastic are functions of the seed and the number of a group,
an image or a rollout, so they are the same on any number of processes and after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepgen.data.pixels import to_output
from deepgen.data.prompts import Prompt, PromptMix
from deepgen.rewards.ensemble import RewardEnsemble
from deepgen.rewards.reward import Candidate
from deepgen.rl.config import RLSettings
from deepgen.rl.objective import Objective
from deepgen.rl.policy import EncodedPrompt, Policy
from deepgen.rl.rollout_buffer import Rollout
from deepgen.sampling.rollout import roll_out
from deepgen.sampling.windows import Window
from deepgen.training.parallel import Processes
from deepgen.training.randomness import generator, normal
from deepgen.transfer import to_device


class RolloutSampler:
    """Draws the groups of a rollout.

    Args:
        config: the recipe.
        processes: this process among the others.
        policy: the model.
        objective: what has to be recorded for it.
        mix: prompts.
        ensemble: rewards, which get each group as soon as it is drawn.
        dtype: precision of the latents that are kept.

    Attributes:
        num_forwards: of one image through the DiT on this process, since it was last set to 0.
    """

    def __init__(
        self,
        config: RLSettings,
        processes: Processes,
        policy: Policy,
        objective: Objective,
        mix: PromptMix,
        ensemble: RewardEnsemble,
        dtype: torch.dtype,
    ) -> None:
        self.config, self.processes, self.policy = config, processes, policy
        self.objective, self.mix, self.ensemble, self.dtype = objective, mix, ensemble, dtype
        self.num_forwards = 0
        self._ahead: dict[tuple[int, ...], list[EncodedPrompt]] = {}  # encoded already, by their groups

    def groups_of(self, number: int, attempt: int = 0) -> range:
        """Numbers of the groups of a rollout, or of those that replace some of them at an attempt."""
        count = self.config.prompts_per_rollout
        extra = self.config.max_resamples if self.config.flat_groups == "resample" else 0
        first = number * count * (1 + extra) + attempt * count
        return range(first, first + count)

    def window(self, number: int) -> Window:
        """The steps of a rollout that are stochastic, and those that are trained."""
        if self.objective.works_on == "clean":
            return Window((), ())
        return self.config.window.select(self.config.num_inference_steps, number)

    def sample(self, number: int, groups: Sequence[int]) -> list[Rollout]:
        """Draw this process's share of some groups; each goes to the rewards as soon as it is drawn."""
        config, own = self.config, self._own(groups)
        with torch.no_grad():
            encoded = self._ahead.pop(tuple(own), None) or self._encode(own)
            rollouts = []
            for members in _alike(encoded):
                size = config.rollout_batch_size or config.micro_batch_size
                per_pass = max(1, size // config.group_size)
                for begin in range(0, len(members), per_pass):
                    some = members[begin : begin + per_pass]
                    rollout = self._draw(number, [encoded[n] for n in some], [own[n] for n in some])
                    rollouts.append(rollout)
                    self._submit(rollout)
        return rollouts

    def read_ahead(self, number: int) -> None:
        """Read the prompts of a coming rollout now, such as while rewards think.

        Nothing is read where an optimizer step would make it stale.
        """
        if not self.policy.is_condition_trained:
            own = self._own(self.groups_of(number))
            with torch.no_grad():
                self._ahead = {tuple(own): self._encode(own)}

    def _own(self, groups: Sequence[int]) -> list[int]:
        """This process's share of some groups."""
        return list(groups[self.processes.rank :: self.processes.world_size])

    def _encode(self, own: Sequence[int]) -> list[EncodedPrompt]:
        config = self.config
        prompts = [self.mix.draw(config.seed, group) for group in own]
        generators = [torch.Generator().manual_seed(_torch_seed(config.seed, group)) for group in own]
        return self.policy.encode(prompts, generators, config.height, config.width)

    def _draw(self, number: int, encoded: list[EncodedPrompt], groups: Sequence[int]) -> Rollout:
        config, count = self.config, self.config.group_size
        rows = [row for row in range(len(encoded)) for _ in range(count)]
        numbers = [group * count + n for group in groups for n in range(count)]
        pipe = self.policy.pipe
        factor = pipe.vae_scale_factor
        height, width = (side // factor for side in encoded[0].size)
        shape = (pipe.transformer.config.in_channels, height, width)
        begins = [group for group in groups for _ in range(count)] if config.shares_noise else numbers
        noise = torch.stack([normal(config.seed, "rollout noise", begin, shape) for begin in begins])

        def step_noise(step: int) -> Tensor:
            return torch.stack([normal(config.seed, f"noise of step {step}", n, shape) for n in numbers])

        sigmas = self.policy.sigmas(config.num_inference_steps, (height, width))  # (T + 1,)
        self.num_forwards += len(rows) * (1 if encoded[0].negative is None else 2) * (len(sigmas) - 1)
        trajectory = roll_out(
            self.policy.rollout_velocity(encoded, rows, sigmas),
            to_device(noise, self.policy.device, self.dtype),  # (B, C, h, w)
            sigmas,
            self.window(number),
            step_noise,
            sampler=config.sampler,
            eta=config.eta,
            keeps=[name for name in ("mean",) if f"old_{name}" in self.objective.needs],
        )
        images = to_output(list(self.policy.decode(trajectory.clean)), "pil")
        return Rollout(encoded, rows, numbers, trajectory, images)

    def _submit(self, rollout: Rollout) -> None:
        count = self.config.group_size
        for begin in range(0, len(rollout.images), count):
            prompt: Prompt = rollout.prompts[rollout.rows[begin]].prompt
            group = [
                Candidate(
                    image=image, prompt=prompt.text, references=prompt.references, metadata=prompt.metadata
                )
                for image in rollout.images[begin : begin + count]
            ]
            self.ensemble.submit(group, prompt.weights)


def _alike(encoded: Sequence[EncodedPrompt]) -> list[list[int]]:
    """Places of prompts that can be drawn together: of one size, and with equally many references."""
    kinds: dict[Any, list[int]] = {}
    for n, one in enumerate(encoded):
        kinds.setdefault((one.size, len(one.references)), []).append(n)
    return list(kinds.values())


def _torch_seed(seed: int, group: int) -> int:
    """A generator's seed for the references of a group."""
    return int(generator(seed, "references", group).integers(2**62))
