"""The buffer of a rollout: images, trajectories, rewards, advantages, and micro-batches to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepgen.rewards.reward_batch import RewardBatch
from deepgen.rl.advantages import AdvantageBatch
from deepgen.rl.policy import EncodedPrompt
from deepgen.sampling.rollout import Trajectory

# B images of a micro-batch


@dataclass(frozen=True)
class Rollout:
    """Images of one size and task, drawn by this process.

    Attributes:
        prompts: of the images.
        rows: which prompt each image is of.
        numbers: of the images in the run.
        trajectory: what was recorded.
        images: as they are judged.
    """

    prompts: list[EncodedPrompt]
    rows: list[int]
    numbers: list[int]
    trajectory: Trajectory
    images: list[Image.Image]

    def prompts_of(self, members: Sequence[int]) -> tuple[list[EncodedPrompt], list[int]]:
        """The prompts of some images, and which of them each is of."""
        used = sorted({self.rows[n] for n in members})
        return [self.prompts[row] for row in used], [used.index(self.rows[n]) for n in members]


@dataclass(frozen=True)
class PolicyBatch:
    """A micro-batch of the policy: B images at one recorded step, or at fresh noise levels.

    Attributes:
        rollout: where they are from.
        members: their places in it.
        place: of the recorded step; of the draw of a noise level where there are no recorded steps.
        advantages: float32 (B,).
        share: what one sample's loss is multiplied with: 1 / (samples of the update on all processes).
    """

    rollout: Rollout
    members: list[int]
    place: int
    advantages: Tensor
    share: float


@dataclass
class RolloutBuffer:
    """A rollout on its way through the updates.

    Attributes:
        number: of the rollout in the run.
        rollouts: of this process.
        rewards: of all processes, in the order of the images' numbers.
        advantages: of the same images in the same order.
        parts: numbers of the images of each update, of all processes.
        metrics: to log with its first optimizer step, each as (sum, count).
    """

    number: int
    rollouts: list[Rollout]
    rewards: RewardBatch
    advantages: AdvantageBatch
    parts: list[list[int]]
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)

    def micro_batches(self, update: int, places: int, size: int) -> Iterator[PolicyBatch]:
        """This process's share of an update.

        Args:
            update: which one.
            places: recorded steps of an image, or draws of a noise level.
            size: images of a micro-batch.
        """
        wanted = set(self.parts[update])
        numbers, values = self.rewards.numbers.tolist(), self.advantages.values.tolist()
        advantage = dict(zip(numbers, values, strict=True))
        share = 1 / max(1, len(wanted) * places)
        for rollout in self.rollouts:
            members = [n for n, number in enumerate(rollout.numbers) if number in wanted]
            for begin in range(0, len(members), size):
                some = members[begin : begin + size]
                worth = torch.tensor([advantage[rollout.numbers[n]] for n in some])
                for place in range(places):
                    yield PolicyBatch(rollout, some, place, worth, share)


def update_parts(numbers: Sequence[int], num_updates: int, rng: np.random.Generator) -> list[list[int]]:
    """The images of each update: shuffled, in parts that differ by one at most."""
    order = rng.permutation(np.array(sorted(numbers), dtype=np.int64))
    return [part.tolist() for part in np.array_split(order, num_updates)]
