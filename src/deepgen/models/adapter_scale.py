"""The LoRA scale of one call: `joint_attention_kwargs={"scale": 0.5}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

logger = logging.getLogger(__name__)


def read_scale(joint_attention_kwargs: Mapping[str, Any] | None) -> float:
    """The strength asked for, 1 by default. ValueError for what this model does not read, or no number."""
    given = dict(joint_attention_kwargs or {})
    scale = given.pop("scale", 1.0)
    if given:
        raise ValueError(
            f"joint_attention_kwargs: unknown {', '.join(sorted(given))}; known: scale (of LoRAs)"
        )
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"joint_attention_kwargs: scale must be a finite number, got {scale!r}")
    return float(scale)


@contextmanager
def scaled(modules: Sequence[Any], scale: float) -> Iterator[None]:
    """The LoRAs of these modules multiplied by `scale`, and afterwards exactly as they were."""
    layers = [] if scale == 1.0 else [layer for module in modules for layer in _adapted(module)]
    if scale != 1.0 and not layers:
        logger.warning("joint_attention_kwargs asks for a LoRA scale of %g, and no LoRA is loaded", scale)
    kept = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scale_layer(scale)
    try:
        yield
    finally:
        for layer, scaling in zip(layers, kept, strict=True):
            layer.scaling.update(scaling)


def _adapted(module: Any) -> list[Any]:
    is_module = isinstance(module, nn.Module)
    return [part for part in module.modules() if isinstance(part, BaseTunerLayer)] if is_module else []
