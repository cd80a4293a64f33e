"""What a rollout leaves: this process's images with their trajectories, and micro-batches to train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepgen.sampling.rollout import Trajectory
from deepgen.train.policy import EncodedPrompt

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


@dataclass(frozen=True)
class Drawn:
    """This process's part of a rollout, while the rewards judge it.

    Attributes:
        number: of the rollout in the run.
        rollouts: its images.
        seconds: it took.
        look: metrics of the evaluation that went before, each as (sum, count).
    """

    number: int
    rollouts: list[Rollout]
    seconds: float
    look: dict[str, tuple[float, float]]


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


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the rewards said about I images.

    Attributes:
        numbers: (I,) of the images in the run.
        rewards, valid, weights: (I, R).
        held_out, held_out_valid: (I, H), of the rewards that are only watched.
        words: what was said, by number and reward.
    """

    numbers: np.ndarray
    rewards: np.ndarray
    valid: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    held_out_valid: np.ndarray
    words: Mapping[int, Mapping[str, str]]

    @staticmethod
    def gather(parts: Sequence[Scored]) -> Scored:
        """Those of all processes, in the order of their numbers."""
        names = [field.name for field in fields(Scored) if field.name != "words"]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        order = np.argsort(joined["numbers"], kind="stable")
        words = {number: said for part in parts for number, said in part.words.items()}
        return Scored(**{name: values[order] for name, values in joined.items()}, words=words)

    def __add__(self, other: Scored) -> Scored:
        """Both, in the order of their numbers."""
        return Scored.gather([self, other])

    def without(self, groups: np.ndarray, group_size: int) -> Scored:
        """All but the images of some groups."""
        kept = ~np.isin(self.numbers // group_size, groups)
        arrays = {f.name: getattr(self, f.name)[kept] for f in fields(self) if f.name != "words"}
        return Scored(**arrays, words={n: self.words[n] for n in self.numbers[kept].tolist()})


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All images of a rollout, of all processes, in the order of their numbers.

    Attributes:
        scores: what the rewards said.
        groups: (I,) numbers of their prompts in the run.
        totals: float32 (I,), weighted rewards; NaN where no reward was given.
        advantages: float32 (I,).
        has_signal: bool (I,).
        flat: groups in which every reward is the same.
    """

    scores: Scored
    groups: np.ndarray
    totals: np.ndarray
    advantages: np.ndarray
    has_signal: np.ndarray
    flat: np.ndarray


@dataclass
class Experience:
    """A rollout on its way through the updates.

    Attributes:
        number: of the rollout in the run.
        rollouts: of this process.
        judged: of all processes.
        parts: numbers of the images of each update, of all processes.
        metrics: to log with its first optimizer step, each as (sum, count).
    """

    number: int
    rollouts: list[Rollout]
    judged: Judged
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
        numbers, values = self.judged.scores.numbers.tolist(), self.judged.advantages.tolist()
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
