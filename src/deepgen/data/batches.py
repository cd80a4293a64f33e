"""The samples of an optimizer step, grouped by exact size into micro-batches.

The size rules leave a few dozen sizes, so pictures of one size can be stacked without padding and without
cutting. Among those of one size, texts of about equal length go together, so that prompts are padded little.
What a step holds depends on the mixture's seed and the step alone; how many machines and workers share the
work does not enter, so a run can be resumed anywhere, on anything, at once.

    samples of step s = s * G, ..., s * G + G - 1        G = global_batch_size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepgen.data.bad_rows import BadRow
from deepgen.data.cache import Cache
from deepgen.data.example import Example, ImageContent, RowError, Size, Task
from deepgen.data.example_images import load_image, ruled_sizes
from deepgen.data.images import ImageError
from deepgen.data.mixture import Draw, Mixture
from deepgen.data.mixture_config import ImageRule
from deepgen.data.order import random_bits, stream_key
from deepgen.data.resize import resize_rule, square_crop
from deepgen.moved import renamed
from deepgen.transfer import to_device

_KEPT_SHAPES = 2**17
_Sizes = tuple[Size, tuple[Size, ...]]


class _Shape(NamedTuple):
    """What decides which samples go together."""

    sizes: _Sizes
    text_length: int  # in characters, which stand for tokens that only the model's tokenizer could count


@dataclass(frozen=True)
class BatchPlan:
    """What one micro-batch holds, known before any pixel is read.

    Attributes:
        samples: global sample numbers, the key of all randomness.
        target_size: (height, width) of every target.
        reference_sizes: (height, width) of every first, second, ... reference.
    """

    task: Task
    samples: tuple[int, ...]
    target_size: Size
    reference_sizes: tuple[Size, ...] = ()

    @property
    def cost(self) -> int:
        """Pixels the model attends to, over all samples: what the time of a forward grows with."""
        sizes = (self.target_size, *self.reference_sizes)
        return len(self.samples) * sum(height * width for height, width in sizes)


@dataclass(frozen=True)
class MicroBatch:
    """Texts and pictures of one forward.

    Attributes:
        target: uint8 (B, 3, H, W).
        references: one uint8 (B, 3, h, w) for each reference of an edit; none to generate.
        samples: global sample numbers, the key of all randomness.
        keys: "file:row" or "tar!member" of each, for errors and logs.
        moments: of target and references, where they come from a cache, (B, 2, C, h, w) each: mean and
            deviation. The pictures are then not read; they are on the meta device, shape only.
        features: of each reference, where a cache has them, (B, N, D).
    """

    task: Task
    texts: list[str]
    target: Tensor
    references: list[Tensor]
    samples: list[int]
    keys: list[str]
    moments: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same on a device, for whose work the host does not wait."""
        return self._mapped(lambda pixels: to_device(pixels, device))

    def pin_memory(self) -> MicroBatch:
        """The same in page-locked memory; PyTorch's loader asks for it by this name."""
        return self._mapped(lambda pixels: pixels.pin_memory())

    def _mapped(self, change: Any) -> MicroBatch:
        def changed(tensors: Sequence[Tensor]) -> list[Tensor]:
            return [tensor if tensor.is_meta else change(tensor) for tensor in tensors]

        (target,) = changed([self.target])
        return replace(
            self,
            target=target,
            references=changed(self.references),
            moments=changed(self.moments),
            features=changed(self.features),
        )


