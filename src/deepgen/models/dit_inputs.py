"""Tensors that the DiT's network is given besides tokens: masks over keys, and the marks of open sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepgen.models.graphs import of_any_size
from deepgen.transfer import to_device

# B batch, S image tokens, L context tokens


def count(samples: Tensor | Sequence[Any]) -> int:
    """Number of samples; of a tensor it may be a symbol, which `len` would make a number."""
    return samples.shape[0] if isinstance(samples, Tensor) else len(samples)


def real_positions(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Which positions of right-padded rows are real, boolean (B, the longest)."""
    return to_device(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], device)


def key_masks(
    image_mask: Tensor | None, context_mask: Tensor | None, image: Tensor, context: Tensor
) -> dict[str, Tensor]:
    """Masks for the attention processors: `image_mask` (B, 1, 1, S) and the joint `attention_mask` (B, 1, 1,
    S + L); none of them where nothing is padded.

    Args:
        image_mask: boolean (B, S), True at real image tokens; None if all are.
        context_mask: the same of the context, (B, L).
        image: tokens (B, S, D).
        context: tokens (B, L, D).
    """
    if image_mask is None and context_mask is None:
        return {}
    if image_mask is None:
        joint_image_mask = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
    else:
        joint_image_mask = image_mask
    if context_mask is None:
        context_mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    masks = {"attention_mask": torch.cat([joint_image_mask, context_mask.bool()], dim=1)[:, None, None]}
    return masks if image_mask is None else {**masks, "image_mask": image_mask[:, None, None]}


def of_any_sizes(inputs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the DiT's `predict` for a graph of any batch and any lengths."""
    return {
        **inputs,
        **{name: of_any_size(inputs[name], 0, (1,)) for name in ("image", "context")},
        **{name: of_any_size(inputs[name], 0) for name in ("pooled", "timestep")},
        "masks": masks_of_any_size(inputs["masks"]),
        "vectors": vectors_of_any_batch(inputs["vectors"]),
    }


def masks_of_any_size(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Key masks (B, 1, 1, keys) for a graph of any batch and any number of keys."""
    return {name: of_any_size(mask, 0, (3,)) for name, mask in masks.items()}


def vectors_of_any_batch(
    vectors: Sequence[tuple[Tensor, Tensor]] | None,
) -> list[tuple[Tensor, Tensor]] | None:
    """Every block's modulation for a graph of any batch."""
    return (
        None
        if vectors is None
        else [(of_any_size(image, 0), of_any_size(context, 0)) for image, context in vectors]
    )
