"""Stacked Channel Bridging: from the VLM's hidden states to the DiT's condition.

Hidden states of several VLM layers, tapped at every position (prompt, image tokens, pads and think tokens),
are stacked along the channels, projected to the connector's width and mixed by a small bidirectional encoder.
Its output becomes the DiT's context; its mean over positions becomes the pooled condition (DeepGen 1.0, arXiv
2602.12205, section 3).

The encoder sees pads as ordinary positions, because the released weights were trained that way; callers
therefore decide what a sample is padded to. With a mask pads are invisible instead, and a sample comes
out as it would alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from deepgen.models.attention import BridgeAttention
from deepgen.models.config import Variant, chosen_taps, tap_indices
from deepgen.models.containment import OwnFolderMixin

# B batch, L positions (prompt and think tokens), Q think tokens, T taps, V VLM width, D connector width


@dataclass
class StackedChannelBridgeOutput(BaseOutput):
    """Condition of the DiT: (B, L, joint_attention_dim) and (B, pooled_projection_dim)."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


class ThinkTokens(nn.Module):
    """Learnable vectors appended to every prompt. A module of its own, so that offload hooks find its
    weight.
    """

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tokens, width) * width**-0.5)

    def forward(self) -> Tensor:
        """The tokens, (Q, V)."""
        return self.weight


class BridgeLayer(nn.Module):
    """Pre-norm transformer encoder layer without positions, mask or dropout."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_heads: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(hidden_size, eps=1e-6)
        self.self_attn = BridgeAttention(hidden_size, num_heads)
        self.layer_norm2 = nn.LayerNorm(hidden_size, eps=1e-6)
        self.mlp = BridgeMLP(hidden_size, intermediate_size)

    def forward(self, hidden_states: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D); `key_mask` (B, 1, 1, L) is True at positions that may be attended to."""
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), key_mask)
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class BridgeMLP(nn.Module):
    """Two linears around a tanh-approximated GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return self.fc2(self.act(self.fc1(hidden_states)))


class StackedChannelBridge(OwnFolderMixin, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Think tokens, taps, projectors and encoder of DeepGen.

    `variant="scb"` reads the hidden states `tap_indices(vlm_num_layers, tap_stride)`, or those that `taps`
    names; `"last_hidden"` reads the VLM's final normed state alone and is otherwise the same network.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["BridgeLayer"]
    _repeated_blocks = ["BridgeLayer"]
    _skip_layerwise_casting_patterns = ["think_tokens", "norm"]

    @register_to_config
    def __init__(
        self,
        hidden_size: int = 2048,
        intermediate_size: int = 11946,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 32,
        num_think_tokens: int = 128,
        vlm_hidden_size: int = 2048,
        vlm_num_layers: int = 36,
        tap_stride: int = 6,
        pooled_projection_dim: int = 2048,
        joint_attention_dim: int = 4096,
        variant: Variant = "scb",
        taps: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if variant not in ("scb", "last_hidden"):
            raise ValueError(f"unknown connector variant {variant!r}; known: scb, last_hidden")
        if taps is not None and variant != "scb":
            raise ValueError(
                f"variant {variant} reads the last state alone; leave out taps, got {list(taps)}"
            )
        num_taps = len(self.taps or (0,))
        self.think_tokens = ThinkTokens(num_think_tokens, vlm_hidden_size)
        self.tap_projector = nn.Linear(num_taps * vlm_hidden_size, hidden_size)
        self.layers = nn.ModuleList(
            BridgeLayer(hidden_size, intermediate_size, num_attention_heads) for _ in range(num_hidden_layers)
        )
        self.pooled_projector = nn.Linear(hidden_size, pooled_projection_dim)
        self.context_projector = nn.Linear(hidden_size, joint_attention_dim)
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The original's initialisation: xavier encoder, zero output projectors, so that training starts
        silent.
        """
        for name, linear in self.layers.named_modules():
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias) if "self_attn" in name else nn.init.normal_(linear.bias, std=1e-6)
        for projector in (self.pooled_projector, self.context_projector):
            nn.init.zeros_(projector.weight)
            nn.init.zeros_(projector.bias)

    @property
    def taps(self) -> tuple[int, ...] | None:
        """VLM layers this connector reads, deepest first; None for the final normed state."""
        if self.config.variant == "last_hidden":
            return None
        if self.config.taps is not None:
            return chosen_taps(self.config.taps, self.config.vlm_num_layers)
        return tap_indices(self.config.vlm_num_layers, self.config.tap_stride)

    def forward(
        self, vlm_states: Tensor, mask: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor, Tensor] | StackedChannelBridgeOutput:
        """Condition of the DiT from the stacked taps.

        Args:
            vlm_states: (B, L, T * V), taps stacked on channels, deepest first.
            mask: boolean (B, L), True at real positions, to hide pads; None shows every position.
            return_dict: wrap the result as diffusers does; a plain tuple otherwise.

        Returns:
            prompt_embeds (B, L, joint_attention_dim) and pooled_prompt_embeds (B, pooled_projection_dim).
        """
        key_mask = None if mask is None else mask[:, None, None]  # (B, 1, 1, L)
        hidden_states = self.tap_projector(vlm_states)  # (B, L, D)
        for layer in self.layers:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(layer, hidden_states, key_mask)
            else:
                hidden_states = layer(hidden_states, key_mask)  # (B, L, D)
        if mask is None:
            mean = hidden_states.mean(dim=1)  # (B, D)
        else:
            weights = mask / mask.sum(dim=1, keepdim=True)  # (B, L), float32
            mean = torch.einsum("bl,bld->bd", weights.to(hidden_states.dtype), hidden_states)  # (B, D)
        pooled = self.pooled_projector(mean)  # (B, P)
        context = self.context_projector(hidden_states)  # (B, L, C)
        return StackedChannelBridgeOutput(context, pooled) if return_dict else (context, pooled)
