"""LoRA of the VLM: found in a checkpoint, merged into the weights, or kept as a peft adapter.

    Linear     W + s B A          A (r, in), B (out, r)
    Embedding  E + s (B A)^T      A (r, vocabulary), B (width, r)

with s = alpha / r, 2.0 in the published training; the files do not store it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deepgen.checkpoints.names import lora_name, native_name
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor

DEFAULT_SCALE = 2.0
BLOCK = 16_384  # rows merged at a time: bounds the float32 copies of the embedding table


@dataclass(frozen=True)
class Pair:
    """The two factors of one module."""

    a: LazyTensor
    b: LazyTensor
    is_embedding: bool

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight the pair is added to."""
        out, into = self.b.shape[0], self.a.shape[1]
        return (into, out) if self.is_embedding else (out, into)


def pairs(tensors: Mapping[str, LazyTensor]) -> dict[str, Pair]:
    """The factors by module. Raises CheckpointError when one of the two is missing or the ranks differ."""
    factors: dict[str, dict[str, LazyTensor]] = {}
    embeddings = set()
    for name, tensor in tensors.items():
        found = lora_name(name)
        if found is None:
            raise CheckpointError(f"{tensor.name} in {tensor.origin} is not a LoRA tensor")
        module, side = found
        factors.setdefault(module, {})[side] = tensor
        if ".lora_embedding_" in name:
            embeddings.add(module)
    result = {}
    for module, sides in factors.items():
        if set(sides) != {"A", "B"} or sides["A"].shape[0] != sides["B"].shape[1]:
            found = ", ".join(f"{side} {tensor.shape}" for side, tensor in sorted(sides.items()))
            raise CheckpointError(f"LoRA of {module} needs A (r, in) and B (out, r); found {found}")
        result[module] = Pair(sides["A"], sides["B"], module in embeddings)
    return result


def merge(
    weights: Mapping[str, LazyTensor], lora: Mapping[str, Pair], scale: float = DEFAULT_SCALE
) -> dict[str, LazyTensor]:
    """`weights` with every pair added as it is read. CheckpointError for a pair without its weight."""
    merged = dict(weights)
    for module, pair in lora.items():
        name = f"{module}.weight"
        if name not in weights or weights[name].shape != pair.shape:
            found = weights[name].shape if name in weights else "no such tensor"
            raise CheckpointError(f"LoRA of {module} goes on a weight of shape {pair.shape}; found {found}")
        merged[name] = replace(weights[name], read=partial(_read_merged, weights[name], pair, scale))
    return merged


def _read_merged(weight: LazyTensor, pair: Pair, scale: float) -> Tensor:
    # fp32: in bf16 most of a small update is lost in the rounding of the product
    a, b = pair.a.read().float(), pair.b.read().float()
    result = weight.read()
    for start in range(0, result.shape[0], BLOCK):
        rows = slice(start, start + BLOCK)
        update = (b @ a[:, rows]).T if pair.is_embedding else b[rows] @ a
        result[rows] = (result[rows].float() + scale * update).to(result.dtype)
    return result


def adapter_config(lora: Mapping[str, Pair], scale: float = DEFAULT_SCALE) -> dict[str, Any]:
    """The `adapter_config.json` of peft: exact modules, and every rank that is not the most common one."""
    rank = Counter(pair.rank for pair in lora.values()).most_common(1)[0][0]
    others = {module: pair.rank for module, pair in sorted(lora.items()) if pair.rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": scale * rank if scale * rank % 1 else int(scale * rank),
        "lora_dropout": 0.0,
        "bias": "none",
        # a pattern, not a list: peft matches list entries as name endings, and names here must match whole
        "target_modules": f"({'|'.join(re.escape(module) for module in sorted(lora))})",
        "rank_pattern": {f"^{re.escape(module)}$": rank for module, rank in others.items()},
        "alpha_pattern": {f"^{re.escape(module)}$": scale * rank for module, rank in others.items()},
    }


def adapter_tensors(lora: Mapping[str, Pair]) -> dict[str, LazyTensor]:
    """The tensors of peft's `adapter_model.safetensors`, by its names."""
    tensors = {}
    for module, pair in sorted(lora.items()):
        for side, tensor in (("A", pair.a), ("B", pair.b)):
            leaf = f"lora_embedding_{side}" if pair.is_embedding else f"lora_{side}.weight"
            tensors[f"base_model.model.{module}.{leaf}"] = tensor
    return tensors


def native_tensors(lora: Mapping[str, Pair], scale: float = DEFAULT_SCALE) -> dict[str, LazyTensor]:
    """The tensors by the original's names. It always multiplies by 2.0, so B takes the rest."""
    tensors = {}
    for module, pair in lora.items():
        for side, tensor in (("A", pair.a), ("B", pair.b)):
            leaf = f"lora_embedding_{side}.default" if pair.is_embedding else f"lora_{side}.default.weight"
            if side == "B" and scale != DEFAULT_SCALE:
                tensor = replace(tensor, read=partial(_read_scaled, tensor, scale / DEFAULT_SCALE))
            tensors[native_name("vlm", f"{module}.{leaf}")] = tensor
    return tensors


def _read_scaled(tensor: LazyTensor, factor: float) -> Tensor:
    return (tensor.read().float() * factor).to(tensor.dtype)


def attach(vlm: Any, lora: Mapping[str, Pair], scale: float, dtype: torch.dtype | None) -> None:
    """Put the adapter `default` on a loaded VLM, unmerged, frozen.

    Raises CheckpointError if a factor finds no place.
    """
    from peft import LoraConfig, inject_adapter_in_model

    settings = adapter_config(lora, scale)
    settings.pop("peft_type")
    inject_adapter_in_model(LoraConfig(**settings), vlm, "default")
    vlm._hf_peft_config_loaded = (
        True  # what transformers' own load_adapter sets, for delete_adapter and the rest
    )
    targets = dict(vlm.named_parameters())
    for module, pair in lora.items():
        for side, tensor in (("A", pair.a), ("B", pair.b)):
            leaf = f"lora_embedding_{side}.default" if pair.is_embedding else f"lora_{side}.default.weight"
            target = targets.get(f"{module}.{leaf}")
            if target is None or target.shape != tensor.shape:
                raise CheckpointError(f"{tensor.name} of {tensor.origin} has no place in the VLM")
            target.data = tensor.read().to(dtype or tensor.dtype)
            target.requires_grad_(False)
    vlm.eval()
