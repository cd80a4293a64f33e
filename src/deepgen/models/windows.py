"""Window attention of the vision tower, all windows of one length in one call.

transformers attends window by window where no variable-length kernel is installed: four pictures of 512
pixels have 64 windows, in each of 28 layers. Most windows are whole and the others have one of three lengths,
so a few calls do. The values are the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

from deepgen.models.vision_tower import rotate

# S patches of all images, N windows of W patches, H heads, E head width, D width


class WindowAttention(Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's vision attention, with its parameters."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        **kwargs: Any,
    ) -> Tensor:
        """Attend within windows; (S, D) to (S, D). `cu_seqlens` are the windows' ends, after a zero."""
        if self.config._attn_implementation != "sdpa":
            return super().forward(
                hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs
            )
        query, key, value = rearrange(self.qkv(hidden_states), "s (n h e) -> n s h e", n=3, h=self.num_heads)
        query, key = rotate(query, key, *position_embeddings)
        lengths = cu_seqlens.diff()
        distinct = lengths.unique().tolist()
        if len(distinct) == 1:
            attended = self._attend(query, key, value, distinct[0])
        else:
            of_patch = lengths.repeat_interleave(lengths)  # (S,)
            attended = torch.empty_like(value)
            for length in distinct:
                inside = of_patch == length
                attended[inside] = self._attend(query[inside], key[inside], value[inside], length)
        return self.proj(rearrange(attended, "s h e -> s (h e)"))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
        """In consecutive windows of `length` patches; each (N * W, H, E), and so is the result."""
        windows = (rearrange(x, "(n w) h e -> n h w e", w=length) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(*windows, scale=self.scaling)
        return rearrange(attended, "n h w e -> (n w) h e")
