"""Validation during training: the loss on held-out examples at fixed noise levels, and pictures of them.

Everything is fixed - examples, noise, levels, seeds - so two lines of a log differ by the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from deepgen.config import COUNT, check_bounds
from deepgen.data.batches import Batches, MicroBatch
from deepgen.data.example_images import load_image
from deepgen.data.mixture import Mixture
from deepgen.data.png import image_grid, read_records, save_png
from deepgen.training.objective import TrainingBatch
from deepgen.transfer import to_host

NUM_LEVELS = 8


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Which examples are kept for looking, and how often one looks; `data` is a mixture file of its own.

    Attributes:
        data: a mixture file of held-out examples; none looks at nothing.
        every: optimizer steps between two looks.
        num_inference_steps: of what is drawn; default the model's own.
    """

    data: Path | None = None
    every: int = 500
    num_samples: int = 32  # a whole number of the mixture's cycles
    num_images: int = 6  # of them are drawn
    num_inference_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        if min(self.every, self.num_samples) < 1 or self.num_images < 0:
            raise ValueError("validation needs every and num_samples of at least 1, num_images of at least 0")
        check_bounds(self, {"num_inference_steps": COUNT})


class Validation:
    """The loss at eight fixed noise levels, and a grid of references, targets and what is drawn.

    Args:
        config: what and how often.
        stage: a supervised stage.
        mixture: the examples.
    """

    def __init__(self, config: ValidationConfig, stage: Any, mixture: Mixture):
        self.config, self.stage = config, stage
        self.every = config.every
        self._batches = Batches(
            mixture, config.num_samples, stage.config.micro_batch_size, blocks_per_step=len(mixture.cycle)
        )

    def __call__(self, step: int, output_dir: Path) -> dict[str, tuple[float, float]]:
        """Losses by task and noise level, each as (sum, count); writes `samples/step-NNNNNNNN.png`."""
        with evaluating(self.stage):
            metrics = self._losses()
            if self.config.num_images:
                folder = output_dir / "samples"
                grid = self._grid()
                if self.stage.processes.is_main:
                    folder.mkdir(exist_ok=True)
                    save_png(grid, folder / f"step-{step:08d}.png", read_records(grid))
        return metrics

    def _micro_batches(self) -> Iterator[MicroBatch]:
        for plan in self._batches.plan(0):
            batch = self._batches.load(plan)
            if batch is not None:
                yield batch.to(self.stage.device)

    @torch.no_grad()
    def _losses(self) -> dict[str, tuple[float, float]]:
        found: list[tuple[str, Tensor, int]] = []  # read together at the end
        for micro_batch in self._micro_batches():
            prepared = self.stage.prepare(micro_batch, is_training=False)
            for number in range(NUM_LEVELS):
                losses = self.stage.losses(at_level(prepared, (number + 0.5) / NUM_LEVELS))
                for name in (micro_batch.task, f"{micro_batch.task} at {(number + 0.5) / NUM_LEVELS:.4f}"):
                    found.append((f"validation/{name}", losses.sum(), len(losses)))
        totals: dict[str, tuple[float, float]] = {}
        sums = to_host([value for _, value, _ in found])
        for (name, _, number), value in zip(found, sums, strict=True):
            total, count = totals.get(name, (0.0, 0.0))
            totals[name] = (total + float(value), count + number)
        return totals

    def _grid(self) -> Image.Image:
        """A row for each example: its references, its target, and what the model draws."""
        rows: list[Image.Image] = []
        for sample in range(self.config.num_images):
            draw = self._batches.draw(sample)
            example = self._batches.mixture.example(draw)
            shown = [load_image(image) for image in (*example.references, example.target)]
            height, width = shown[-1].height, shown[-1].width
            drawn = self.stage.pipe(
                example.text,
                image=shown[:-1] or None,
                height=None if shown[:-1] else self._multiple(height),
                width=None if shown[:-1] else self._multiple(width),
                seed=sample,
                num_inference_steps=self.config.num_inference_steps,
            ).images[0]
            rows.append(image_grid([*shown, drawn]))
        return image_grid(rows)

    def _multiple(self, side: int) -> int:
        unit = self.stage.pipe.size_unit
        return max(unit, side // unit * unit)


def at_level(batch: TrainingBatch, sigma: float) -> TrainingBatch:
    """The batch with every sample at one noise level, each weighing the same."""
    sigmas = torch.full_like(batch.sigma, sigma)
    ones = torch.ones_like(sigmas)
    return replace(batch, sigma=sigmas, timestep=1000 * sigmas, weights=ones, levels=[sigma] * len(batch))


@contextmanager
def evaluating(stage: Any) -> Iterator[None]:
    """Without dropout, and without bars; as it was afterwards."""
    modes = {name: module.training for name, module in stage.modules.named_modules()}
    stage.modules.eval()
    stage.pipe.set_progress_bar_config(disable=True)
    state = torch.get_rng_state()
    try:
        with stage.autocast():
            yield
    finally:
        torch.set_rng_state(state)
        for name, module in stage.modules.named_modules():
            module.training = modes[name]
