"""The four parts with weights: classes and configs, built on the meta device, filled tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepgen.checkpoints.layouts import read_object
from deepgen.checkpoints.limits import check_config
from deepgen.checkpoints.tensors import LazyTensor, read_ahead
from deepgen.models.config import Architecture
from deepgen.models.containment import require_inside
from deepgen.models.errors import CheckpointError

WEIGHTED = ("vlm", "connector", "transformer", "vae")
WEIGHT_STEM = {
    "vlm": "model",
    "connector": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


@dataclass
class Part:
    """One part of a checkpoint: its tensors by our names, and their config (None while unknown)."""

    name: str
    tensors: Mapping[str, LazyTensor]
    config: Any
    origin: str
    is_base: bool = False


@lru_cache
def part_class(name: str) -> Any:
    """The class of a part. Imported late: listing names needs no diffusers."""
    if name == "vlm":
        from deepgen.models.vlm import DeepGenVLM

        return DeepGenVLM
    if name == "connector":
        from deepgen.models.connector import StackedChannelBridge

        return StackedChannelBridge
    if name == "transformer":
        from deepgen.models.dit import DeepGenTransformer2DModel

        return DeepGenTransformer2DModel
    from diffusers import AutoencoderKL

    return AutoencoderKL


def class_of(name: str, config: Any) -> Any:
    """The class of a part with this config: a VAE may also be an `AutoencoderTiny`."""
    if name == "vae" and "encoder_block_out_channels" in config:
        from diffusers import AutoencoderTiny

        return AutoencoderTiny
    return part_class(name)


def read_config(name: str, folder: Path) -> Any:
    """The config of a part's folder: transformers' object for the VLM, a plain dictionary otherwise.

    Raises CheckpointError where it is no config, or asks for sizes beyond any model's.
    """
    path = require_inside(folder / "config.json", folder)
    content = read_object(path)
    check_config(content, path)
    if name == "vlm":
        from transformers import Qwen2_5_VLConfig

        try:
            return Qwen2_5_VLConfig.from_dict(content)
        except Exception as error:  # the library's checks raise classes of their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise CheckpointError(f"{path} describes no Qwen2.5-VL: {reason}") from error
    return {key: value for key, value in content.items() if not key.startswith("_")}


def is_quantized(part: Part) -> bool:
    """Whether the part was saved quantised, which changes its names and shapes."""
    config = part.config if isinstance(part.config, dict) else vars(part.config or object)
    return bool(config.get("quantization_config"))


def named_config(name: str, architecture: Architecture) -> Any:
    """The config of a part in a named architecture."""
    sizes = getattr(architecture, name)
    if name == "vlm":
        from transformers import Qwen2_5_VLConfig

        return Qwen2_5_VLConfig(**sizes)
    return dict(sizes)


def build(
    name: str, config: Any, dtype: torch.dtype | None = None, attn_implementation: str | None = None
) -> nn.Module:
    """The part on the meta device: every tensor has its name and shape, none has memory."""
    with torch.device("meta"):
        if name == "vlm":
            options = {"attn_implementation": attn_implementation} if attn_implementation else {}
            return part_class(name)._from_config(config, dtype=dtype or torch.float32, **options)
        return class_of(name, config).from_config(config)


def materialize(
    part: Part,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """The loaded part. Each tensor is read, moved, cast and handed over, so nothing exists twice.

    Without `dtype` the stored one is kept, the widest where a part mixes several. To a CUDA device tensors go
    through page-locked memory, while the next ones are read.
    """
    dtype, device = dtype or stored_dtype(part), torch.device(device or "cpu")
    model: Any = build(part.name, part.config, dtype, attn_implementation)
    is_pinned, state = device.type == "cuda", {}
    for name, tensor in read_ahead(part.tensors, is_pinned):
        value = tensor.to(device, non_blocking=is_pinned)
        state[name] = value.to(dtype) if value.is_floating_point() else value
    model.load_state_dict(state, strict=True, assign=True)
    _fill_computed_buffers(model)
    return model.to(device).eval()


def stored_dtype(part: Part) -> torch.dtype:
    """The floating point type a part is stored in; the widest if there are several."""
    stored = {tensor.dtype for tensor in part.tensors.values() if tensor.dtype.is_floating_point}
    return max(stored, key=lambda dtype: torch.finfo(dtype).bits, default=torch.float32)


def _fill_computed_buffers(model: Any) -> None:
    # Rotary frequencies are computed, not stored; transformers' own initialiser fills them in.
    for module in model.modules():
        computed = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in computed:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if computed:
            model._init_weights(module)
