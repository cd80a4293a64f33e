"""What the steps of one picture have in common, computed once.

The context's projection and the references' patches are the same at every step. The blocks' modulation
depends on the noise level and the pooled condition only, so that of many steps is one matrix product per
block, which reads the modulation's weights, a third of the DiT, once instead of once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepgen.models.blocks import JointBlock
from deepgen.models.caches import own_hooks

# T steps, B rows, D width

_MODULATION_BYTES = 128 * 2**20  # what the vectors of precomputed steps may take


class Trajectory:
    """Handed to the DiT at every step of a run; it fills it and takes from it.

    A value is kept as long as what it was made from is the same, so a callback that changes the condition is
    heeded.
    """

    def __init__(self, timesteps: Tensor) -> None:
        """`timesteps` (T,) are those of all the run's calls, in order; `step` counts the calls."""
        self.timesteps, self.step = timesteps, 0
        self._kept: dict[Any, tuple[Tensor, Tensor]] = {}
        self._table: list[tuple[Tensor, Tensor]] | None = None
        self._first = 0
        self._pooled: Tensor | None = None
        self._is_plain: bool | None = None

    def once(self, name: Any, source: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """`compute(source)`, or what it was before."""
        kept = self._kept.get(name)
        if kept is None or not _is_same(kept[0], source):
            kept = self._kept[name] = (source, compute(source))
        return kept[1]

    def modulations(self, transformer: Any, pooled: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """Every block's vectors at this step; None where a block has to be entered as a whole.

        Offloading, caching and sharding hooks bring a block's weights when its forward is called, not before.
        """
        if self._is_plain is None:
            self._is_plain = all(_is_plain(block) for block in transformer.transformer_blocks)
        if not self._is_plain:
            return None
        rows = len(pooled)
        known = (
            0 if self._table is None or not _is_same(self._pooled, pooled) else len(self._table[0][0]) // rows
        )
        if not self._first <= self.step < self._first + known:
            self._fill(transformer, pooled)
        assert self._table is not None
        start = (self.step - self._first) * rows
        return [
            (image[start : start + rows], context[start : start + rows]) for image, context in self._table
        ]

    def _fill(self, transformer: Any, pooled: Tensor) -> None:
        """The vectors of this step and of as many further ones as fit."""
        blocks = transformer.transformer_blocks
        width = sum(
            block.norm1.linear.out_features + block.norm1_context.linear.out_features for block in blocks
        )
        count = max(1, _MODULATION_BYTES // (len(pooled) * width * pooled.element_size()))
        steps = self.timesteps[self.step : self.step + count]  # (T,)
        embedding = transformer.time_text_embed(
            steps.repeat_interleave(len(pooled)), pooled.repeat(len(steps), 1)
        )  # (T B, D)
        self._table = [block.modulation(embedding) for block in blocks]
        self._first, self._pooled = self.step, pooled


def _is_same(kept: Tensor | None, given: Tensor) -> bool:
    """The same tensor, or a copy of it: hooks that move parts between devices hand on copies."""
    if kept is given:
        return True
    return kept is not None and kept.shape == given.shape and torch.equal(kept, given)


def _is_plain(block: Any) -> bool:
    if not isinstance(block, JointBlock) or block._forward_pre_hooks:
        return False
    return not any(hasattr(module, "_hf_hook") or own_hooks(module) for module in block.modules())


def may_keep(transformer: Any) -> bool:
    """Whether a run may hand the DiT a trajectory: not in training, nor to a graph compiled as a
    whole. Compiled blocks do not matter.
    """
    return not torch.is_grad_enabled() and getattr(transformer, "_compiled_call_impl", None) is None
