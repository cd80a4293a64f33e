"""Rotary positions of text and image tokens (Qwen2.5-VL's multimodal RoPE for still images).

Text advances time, row and column together. The tokens of an image of h x w merged tokens that starts at s
sit at (s, s + row, s + column), and the next text token at s + max(h, w). Padding gets 1.

A position is the number of text tokens before it, and what the images before it add, which the images' sizes
tell. So nothing of the prompt has to be known here, and a device that holds it is not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# B rows, L tokens, K image tokens of the row that has most

Grids = Sequence[Sequence[tuple[int, int]]]  # per row, the merged grid (h, w) of each of its images


def multimodal_positions(
    input_ids: Tensor, attention_mask: Tensor, image_token_id: int, grids: Grids
) -> Tensor:
    """Positions in time, row and column, (3, B, L) int64.

    Args:
        input_ids: (B, L), think tokens included.
        attention_mask: (B, L), True at real tokens.
        image_token_id: id of the image placeholder.
        grids: per row, the merged grid (h, w) of each of its images, in order.
    """
    real = attention_mask.bool()
    is_image = (input_ids == image_token_id) & real  # (B, L)
    is_text = real & ~is_image
    text_before = is_text.cumsum(1) - is_text.long()  # (B, L)
    images_before = is_image.cumsum(1) - is_image.long()  # (B, L), tokens of images
    table = _table(grids).to(input_ids.device)  # (B, K + 1, 4)
    place = images_before.clamp(max=table.shape[1] - 1)[..., None].expand(-1, -1, table.shape[2])
    *within, after = table.gather(1, place).unbind(-1)  # (B, L) each
    shift = torch.stack([torch.where(is_image, own, after) for own in within])  # (3, B, L)
    return torch.where(real, text_before + shift, 1)


def _table(grids: Grids) -> Tensor:
    """What images add to the position of a row's k-th image token, in time, row and column, and to text after
    k image tokens, (B, K + 1, 4).
    """
    rows = []
    for own in grids:
        start, places = 0, []
        for height, width in own:
            places += [(start, start + r, start + c, start) for r in range(height) for c in range(width)]
            start += max(height, width)
        rows.append([*places, (start, start, start, start)])
    longest = max(len(row) for row in rows)
    return torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
