"""Attention of the connector and the DiT, through diffusers' dispatcher.

Both processors hand query, key and value to `dispatch_attention_fn`, so
`model.set_attention_backend("flash")` and the rest of diffusers' switch apply. The default is torch's scaled
dot product attention.

A mask is a boolean (B, 1, 1, K) over keys, True where the key is real, or None when nothing is padded: padded
queries need none, because their outputs are dropped and no real query can see them.

What goes into a linear layer is contiguous: for parts of several rows PyTorch would copy the weights of each
row instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from deepgen.models import cpu_attention

# B batch, S image tokens, L context tokens, H heads, E head width, D width


class JointAttentionProcessor:
    """SD3 joint attention over [image, context] tokens, or self attention where no context is given."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        num_queries: int | None = None,
        may_choose: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend; shapes (B, S, D) and (B, L, D). Masks: over S + L keys for joint, over S for self
        attention.

        `num_queries` asks for the first so many image tokens only; where the block drops its context, the
        context then serves as keys and values alone and comes back empty. `may_choose` allows another way
        than the backend's where one is faster on this CPU, unless a backend was asked for.
        """
        query, key, value = _project(attn, hidden_states, num_queries)  # (B, S, H, E) each
        mask, queried_context = image_mask, 0

        if encoder_hidden_states is not None:
            queried_context = encoder_hidden_states.shape[1]
            if num_queries is not None and attn.context_pre_only:
                queried_context = 0
            added_query, added_key, added_value = _project_context(
                attn, encoder_hidden_states, queried_context
            )
            query = torch.cat([query, added_query], dim=1) if queried_context else query  # (B, S + L, H, E)
            key = torch.cat([key, added_key], dim=1)  # (B, S + L, H, E)
            value = torch.cat([value, added_value], dim=1)  # (B, S + L, H, E)
            mask = attention_mask

        if may_choose and mask is None and self._is_default():
            attended = cpu_attention.attend(query, key, value)
        else:
            attended = self._dispatch(query, key, value, mask)  # (B, S or num_queries [+ L], H, E)
        attended = rearrange(attended, "b s h e -> b s (h e)").to(hidden_states.dtype)  # (B, S [+ L], D)

        if encoder_hidden_states is None:
            return attn.to_out[0](attended)
        image, context = attended.split([attended.shape[1] - queried_context, queried_context], dim=1)
        if not attn.context_pre_only:
            context = attn.to_add_out(context.contiguous())
        return attn.to_out[0](image.contiguous()), context

    def _dispatch(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            self._check_backend()
        return dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )

    def _is_default(self) -> bool:
        """Whether no backend was chosen and the tokens are not divided among processes."""
        active, _ = _AttentionBackendRegistry.get_active_backend()
        unasked = self._attention_backend is None and self._parallel_config is None
        return unasked and active == AttentionBackendName.NATIVE

    def _check_backend(self) -> None:
        """Variable-length kernels take padding to be at the end; ours is also between image and context."""
        active, _ = _AttentionBackendRegistry.get_active_backend()
        backend = AttentionBackendName(self._attention_backend or active)
        if "varlen" in backend.value:
            raise ValueError(
                f"attention backend {backend.value!r} cannot mask padding between samples; "
                "draw equal sizes and prompts of equal length together, or use 'native' or 'flex'"
            )


def _project(attn: Attention, x: Tensor, num_queries: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (B, S, H, E) of image tokens (B, S, D), query and key normalised."""
    if attn.fused_projections:
        query, key, value = _split_heads(attn, attn.to_qkv(x).chunk(3, dim=-1))
        query = query[:, :num_queries]
    else:
        queried = x[:, :num_queries].contiguous()
        query, key, value = _split_heads(attn, (attn.to_q(queried), attn.to_k(x), attn.to_v(x)))
    return _normalise(attn.norm_q, query), _normalise(attn.norm_k, key), value


def _project_context(attn: Attention, x: Tensor, num_queries: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """The same of context tokens (B, L, D); no query where none is asked for."""
    if attn.fused_projections:
        query, key, value = _split_heads(attn, attn.to_added_qkv(x).chunk(3, dim=-1))
    else:
        asked = (attn.add_q_proj(x),) if num_queries else ()
        *queries, key, value = _split_heads(attn, (*asked, attn.add_k_proj(x), attn.add_v_proj(x)))
        query = queries[0] if queries else None
    key = _normalise(attn.norm_added_k, key)
    return None if not num_queries else _normalise(attn.norm_added_q, query), key, value


def _split_heads(attn: Attention, projected: Sequence[Tensor]) -> list[Tensor]:
    return [rearrange(x, "b s (h e) -> b s h e", h=attn.heads) for x in projected]


def _normalise(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


class BridgeAttentionProcessor:
    """Plain bidirectional self attention, for the connector's encoder layers."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self, attn: BridgeAttention, hidden_states: Tensor, key_mask: Tensor | None = None
    ) -> Tensor:
        """Attend; (B, L, D) to (B, L, D)."""
        query, key, value = (
            rearrange(proj(hidden_states), "b l (h e) -> b l h e", h=attn.num_heads)
            for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=key_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.out_proj(rearrange(attended, "b l h e -> b l (h e)"))  # (B, L, D)


class BridgeAttention(nn.Module, AttentionModuleMixin):
    """Multi-head self attention with biases everywhere; the released files' own parameter names."""

    _default_processor_cls = BridgeAttentionProcessor
    _available_processors = [BridgeAttentionProcessor]

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is not divisible by num_attention_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(hidden_size, hidden_size) for _ in range(4)
        )
        self.set_processor(BridgeAttentionProcessor())

    def forward(self, hidden_states: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D); `key_mask` is boolean (B, 1, 1, L)."""
        return self.processor(self, hidden_states, key_mask)
