"""The LoRA scale of one call: `joint_attention_kwargs={"scale": 0.5}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from deepgen.models.graphs import outside_graphs

logger = logging.getLogger(__name__)


@outside_graphs
def read_scale(
    joint_attention_kwargs: Mapping[str, Any] | None, modules: Sequence[Any] | None = None
) -> float:
    """The strength asked for, 1 by default; said to do nothing where none of `modules` has a LoRA.

    Raises:
        ValueError: something that this model does not read, or no number.
    """
    given = dict(joint_attention_kwargs or {})
    scale = given.pop("scale", 1.0)
    if given:
        raise ValueError(
            f"joint_attention_kwargs: unknown {', '.join(sorted(given))}; known: scale (of LoRAs)"
        )
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"joint_attention_kwargs: scale must be a finite number, got {scale!r}")
    if scale != 1.0 and modules is not None and not any(_adapted(module) for module in modules):
        logger.warning("joint_attention_kwargs asks for a LoRA scale of %g, and no LoRA is loaded", scale)
    return float(scale)


@outside_graphs
def scaled(modules: Sequence[Any], scale: float, kept: Collection[str] = ()) -> Scaled:
    """A context in which the LoRAs of these modules are multiplied by `scale`, but for those of the names
    `kept`: half a student of few steps is neither student nor teacher.
    """
    return Scaled(modules, scale, kept)


class Scaled:
    """See `scaled`; afterwards the LoRAs are exactly as they were."""

    def __init__(self, modules: Sequence[Any], scale: float, kept: Collection[str]) -> None:
        self._scale, self._untouched = scale, frozenset(kept)
        self._layers = [] if scale == 1.0 else [layer for module in modules for layer in _adapted(module)]
        self._kept: list[dict[str, Any]] = []

    @outside_graphs
    def __enter__(self) -> None:
        self._kept = [{name: _copy(value) for name, value in layer.scaling.items()} for layer in self._layers]
        for layer, scaling in zip(self._layers, self._kept, strict=True):
            layer.scale_layer(self._scale)
            _set(layer, {name: scaling[name] for name in self._untouched & scaling.keys()})

    @outside_graphs
    def __exit__(self, *error: object) -> None:
        for layer, scaling in zip(self._layers, self._kept, strict=True):
            _set(layer, scaling)


def _set(layer: Any, scaling: Mapping[str, Any]) -> None:
    """Give adapters of a layer these strengths."""
    for name, value in scaling.items():
        if isinstance(value, Tensor):  # the same tensor as before, which a compiled graph holds
            layer.scaling[name].copy_(value)
        else:
            layer.scaling[name] = value


def _copy(value: Any) -> Any:
    """The strength as it is now: that of a model prepared for swapping adapters is a tensor."""
    return value.clone() if isinstance(value, Tensor) else value


def _adapted(module: Any) -> list[Any]:
    is_module = isinstance(module, nn.Module)
    return [part for part in module.modules() if isinstance(part, BaseTunerLayer)] if is_module else []
