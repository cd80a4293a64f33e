"""What training uses of a pipeline.

`DeepGenPipeline` is one. Named apart from it, so that a stage depends on the parts it trains and on how
prompts and references are read, and not on loading, offloading, LoRA files and masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.types import Condition


class TrainedPipeline(Protocol):
    """The parts of a model, and how it reads what it is given; see `DeepGenPipeline`."""

    vlm: DeepGenVLM
    connector: StackedChannelBridge
    transformer: DeepGenTransformer2DModel
    vae: AutoencoderKL | AutoencoderTiny
    scheduler: FlowMatchEulerDiscreteScheduler
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw, as a user does."""
        ...

    @property
    def defaults(self) -> dict[str, Any]:
        """The model's own height, width, num_inference_steps and guidance_scale."""
        ...

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent."""
        ...

    def set_progress_bar_config(self, *, disable: bool) -> None:
        """Whether drawing shows a bar."""
        ...

    def plan(
        self,
        references: list[list[Image.Image]] | None,
        count: int,
        height: int | None = None,
        width: int | None = None,
    ) -> tuple[list[tuple[int, int]], list[list[Tensor]] | None]:
        """Sizes (height, width) that are drawn, and references as the model sees them."""
        ...

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        pixels: Sequence[Sequence[Tensor]] | None = None,
        *,
        guided: bool = True,
    ) -> tuple[Condition, Condition | None]:
        """Conditions of prompts and of their negatives."""
        ...

    def prepare_references(
        self,
        pixels: Sequence[Sequence[Tensor]],
        generators: Sequence[torch.Generator],
        dtype: torch.dtype,
    ) -> list[list[Tensor]]:
        """Clean latents (C, h, w) of every sample's references."""
        ...
