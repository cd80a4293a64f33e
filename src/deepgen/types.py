"""Small dataclasses that several packages share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Condition:
    """The DiT's condition of each sample.

    Attributes:
        prompt_embeds: (B, L, joint_attention_dim).
        pooled_prompt_embeds: (B, pooled_projection_dim).
        mask: boolean (B, L), True at real positions; None if all are.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.prompt_embeds.device

    def to(self, dtype: torch.dtype) -> Condition:
        """The same condition in another precision."""
        return Condition(self.prompt_embeds.to(dtype), self.pooled_prompt_embeds.to(dtype), self.mask)

    def select(self, rows: Sequence[int]) -> Condition:
        """Rows in the given order, cut to the longest of them, without a mask if none of them is padded."""
        index = torch.as_tensor(list(rows), device=self.device)
        embeds, pooled = self.prompt_embeds[index], self.pooled_prompt_embeds[index]
        if self.mask is None:
            return Condition(embeds, pooled)
        mask = self.mask[index]
        longest = int(mask.sum(dim=1).max())
        mask = mask[:, :longest]
        return Condition(embeds[:, :longest], pooled, None if mask.all() else mask)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Rows of several conditions; shorter ones are padded on the right with zeros and masked."""
        pooled = torch.cat([condition.pooled_prompt_embeds for condition in conditions])
        if len({c.prompt_embeds.shape[1] for c in conditions}) == 1 and all(
            c.mask is None for c in conditions
        ):
            return Condition(torch.cat([c.prompt_embeds for c in conditions]), pooled)
        rows = [row[keep] for c in conditions for row, keep in zip(c.prompt_embeds, c._keeps(), strict=True)]
        lengths = torch.tensor([len(row) for row in rows], device=pooled.device)
        embeds = pad_sequence(rows, batch_first=True)
        mask = torch.arange(embeds.shape[1], device=pooled.device) < lengths[:, None]
        return Condition(embeds, pooled, None if mask.all() else mask)

    def _keeps(self) -> Tensor:
        """The mask, spelled out."""
        if self.mask is not None:
            return self.mask.bool()
        return torch.ones(self.prompt_embeds.shape[:2], dtype=torch.bool, device=self.device)
