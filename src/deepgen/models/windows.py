"""Attention of the vision tower, all windows of one length in one call, from what the images' sizes tell.

transformers attends window by window where no variable-length kernel is installed: four pictures of 512
pixels have 64 windows, in each of 28 layers. Most windows are whole and the others have one of three lengths,
so a few calls do. The values are the same. Which patches those are follows from the sizes of the images,
which the host knows: the device is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    get_vision_position_ids,
    get_vision_window_index,
)

from deepgen.models.vision_tower import rotate
from deepgen.transfer import to_device

# S patches of all images, N windows of W patches, H heads, E head width, D width

Groups = list[tuple[int, Tensor | None]]  # a length, and the patches of all windows of it; None: all patches


@dataclass(frozen=True)
class VisionLayout:
    """What the tower needs of the images' sizes.

    Attributes:
        position_ids: row and column of each patch, (S, 2).
        window_index: merged tokens in the order of their windows.
        windows: lengths of the windows, in patches.
        images: the same of the images.
        window_groups: windows of one length together.
        image_groups: the same of the images, for the layers without windows.
    """

    position_ids: Tensor
    window_index: Tensor
    windows: tuple[int, ...]
    images: tuple[int, ...]
    window_groups: Groups
    image_groups: Groups

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """As the tower's forward takes them, on a device."""
        ends = {"cu_window_seqlens": self.windows, "cu_seqlens": self.images}
        return {
            "position_ids": to_device(self.position_ids, device),
            "window_index": to_device(self.window_index, device),
            **{
                name: to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)
                for name, lengths in ends.items()
            },
            "max_seqlen": max(self.images),
            "max_window_seqlen": max(self.windows),
            "window_groups": _moved(self.window_groups, device),
            "image_groups": _moved(self.image_groups, device),
        }


@lru_cache(maxsize=64)
def vision_layout(
    grids: tuple[tuple[int, int], ...], merge: int, window_size: int, patch_size: int
) -> VisionLayout:
    """The layout of images.

    Args:
        grids: patches of every image, (rows, columns).
        merge: patches per side of a merged token.
        window_size: pixels of a window's side.
        patch_size: pixels of a patch's side.
    """
    sizes = torch.tensor([(1, *grid) for grid in grids])
    index, ends = get_vision_window_index(sizes, merge, window_size, patch_size)
    windows, images = tuple(ends.diff().tolist()), tuple(rows * columns for rows, columns in grids)
    return VisionLayout(
        get_vision_position_ids(sizes, merge), index, windows, images, _groups(windows), _groups(images)
    )


class WindowAttention(Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's vision attention, with its parameters.

    Attributes:
        is_whole: attends within images, not within windows.
    """

    is_whole: bool = False

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        window_groups: Groups | None = None,
        image_groups: Groups | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend within windows; (S, D) to (S, D). `cu_seqlens` are the windows' ends, after a zero; they are
        read, which waits for the device, where the groups are not given.
        """
        if self.config._attn_implementation != "sdpa":
            return super().forward(
                hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs
            )
        query, key, value = rearrange(self.qkv(hidden_states), "s (n h e) -> n s h e", n=3, h=self.num_heads)
        query, key = rotate(query, key, *position_embeddings)
        groups = image_groups if self.is_whole else window_groups
        if groups is None:
            groups = _moved(_groups(cu_seqlens.diff().tolist()), cu_seqlens.device)
        if len(groups) == 1:
            attended = self._attend(query, key, value, groups[0][0])
        else:
            attended = torch.empty_like(value)
            for length, patches in groups:
                parts = (x[patches] for x in (query, key, value))
                attended[patches] = self._attend(*parts, length)
        return self.proj(rearrange(attended, "s h e -> s (h e)"))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
        """In consecutive windows of `length` patches; each (N * W, H, E), and so is the result."""
        windows = (rearrange(x, "(n w) h e -> n h w e", w=length) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(*windows, scale=self.scaling)
        return rearrange(attended, "n h w e -> (n w) h e")


def _groups(lengths: Sequence[int]) -> Groups:
    """Windows, which lie one after the other, by their lengths."""
    distinct = sorted(set(lengths))
    if len(distinct) == 1:
        return [(distinct[0], None)]
    of_patch = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths))  # (S,)
    return [(length, (of_patch == length).nonzero()[:, 0]) for length in distinct]


def _moved(groups: Groups, device: torch.device) -> Groups:
    return [
        (length, patches if patches is None else to_device(patches, device)) for length, patches in groups
    ]
