"""Small dataclasses that several packages share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepgen.transfer import to_device, to_host


@dataclass(frozen=True)
class Condition:
    """The DiT's condition of each sample.

    How many positions of a row are real is known to the host, so that rows are chosen, cut and joined
    without asking the device.

    Attributes:
        prompt_embeds: (B, L, joint_attention_dim).
        pooled_prompt_embeds: (B, pooled_projection_dim).
        mask: boolean (B, L), True at real positions, which come first in each row; None if all are.
        lengths: real positions of each row; found in the mask where they are not given.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    mask: Tensor | None = None
    lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Every row has a length."""
        if self.lengths is None:
            batch, length = self.prompt_embeds.shape[:2]
            lengths = [length] * batch if self.mask is None else to_host([self.mask.sum(dim=1)])[0].tolist()
            object.__setattr__(self, "lengths", tuple(lengths))

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.prompt_embeds.device

    def to(self, dtype: torch.dtype) -> Condition:
        """The same condition in another precision."""
        return Condition(
            self.prompt_embeds.to(dtype), self.pooled_prompt_embeds.to(dtype), self.mask, self.lengths
        )

    def select(self, rows: Sequence[int]) -> Condition:
        """Rows in the given order, cut to the longest of them, without a mask if none of them is padded."""
        assert self.lengths is not None
        lengths = tuple(self.lengths[row] for row in rows)
        embeds = take_rows(self.prompt_embeds, rows)[:, : max(lengths)]  # (R, L, J)
        return _masked(embeds, take_rows(self.pooled_prompt_embeds, rows), lengths)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Rows of several conditions; shorter ones are padded on the right with zeros and masked."""
        pooled = torch.cat([condition.pooled_prompt_embeds for condition in conditions])
        lengths = tuple(length for condition in conditions for length in condition.lengths or ())
        if len({c.prompt_embeds.shape[1] for c in conditions}) == 1 and all(
            c.mask is None for c in conditions
        ):
            return Condition(torch.cat([c.prompt_embeds for c in conditions]), pooled, None, lengths)
        rows = [row for condition in conditions for row in condition.prompt_embeds]
        real = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return _masked(pad_sequence(real, batch_first=True), pooled, lengths)


def take_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of a tensor in the given order; a list of numbers as an index would be copied to the device."""
    if list(rows) == list(range(len(tensor))):
        return tensor
    return torch.cat([tensor[row : row + 1] for row in rows])


def _masked(embeds: Tensor, pooled: Tensor, lengths: tuple[int, ...]) -> Condition:
    """A condition (B, L, J) of rows with so many real positions."""
    longest = embeds.shape[1]
    if all(length == longest for length in lengths):
        return Condition(embeds, pooled, None, lengths)
    ends = to_device(torch.tensor(lengths), embeds.device)  # (B,)
    mask = torch.arange(longest, device=embeds.device) < ends[:, None]  # (B, L)
    return Condition(embeds, pooled, mask, lengths)