class Batches:
    """The endless sequence of optimizer steps over a mixture.

    Args:
        mixture: where samples come from.
        global_batch_size: samples of an optimizer step, over all machines.
        max_micro_batch: the most samples of one forward.
        blocks_per_step: how many blocks of one task each a step holds. 1: a step is of one task. The original
            has one whole cycle in each step, which is `len(mixture.cycle)`.
        cache: what models made of the mixture's pictures, handed out instead of them.
    """

    def __init__(
        self,
        mixture: Mixture,
        global_batch_size: int,
        max_micro_batch: int,
        *,
        blocks_per_step: int = 1,
        cache: Cache | None = None,
    ) -> None:
        if min(global_batch_size, max_micro_batch, blocks_per_step) < 1:
            raise ValueError(
                "expected global_batch_size, max_micro_batch and blocks_per_step of at least 1, got "
                f"{global_batch_size}, {max_micro_batch}, {blocks_per_step}"
            )
        if global_batch_size % blocks_per_step:
            raise ValueError(
                f"global_batch_size {global_batch_size} is no multiple of blocks_per_step {blocks_per_step}; "
                f"try {-(-global_batch_size // blocks_per_step) * blocks_per_step}"
            )
        self.mixture, self.cache = mixture, cache
        self.global_batch_size, self.max_micro_batch = global_batch_size, max_micro_batch
        self._block_size = global_batch_size // blocks_per_step
        self._known: dict[tuple[str, int], _Shape] = {}

    def plan(self, step: int, bad: list[BadRow] | None = None) -> list[BatchPlan]:
        """The micro-batches of a step, for all machines together.

        `bad` collects rows that cannot be used and are left out; without it the first one raises.
        """
        first = step * self.global_batch_size
        buckets: dict[tuple[Task, _Sizes], dict[int, int]] = {}
        for sample in range(first, first + self.global_batch_size):
            draw = self.draw(sample)
            shape = self._shape(draw, bad)
            if shape is not None:
                buckets.setdefault((draw.task, shape.sizes), {})[sample] = shape.text_length
        return [
            BatchPlan(task, part, target_size, reference_sizes)
            for (task, (target_size, reference_sizes)), lengths in buckets.items()
            for part in micro_batch_parts(list(lengths), lengths, self.max_micro_batch)
        ]

    def load(self, plan: BatchPlan, bad: list[BadRow] | None = None) -> MicroBatch | None:
        """Read, decode and stack a micro-batch; None when not one of its rows can be used.

        `bad` collects rows that cannot be used and are left out; without it the first one raises.
        """
        loaded: list[tuple[int, Example, _Row]] = []
        for sample in plan.samples:
            draw = self.draw(sample)
            example = self._example(draw, bad)
            if example is None:
                continue
            try:
                loaded.append((sample, example, self._row(plan, draw, example)))
            except (RowError, ImageError) as error:
                _report(draw, example.key, error, bad)
        if not loaded:
            return None
        rows = [row for _, _, row in loaded]
        target, *references = _stacked([row.pixels for row in rows])
        return MicroBatch(
            task=plan.task,
            texts=[example.text for _, example, _ in loaded],
            target=target,
            references=references,
            samples=[sample for sample, _, _ in loaded],
            keys=[example.key for _, example, _ in loaded],
            moments=_stacked([row.moments for row in rows]),
            features=_stacked([row.features for row in rows]),
        )

    def draw(self, sample: int) -> Draw:
        """The row that a sample number stands for."""
        return self.mixture.draw(sample, self._block_size)

    def _example(self, draw: Draw, bad: list[BadRow] | None) -> Example | None:
        """The row, or None once it is reported."""
        try:
            return self.mixture.example(draw)
        except RowError as error:
            _report(draw, f"{draw.source}:{draw.index}", error, bad)
            return None

    def _shape(self, draw: Draw, bad: list[BadRow] | None) -> _Shape | None:
        """The sizes a row's pictures are given and the length of its text, or None once it is reported."""
        row = (draw.source, draw.index)
        if row in self._known:
            return self._known[row]
        example = self._example(draw, bad)
        if example is None:
            return None
        try:
            sizes = ruled_sizes(example, self.mixture.config.image)
        except (RowError, ImageError) as error:
            _report(draw, example.key, error, bad)
            return None
        if len(self._known) >= _KEPT_SHAPES:
            self._known.clear()
        self._known[row] = _Shape(sizes, len(example.text))
        return self._known[row]

    def _row(self, plan: BatchPlan, draw: Draw, example: Example) -> _Row:
        """The pictures of a row, or what is known of them."""
        images = (example.target, *example.references)
        sizes = (plan.target_size, *plan.reference_sizes)
        config = self.mixture.config
        place = random_bits(stream_key(config.seed, 0, "crop"), draw.sample) / 2**64

        def pixels(slot: int) -> Tensor:
            return image_pixels(images[slot], sizes[slot], config.image, example.key, place)

        if self.cache is None:
            return _Row([pixels(slot) for slot in range(len(sizes))])
        known = self.cache.read(draw.source, draw.index, example.key, sizes)
        shown = range(1, len(sizes)) if known.features is None else ()
        return _Row(
            [pixels(slot) if slot in shown else _unread(size) for slot, size in enumerate(sizes)],
            known.moments,
            known.features or [],
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is known of rows stays here when the rest is sent to a worker."""
        return {**self.__dict__, "_known": {}}


def image_pixels(picture: ImageContent, size: Size, rule: ImageRule, key: str, place: float = 0.0) -> Tensor:
    """A picture as the rule gives it, uint8 (3, H, W); `place` in [0, 1) is where a cropping rule cuts.

    RowError when it does not become the size it was planned with.
    """
    image = load_image(picture)
    found = rule.size((image.height, image.width))
    if found != size:
        raise RowError(
            f"{key}: planned as {size[1]}x{size[0]} from the manifest's or the header's size, but the "
            f"picture of {image.width}x{image.height} becomes {found[1]}x{found[0]}; "
            "correct the manifest's sizes"
        )
    if resize_rule(rule.rule).is_crop:
        image = image.crop(square_crop((image.height, image.width), place))
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class _Row(NamedTuple):
    pixels: list[Tensor]
    moments: Sequence[Tensor] = ()
    features: Sequence[Tensor] = ()


def _unread(size: Size) -> Tensor:
    """Placeholder of a picture that is not read; using its values is an error, not zeros."""
    return torch.empty(3, *size, dtype=torch.uint8, device="meta")


def _stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of equally long rows of tensors, each column as one tensor."""
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def micro_batch_parts(
    samples: Sequence[int], text_lengths: Mapping[int, int], most: int
) -> list[tuple[int, ...]]:
    """In as few parts as may be, as equal as may be, short texts apart from long ones."""
    ordered = sorted(samples, key=lambda sample: (text_lengths[sample], sample))
    count = -(-len(ordered) // most)
    edges = [len(ordered) * part // count for part in range(count + 1)]
    return [tuple(sorted(ordered[begin:end])) for begin, end in pairwise(edges)]


def _report(draw: Draw, key: str, error: Exception, bad: list[BadRow] | None) -> None:
    if bad is None:
        raise error
    bad.append(BadRow(draw.sample, draw.source, key, str(error)))


__getattr__ = renamed(__name__, {"picture_pixels": "deepgen.data.batches.image_pixels"})
