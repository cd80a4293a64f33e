"""Pixels: pictures as tensors (3, H, W) in [-1, 1], which is what models read and draw, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from deepgen.transfer import to_host

OutputType = Literal["pil", "np", "pt", "latent"]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
ON_HOST = ("pil", "np")  # those that are read there


def to_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture, resized whole to (height, width), as (3, H, W) in [-1, 1]."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    # In place, as pictures may be large.
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1).div_(255).mul_(2).sub_(1)


def to_bytes(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """As `to_pixels`, in uint8."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def bytes_to_pixels(values: Tensor) -> Tensor:
    """uint8 in [0, 255], of any shape, as floats in [-1, 1]: what loaders carry as what models read."""
    return values.float() / 255 * 2 - 1


def pixels_to_bytes(pixels: Tensor) -> Tensor:
    """Floats in [-1, 1], of any shape, as uint8, with the original's rounding: scale, clamp, cut off."""
    return (127.5 * pixels).add_(128).clamp_(0, 255).to(torch.uint8)


def resize_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (3, H, W) resized whole to another (height, width)."""
    return F.interpolate(pixels[None], size=size, mode="bicubic", align_corners=False, antialias=True)[0]


def to_output(images: list[Tensor], output_type: OutputType) -> Any:
    """Pixels in [-1, 1] in the form asked for; stacked where that is a tensor or array and the sizes
    agree.
    """
    tensors = begin_output(images, output_type)
    return finish_output(to_host(tensors) if output_type in ON_HOST else tensors, output_type)


def begin_output(images: Sequence[Tensor], output_type: OutputType) -> list[Tensor]:
    """The tensors that make the output: (H, W, 3) of pictures for the host, (3, H, W) where they stay on the
    device. Of "latent" they are the latents.
    """
    if output_type == "latent":
        return list(images)
    if output_type == "pil":
        return [pixels_to_bytes(x).permute(1, 2, 0) for x in images]
    unit = [(x / 2 + 0.5).clamp(0, 1) for x in images]
    return [x.permute(1, 2, 0) for x in unit] if output_type == "np" else unit


def finish_output(tensors: Sequence[Tensor], output_type: OutputType) -> Any:
    """The output of what `begin_output` made, once that is on the host where it has to be."""
    same = len({tensor.shape for tensor in tensors}) == 1
    if output_type in ("latent", "pt"):
        return torch.stack(list(tensors)) if same else list(tensors)
    arrays = [tensor.numpy() for tensor in tensors]
    if output_type == "pil":
        return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
    return np.stack(arrays) if same else arrays
