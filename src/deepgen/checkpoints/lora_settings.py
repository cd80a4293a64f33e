"""Rank and alpha of a LoRA, from its tensors, its metadata or its `adapter_config.json`.

An update is s B A with s = alpha / rank, or alpha / sqrt(rank) where the settings say rank-stabilised
(https://arxiv.org/abs/2312.03732). PEFT writes one alpha and patterns for the modules that differ; kohya
writes one alpha for each module. Where nothing is said, alpha is the rank, as in kohya's own loader.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepgen.checkpoints.lora_keys import PARTS
from deepgen.checkpoints.tensors import CheckpointError

METADATA_KEY = "lora_adapter_metadata"  # of diffusers, in the header of a safetensors file

# Ways to begin training that leave the model's weights as they are; the others move a share of them into the
# adapter, which is then no update of the published weights.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_UNKNOWN_METHODS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "LoRA with biases (lora_bias)",
    "layer_replication": "LoRA with layer replication",
    "target_parameters": "LoRA of bare parameters (target_parameters)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}


class LoraError(CheckpointError):
    """A LoRA that cannot be used as it is; the message names the file, the first keys and the reason."""


@dataclass(frozen=True)
class AdapterSettings:
    """What PEFT keeps of an adapter beside its tensors, as far as drawing needs it."""

    origin: str
    rank: int | None = None
    alpha: float = 8.0  # PEFT's default
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilised: bool = False

    def scale(self, module: str, rank: int) -> float:
        """The scale of a module's update; LoraError where its rank is not the one the settings promise."""
        promised = _of_pattern(self.rank_pattern, module, self.rank, self.origin)
        if promised is not None and promised != rank:
            raise LoraError(
                f"{self.origin} says rank {promised} for {module}, its factors have rank {rank}; the "
                "settings belong to another file"
            )
        alpha = _of_pattern(self.alpha_pattern, module, self.alpha, self.origin)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def read_settings(
    text: Mapping[str, str] | None, beside: Path | None, origin: str
) -> dict[str, AdapterSettings]:
    """The settings by part; "" are those of keys without a part.

    Args:
        text: the metadata of a safetensors file.
        beside: `adapter_config.json`, where there is one.
        origin: the file, for errors.

    Raises:
        LoraError: no valid JSON, or a method that is more than LoRA.
    """
    if beside is not None:
        return {
            "": _checked(
                _parse(beside.read_text(encoding="utf-8", errors="replace"), str(beside)), str(beside)
            )
        }
    if not text or METADATA_KEY not in text:
        return {}
    where = f"the settings in the header of {origin}"
    entries = _parse(text[METADATA_KEY], where)
    parts: dict[str, dict[str, Any]] = {}
    for name, value in entries.items():
        part, dot, rest = name.partition(".")
        is_of_part = dot and part in PARTS
        parts.setdefault(part if is_of_part else "", {})[rest if is_of_part else name] = value
    return {part: _checked(values, where) for part, values in parts.items()}


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError) as error:
        raise LoraError(f"{where}: no valid JSON ({error}); write the adapter again") from None
    if not isinstance(found, dict):
        raise LoraError(f"{where}: holds a {type(found).__name__}, expected PEFT's settings of an adapter")
    return found


def _checked(found: Mapping[str, Any], where: str) -> AdapterSettings:
    kind = str(found.get("peft_type", "LORA")).removeprefix("PeftType.")
    if kind.upper() != "LORA":
        raise LoraError(f"{where}: a {kind} adapter; DeepGen applies plain LoRA only, so export it as that")
    for name, method in _UNKNOWN_METHODS.items():
        if found.get(name):
            raise LoraError(
                f"{where}: {method}, which DeepGen does not apply; train or export it as plain LoRA"
            )
    if (beginning := found.get("init_lora_weights", True)) not in _PLAIN_BEGINNINGS:
        raise LoraError(
            f"{where}: init_lora_weights {beginning!r} also changed the model's own weights; save it with "
            "PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA"
        )
    patterns = [found.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    rank, alpha = found.get("r"), found.get("lora_alpha", 8)
    ranks = [*([] if rank is None else [rank]), *_values(patterns[0])]
    if not all(isinstance(r, int) and r > 0 for r in ranks) or not all(
        isinstance(a, int | float) and math.isfinite(a) for a in (alpha, *_values(patterns[1]))
    ):
        raise LoraError(
            f"{where}: ranks must be positive whole numbers and alphas numbers, found r={rank!r}, "
            f"lora_alpha={alpha!r}, rank_pattern={patterns[0]!r}, alpha_pattern={patterns[1]!r}"
        )
    return AdapterSettings(where, rank, alpha, *patterns, is_rank_stabilised=bool(found.get("use_rslora")))


def _values(pattern: Any) -> list[Any]:
    return list(pattern.values()) if isinstance(pattern, dict) else [None]


def _of_pattern(pattern: Mapping[str, Any], module: str, usual: Any, origin: str) -> Any:
    """PEFT's rule: the first pattern that matches the module's name, or its end."""
    for key, value in pattern.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise LoraError(f"{origin}: the pattern {key!r} cannot be read ({error})") from None
    return usual
