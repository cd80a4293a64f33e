"""The flat model's reader: VLM and connector learn to write the slot code of a prompt at the think tokens.

The stand-in for a pretrained VLM and for stage 1's alignment at once. Think tokens regress onto the code of
what the prompt states (shapes/slots.py), prompt positions onto zero, the pooled condition onto the pooled
code; image tokens learn to describe their cell, which trains the vision tower. The connector sees pads, so it
has to meet a prompt with and without them: some batches mix lengths and some share one, which is how a prompt
arrives at inference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from deepgen.models.config import DEEPGEN_SHAPES
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.prompts import editing_prompt, generation_prompt, tokenize
from deepgen.models.vlm import DeepGenVLM, vision_patches
from deepgen.shapes.caption import caption, instruction
from deepgen.shapes.entries import edit_entry, scene_entry, training_claim
from deepgen.shapes.scene import CELLS
from deepgen.shapes.slots import (
    NUM_SLOTS,
    WIDTH,
    claim_code,
    describe_cells,
    edit_code,
    empty_code,
    pooled_code,
)
from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.pool import load_tokenizer, to_pixels

_MANY = 1 << 40  # entries are drawn afresh, not from a stored pool


@dataclass(frozen=True, kw_only=True)
class ShapesVLMConfig(TrainConfig):
    """Captions and instructions in turn.

    Attributes:
        batch_size: captions of a step.
        edit_batch_size: instructions with pictures of a step.
        empty_share: of prompts, that are empty: the negative branch of guidance.
        same_length_share: of steps, whose prompts are all of one length and therefore not padded.
        pixel_noise: deviation of the noise on pictures that are read.
        pool_seed: of the captions that are drawn once.
    """

    num_steps: int = 1650
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3, warmup_steps=50, decay_share=0.5))
    batch_size: int = 96
    edit_batch_size: int = 64
    empty_share: float = 0.08
    same_length_share: float = (
        0.75  # of the steps, whose prompts are all of one length and therefore not padded
    )
    num_candidates: int = 4  # times the batch size, from which such prompts are chosen
    pixel_noise: float = 0.02
    pool_seed: int = 5

    def build(self, processes: Processes) -> ShapesVLM:
        """The stage."""
        processes.require_one(type(self).__name__)
        return ShapesVLM(self)


@dataclass(frozen=True)
class ReadingBatch:
    """Prompts, their codes (B, slots, width), and for edits pixels (B, 3, 96, 96) and cell descriptions (B,
    9, width).
    """

    texts: list[str]
    codes: Tensor
    pixels: Tensor | None = None
    cells: Tensor | None = None


class ShapesVLM:
    """Regression onto the slot code."""

    def __init__(self, config: ShapesVLMConfig):
        self.config = config
        self.tokenizer: Any = load_tokenizer()
        self.vlm = DeepGenVLM(Qwen2_5_VLConfig(**DEEPGEN_SHAPES.vlm))
        self.connector = StackedChannelBridge(**DEEPGEN_SHAPES.connector)
        self.describe = nn.Linear(DEEPGEN_SHAPES.vlm["text_config"]["hidden_size"], WIDTH)
        self.modules: nn.Module = nn.ModuleDict(
            {"vlm": self.vlm, "connector": self.connector, "describe": self.describe}
        )

    def batches(self, step: int) -> list:
        """The one batch of a step."""
        return [self.batch(np.random.default_rng((self.config.seed, step)), step)]

    def batch(self, rng: np.random.Generator, step: int) -> ReadingBatch:
        """Captions at even steps, instructions with their pictures at odd ones."""
        config = self.config
        is_edit = step % 2 == 1
        size = config.edit_batch_size if is_edit else config.batch_size
        is_same_length = rng.random() < config.same_length_share
        indices = [
            int(rng.integers(_MANY)) for _ in range(size * (config.num_candidates if is_same_length else 1))
        ]
        if is_edit:
            edits = [edit_entry(config.pool_seed, index) for index in indices]
            texts, codes = [instruction(rng, edit) for edit in edits], [edit_code(edit) for edit in edits]
        else:
            claims = [training_claim(rng, scene_entry(config.pool_seed, index)) for index in indices]
            texts, codes = [caption(rng, claim) for claim in claims], [claim_code(claim) for claim in claims]
        self._empty_some(rng, texts, codes, "edit" if is_edit else "generate")
        chosen = self._same_length(rng, texts)[:size] if is_same_length else range(size)
        texts, tensor = [texts[i] for i in chosen], torch.from_numpy(np.stack([codes[i] for i in chosen]))
        if not is_edit:
            return ReadingBatch([generation_prompt(text) for text in texts], tensor)
        sources = [edits[i].source for i in chosen]
        pixels = to_pixels(sources)
        noise = config.pixel_noise * torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
        cells = torch.from_numpy(np.stack([describe_cells(source) for source in sources]))
        return ReadingBatch(
            [editing_prompt(text, [len(CELLS)]) for text in texts], tensor, pixels + noise, cells
        )

    def _same_length(self, rng: np.random.Generator, texts: list[str]) -> list[int]:
        """Indices of the prompts as long as one drawn at random."""
        lengths = [len(ids) for ids in self.tokenizer(texts)["input_ids"]]
        wanted = lengths[int(rng.integers(len(texts)))]
        return [index for index, length in enumerate(lengths) if length == wanted]

    def _empty_some(
        self, rng: np.random.Generator, texts: list[str], codes: list[np.ndarray], task: str
    ) -> None:
        for index in np.flatnonzero(rng.random(len(texts)) < self.config.empty_share):
            texts[index], codes[index] = "", empty_code(task)

    def loss(self, batch: ReadingBatch) -> StageLoss:
        """4 * code + 0.1 * silence of the prompt positions + pooled + 3 * description of the cells."""
        tokens = tokenize(self.tokenizer, batch.texts)
        features = None if batch.pixels is None else self._image_features(batch.pixels)
        states = self.vlm(
            tokens.input_ids,
            tokens.attention_mask,
            self.connector.think_tokens(),
            self.connector.taps,
            pixel_values=() if batch.pixels is None else list(batch.pixels),
            image_index=None if batch.pixels is None else [[index] for index in range(len(batch.pixels))],
            image_features=None if features is None else list(features),
        )
        embeds, pooled = self.connector(states)
        parts = {
            "code": (embeds[:, -NUM_SLOTS:] - batch.codes).pow(2).mean(),
            "silence": embeds[:, :-NUM_SLOTS].pow(2).mean(),
            "pooled": (pooled - torch.from_numpy(pooled_code(batch.codes.numpy()))).pow(2).mean(),
        }
        loss = 4 * parts["code"] + 0.1 * parts["silence"] + parts["pooled"]
        task = "generate" if features is None else "edit"
        metrics = {f"{task}_{name}": float(value.detach()) for name, value in parts.items()}
        if features is not None:
            described = (self.describe(features) - batch.cells).pow(2).mean()
            loss = loss + 3 * described
            metrics["edit_describe"] = float(described.detach())
        return StageLoss(loss, {name: (value, 1.0) for name, value in metrics.items()})

    def _image_features(self, pixels: Tensor) -> Tensor:
        """As the VLM's own, with gradient: (B, 9, D)."""
        config = self.vlm.config.vision_config
        patches, grids = zip(
            *(
                vision_patches(x, config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
                for x in pixels
            ),
            strict=True,
        )
        merged = self.vlm.visual(torch.cat(patches), grid_thw=torch.stack(grids)).pooler_output
        return merged.view(len(pixels), len(CELLS), -1)
