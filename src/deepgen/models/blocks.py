"""The DiT's blocks: diffusers' joint block with fewer passes over memory, and without unused outputs.

Submodules, their names and their order are diffusers'; the arithmetic is, too, up to rounding. What differs:

- Scale, shift and gate of a block depend on the noise level and the pooled condition alone. They may come
  precomputed, for many steps at once, so that a third of the weights is not read in every step.
- A modulated norm is one pass after the norm, a gated sum one pass (`addcmul`).
- Of the last block only the target's tokens are read. It can compute those alone: its references and its
  context then serve as keys and values only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import JointTransformerBlock, _chunked_feed_forward
from torch import Tensor, nn

from deepgen.models import cpu_attention
from deepgen.models.fused import feed_forward

# B batch, S image tokens, N target tokens, L context tokens, D width

Modulation = Tensor | tuple[Tensor, Tensor]  # embedding (B, D), or a block's own two vectors


class JointBlock(JointTransformerBlock):
    """A block of two streams, image and context, which attend to each other."""

    def modulation(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams' vectors, (B, 6 D or 9 D) and (B, 6 D or 2 D), of the time embedding (B, D)."""
        active = F.silu(embedding)
        return self.norm1.linear(active), self.norm1_context.linear(active)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Modulation,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Context (B, L, D) and image tokens (B, S, D), as they came in."""
        fuses = _may_fuse(joint_attention_kwargs)
        kwargs = _for_attention(joint_attention_kwargs, fuses and cpu_attention.has_choice(hidden_states))
        vectors = self.modulation(temb) if isinstance(temb, Tensor) else temb  # (B, 6 or 9 D), (B, 6 D)
        image, context = hidden_states, encoder_hidden_states  # (B, S, D), (B, L, D)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *dual = _chunks(vectors[0], self._num_vectors)
        c_shift, c_scale, c_gate, c_mlp_shift, c_mlp_scale, c_mlp_gate = _chunks(vectors[1], 6)

        normed = self.norm1.norm(image)  # (B, S, D)
        attended, context_attended = self.attn(
            hidden_states=modulate(normed, shift, scale),
            encoder_hidden_states=modulate(self.norm1_context.norm(context), c_shift, c_scale),
            **kwargs,
        )  # (B, S, D), (B, L, D)
        image = add_gated(image, gate, attended)  # (B, S, D)
        if dual:
            image = add_gated(image, dual[2], self.attn2(modulate(normed, dual[0], dual[1]), **kwargs))
        image = self._add_mlp(image, self.norm2, self.ff, mlp_shift, mlp_scale, mlp_gate, fuses)  # (B, S, D)
        context = add_gated(context, c_gate, context_attended)  # (B, L, D)
        context = self._add_mlp(
            context, self.norm2_context, self.ff_context, c_mlp_shift, c_mlp_scale, c_mlp_gate, fuses
        )
        return context, image

    @property
    def _num_vectors(self) -> int:
        return 9 if self.use_dual_attention else 6

    def _add_mlp(
        self, x: Tensor, norm: Any, mlp: nn.Module, shift: Tensor, scale: Tensor, gate: Tensor, fuses: bool
    ) -> Tensor:
        """`fuses` where an image is drawn whose bits need not be those of another pass."""
        modulated = modulate(norm(x), shift, scale)
        if self._chunk_size is None:
            return add_gated(x, gate, feed_forward(mlp, modulated) if fuses else mlp(modulated))
        return add_gated(x, gate, _chunked_feed_forward(mlp, modulated, self._chunk_dim, self._chunk_size))


class FinalJointBlock(JointBlock):
    """The last block, which reads the context without changing it.

    diffusers' block returns None for the context there, on which its first-block cache stumbles; this one
    returns the context it was given.
    """

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Modulation,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Context (B, L, D), untouched, and image tokens (B, S, D).

        `num_targets` in `joint_attention_kwargs` says that only the first so many image tokens are asked for;
        the others come back untouched.
        """
        image, fuses = hidden_states, _may_fuse(joint_attention_kwargs)
        kwargs = _for_attention(joint_attention_kwargs, fuses and cpu_attention.has_choice(image))
        targets = (joint_attention_kwargs or {}).get("num_targets")
        if targets is not None:
            kwargs["num_queries"] = targets
        vectors = self.modulation(temb) if isinstance(temb, Tensor) else temb  # (B, 6 or 9 D), (B, 2 D)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *dual = _chunks(vectors[0], self._num_vectors)
        context_scale, context_shift = _chunks(vectors[1], 2)  # in this order in diffusers' continuous norm

        normed = self.norm1.norm(image)  # (B, S, D)
        attended, _ = self.attn(
            hidden_states=modulate(normed, shift, scale),
            encoder_hidden_states=modulate(
                self.norm1_context.norm(encoder_hidden_states), context_shift, context_scale
            ),
            **kwargs,
        )  # (B, N, D), the context unused
        target = add_gated(image[:, :targets], gate, attended)  # (B, N, D)
        if dual:
            target = add_gated(target, dual[2], self.attn2(modulate(normed, dual[0], dual[1]), **kwargs))
        target = self._add_mlp(target, self.norm2, self.ff, mlp_shift, mlp_scale, mlp_gate, fuses)
        if target.shape[1] < image.shape[1]:
            target = torch.cat([target, image[:, targets:]], dim=1)  # (B, S, D)
        return encoder_hidden_states, target


def modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """normed (1 + scale) + shift, vectors (B, D) over tokens (B, S, D)."""
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


def add_gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """x + gate change, the gate (B, D) over tokens (B, S, D)."""
    return torch.addcmul(x, gate[:, None], change)


def _chunks(vectors: Tensor, count: int) -> tuple[Tensor, ...]:
    return vectors.chunk(count, dim=1)


def _for_attention(kwargs: dict[str, Any] | None, may_choose: bool) -> dict[str, Any]:
    """Arguments of the attention; diffusers warns of those it does not know, so not more than needed."""
    given = {name: value for name, value in (kwargs or {}).items() if name not in ("num_targets", "may_fuse")}
    return {**given, "may_choose": True} if may_choose else given


def _may_fuse(kwargs: dict[str, Any] | None) -> bool:
    """Whether operations may be joined, which rounds otherwise: not where a policy is scored on its bits."""
    return bool((kwargs or {}).get("may_fuse"))


def as_joint_block(block: JointTransformerBlock) -> JointBlock:
    """A block of diffusers as ours, the same parameters."""
    block.__class__ = FinalJointBlock if block.context_pre_only else JointBlock
    return block  # pyright: ignore[reportReturnType]


TransformerBlockRegistry.register(
    JointBlock,
    TransformerBlockMetadata(return_hidden_states_index=1, return_encoder_hidden_states_index=0),
)
TransformerBlockRegistry.register(
    FinalJointBlock,
    TransformerBlockMetadata(return_hidden_states_index=1, return_encoder_hidden_states_index=0),
)
