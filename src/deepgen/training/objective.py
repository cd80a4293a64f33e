"""DeepGen's supervised loss: from prompts, references and noise levels to one number a sample.

Knows tensors; what was drawn at random comes in with the batch, so a batch's losses are a function of the
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.prompts import Tokens
from deepgen.models.vlm import DeepGenVLM
from deepgen.sampling.noise_levels import sample_losses
from deepgen.transfer import to_device

Padding = Literal["hidden", "visible"]

# B samples, L prompt tokens with pads, Q think tokens, C latent channels; widths: V VLM, J context, P pooled


@dataclass(frozen=True)
class TrainingBatch:
    """A micro-batch of one task, with everything random already drawn.

    Attributes:
        tokens: prompts in their template, padded on the left, (B, L).
        clean: target latents, (B, C, h, w), or B tensors (C, h, w) of different sizes.
        noise: like `clean`.
        sigma: noise levels, (B,), 1 = noise.
        timestep: the DiT's input, 1000 * sigma, (B,).
        weights: of the samples' squared errors, (B,).
        pixels: per sample, its references for the VLM, (3, H, W) in [-1, 1]; None for text to image.
        references: per sample, the clean latents of its references (C, h, w).
        image_features: vision features of all references, sample by sample, where they are known.
        max_positions: keep the last so many positions of the VLM, as the original's truncation does.
        samples: numbers of the samples in the run.
        levels: the noise levels as the host knows them; read from the device where they are not given.
    """

    tokens: Tokens
    clean: Tensor | Sequence[Tensor]
    noise: Tensor | Sequence[Tensor]
    sigma: Tensor
    timestep: Tensor
    weights: Tensor
    pixels: Sequence[Sequence[Tensor]] | None = None
    references: Sequence[Sequence[Tensor]] | None = None
    image_features: Sequence[Tensor] | None = None
    max_positions: int | None = None
    samples: Sequence[int] = ()
    levels: Sequence[float] | None = None

    @property
    def host_levels(self) -> Sequence[float]:
        """The noise level of each sample."""
        return self.sigma.tolist() if self.levels is None else self.levels

    def __len__(self) -> int:
        return len(self.sigma)

    def row(self, index: int) -> TrainingBatch:
        """One sample alone, without pads."""
        length = self.tokens.lengths[index]
        features = None
        if self.image_features is not None and self.pixels is not None:
            before = sum(len(row) for row in self.pixels[:index])
            features = self.image_features[before : before + len(self.pixels[index])]
        return replace(
            self,
            tokens=self.tokens.select([index], length),
            clean=self.clean[index][None],
            noise=self.noise[index][None],
            sigma=self.sigma[index, None],
            timestep=self.timestep[index, None],
            weights=self.weights[index, None],
            pixels=None if self.pixels is None else [self.pixels[index]],
            references=None if self.references is None else [self.references[index]],
            image_features=features,
            samples=self.samples[index : index + 1],
            levels=None if self.levels is None else self.levels[index : index + 1],
        )


class FlowMatchingObjective(nn.Module):
    """VLM, connector and DiT, and the loss that trains them.

    Args:
        vlm: reads prompts and references.
        connector: makes the condition.
        transformer: predicts the velocity.
        padding: "hidden" makes pads invisible, so a sample's loss does not depend on its batch-mates;
        "visible" is the
            original's, where connector and DiT see them.
        is_prompt_constant: nothing before the think tokens is trained (see `DeepGenVLM.forward`).
    """

    def __init__(
        self,
        vlm: DeepGenVLM,
        connector: StackedChannelBridge,
        transformer: DeepGenTransformer2DModel,
        *,
        padding: Padding = "hidden",
        is_prompt_constant: bool = False,
    ) -> None:
        super().__init__()
        if padding not in ("hidden", "visible"):
            raise ValueError(f"unknown padding {padding!r}; known: hidden, visible")
        self.vlm, self.connector, self.transformer = vlm, connector, transformer
        self.padding, self.is_prompt_constant = padding, is_prompt_constant

    def forward(self, batch: TrainingBatch) -> Tensor:
        """w * mean((velocity - (noise - clean))^2) of every sample, float32 (B,); spec: Esser et al.
        2024, eq. 14.
        """
        context, pooled, mask = self.condition(batch)  # (B, L + Q, J), (B, P), (B, L + Q) or None
        velocity = self.transformer(
            hidden_states=[
                (1 - sigma) * clean + sigma * noise
                for sigma, clean, noise in zip(batch.sigma, batch.clean, batch.noise, strict=True)
            ],
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=batch.timestep,
            reference_latents=batch.references,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return sample_losses(velocity, batch.clean, batch.noise, batch.weights)

    def condition(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Context (B, L + Q, J), pooled (B, P) and the mask of real positions, None where every one
        counts.
        """
        images, shown = _numbered(batch.pixels)
        think = self.connector.think_tokens()  # (Q, V)
        states = self.vlm(
            batch.tokens.input_ids,
            batch.tokens.attention_mask,
            think,
            self.connector.taps,
            pixel_values=images,
            image_index=shown,
            image_features=batch.image_features,
            max_positions=batch.max_positions,
            is_prompt_constant=self.is_prompt_constant,
        )
        mask = None
        if self.padding == "hidden" and batch.tokens.is_padded:
            real = F.pad(batch.tokens.attention_mask.bool(), (0, len(think)), value=True)
            mask = to_device(real[:, -states.shape[1] :], states.device)
        context, pooled = self.connector(states, mask)  # (B, L + Q, J), (B, P)
        return context, pooled, mask


def _numbered(
    pixels: Sequence[Sequence[Tensor]] | None,
) -> tuple[list[Tensor], list[list[int]] | None]:
    """All images in a row, and per sample the places of its own."""
    if pixels is None:
        return [], None
    images = [image for row in pixels for image in row]
    ends = torch.tensor([len(row) for row in pixels]).cumsum(0).tolist()
    return images, [list(range(end - len(row), end)) for end, row in zip(ends, pixels, strict=True)]
