"""Conditions of negative prompts, kept from call to call.

Nearly every picture is drawn against the same negative prompt, usually the empty one. What it becomes depends
on its tokens, on how far they are padded, and on the weights of the VLM and the connector; the key is all
three, so a kept condition is the one that would be computed. Where references are shown they are part of the
negative prompt as well, and nothing is kept.

Weights are known by identity, version and a sample of their values. PyTorch counts changes in place, but not
those through `.data`, as adapters are merged and parts are moved: those show in the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepgen.models.bounded_cache import BoundedCache
from deepgen.types import Condition

MAX_BYTES = 64 * 2**20  # some 50 negative prompts of the 5B model, on the device it runs on
_SAMPLES = 32  # values of each tensor that are looked at


class ConditionCache(BoundedCache[Condition]):
    """The last used conditions of one row, up to a number of bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes, condition_bytes)

    def get(self, key: Any, compute: Callable[[], Condition]) -> Condition:
        """What is kept under the key, or what `compute` returns. With gradient, or without a key, nothing is
        kept: a graph belongs to one call.
        """
        if key is None or torch.is_grad_enabled():
            return compute()
        return super().get(key, compute)


def condition_bytes(condition: Condition) -> int:
    """Bytes of a condition's tensors."""
    mask = 0 if condition.mask is None else condition.mask.nbytes
    return condition.prompt_embeds.nbytes + condition.pooled_prompt_embeds.nbytes + mask


def fingerprint(modules: Sequence[nn.Module], device: torch.device) -> bytes | None:
    """What a result of these modules depends on besides its input: weights, active adapters, number formats.

    None where the weights cannot be looked at: not there (offloaded layer by layer), divided among processes,
    or made in inference mode, where PyTorch counts no changes.
    """
    told = hashlib.blake2b(digest_size=16)
    is_autocast = torch.is_autocast_enabled(device.type)
    told.update(repr((str(device), is_autocast and torch.get_autocast_dtype(device.type))).encode())
    samples: dict[torch.device, list[Tensor]] = {}
    for module in modules:
        for part in module.modules():
            told.update(repr((type(part).__name__, part.training, _adapters(part))).encode())
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is None:
                    continue
                if tensor.is_meta or tensor.is_inference() or type(tensor).__name__ == "DTensor":
                    return None
                told.update(repr((id(tensor), tensor._version, tensor.dtype, tuple(tensor.shape))).encode())
                for stored in _stored(tensor):
                    samples.setdefault(stored.device, []).append(_sample(stored))
    for values in samples.values():
        told.update(torch.cat(values).cpu().numpy().tobytes())  # one transfer for each device
    return told.digest()


def _adapters(module: Any) -> Any:
    """State of a layer with LoRAs: which are active, merged, switched off, and how strong they are."""
    if not hasattr(module, "merged_adapters"):
        return None
    scaling = sorted((name, float(value)) for name, value in module.scaling.items())
    return list(module.active_adapters), list(module.merged_adapters), module.disable_adapters, scaling


def _stored(tensor: Tensor) -> list[Tensor]:
    """The plain tensors behind a quantised one, or itself."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [plain for name in names for plain in _stored(getattr(tensor, name))]
    return [tensor.detach().as_subclass(Tensor)]


def _sample(tensor: Tensor) -> Tensor:
    """Bytes of values spread evenly over a tensor."""
    flat = tensor.reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLES)].contiguous().view(torch.uint8)
