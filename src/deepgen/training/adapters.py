"""LoRA presets: which weights are adapted, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from deepgen.models.vlm import DeepGenVLM

Targets = Literal["useful", "upstream", "linear"]

_LLM = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_DIT = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Rank and strength; an update is scaled by alpha / rank. The defaults are the original's for the VLM.

    Attributes:
        rank: of the two factors.
        alpha: strength; an update is scaled by alpha / rank.
        dropout: share of the adapter's inputs that are left out.
        targets: of the VLM, useful: the linear layers that feed a tap; upstream: those the original adapts.
            Of the DiT both are attention and feed-forward. linear: every linear layer, in the DiT those of
            modulation and timestep too.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.05
    targets: Targets = "useful"

    def __post_init__(self) -> None:
        """Refuse ranks below one and unknown presets."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "rank must be at least 1, alpha positive and dropout in [0, 1), "
                f"got {self.rank}, {self.alpha} and {self.dropout}"
            )
        if self.targets not in ("useful", "upstream", "linear"):
            raise ValueError(f"unknown LoRA targets {self.targets!r}; known: useful, upstream, linear")


def adapt_vlm(vlm: DeepGenVLM, settings: LoraSettings, taps: tuple[int, ...] | None) -> None:
    """Add a trainable adapter to the VLM.

    "useful" adapts the linear layers of the decoder layers that feed a tap. "upstream" adapts every
    linear layer and embedding by name, the vision tower (which runs without gradient) and layers above
    the deepest tap included; "linear" the same without embeddings.
    """
    if settings.targets == "useful":
        depth = len(vlm.language_model.layers) if taps is None else max(taps)
        layers = vlm.language_model.layers[:depth]
        names = [
            f"language_model.layers.{number}.{name}"
            for number, layer in enumerate(layers)
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(_LLM)
        ]
    else:
        kinds = nn.Linear if settings.targets == "linear" else (nn.Linear, nn.Embedding)
        names = [name for name, module in vlm.named_modules() if isinstance(module, kinds)]
    vlm.add_adapter(_config(settings, names))


def adapt_transformer(transformer: Any, settings: LoraSettings) -> None:
    """Add a trainable adapter to the attention and feed-forward layers of the DiT, or with targets "linear"
    to every linear layer.
    """
    names = list(_DIT)
    if settings.targets == "linear":
        names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    transformer.add_adapter(_config(settings, names))


def _config(settings: LoraSettings, names: list[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        init_lora_weights="gaussian",
        target_modules=names,
    )
