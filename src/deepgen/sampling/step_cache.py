"""Tensors that all steps of one run share, computed once.

The context's projection and the references' patches are the same at every step. The blocks' modulation
depends on the noise level and the pooled condition only, so that of many steps is one matrix product per
block, which reads the modulation's weights, a third of the DiT, once instead of once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from deepgen.models.blocks import JointBlock
from deepgen.models.caches import own_hooks

# T steps, B rows, D width, M width of a block's modulation

Vectors = tuple[Tensor, Tensor]  # of a block, for image and context
Source = Tensor | Sequence[Tensor]  # of a kept value

MODULATION_BYTES = 128 * 2**20  # what the vectors of precomputed steps may take

# By DiT: whether the product of many steps rounds like that of one, by shape; see `_rounded_alike`.
_rounds_alike: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()


class StepCache:
    """Handed to the DiT at every step of a run; it fills it and takes from it.

    A value is kept as long as what it was made from is the same, so a callback that changes the condition is
    heeded.

    Args:
        timesteps: 1000 * sigma of all the run's model calls, in order, (T,).
        is_exact: every velocity is bit for bit what a call without a cache gives, with gradient or without,
            so that a policy can be scored on what it drew. Otherwise it is the same up to rounding.
        max_bytes: what the modulation of precomputed steps may take; None is `MODULATION_BYTES`.

    Attributes:
        step: number of the model call.
    """

    def __init__(self, timesteps: Tensor, *, is_exact: bool = False, max_bytes: int | None = None) -> None:
        self.timesteps, self.is_exact, self.step = timesteps, is_exact, 0
        self._max_bytes = MODULATION_BYTES if max_bytes is None else max_bytes
        self._kept: dict[Any, tuple[Source, Tensor]] = {}
        self._table: list[Vectors] | None = None
        self._first = 0
        self._pooled: Tensor | None = None
        self._is_plain: bool | None = None

    def at(self, steps: Sequence[int]) -> StepCache:
        """The cache at the model call of this number, the only one in the list."""
        (self.step,) = steps
        return self

    def once(self, name: Any, source: Source, compute: Callable[[Any], Tensor]) -> Tensor:
        """`compute(source)`, or what it was before.

        Of several tensors give the sequence: what is made of them at every step is another tensor each time,
        and to compare its values would wait for the device.
        """
        kept = self._kept.get(name)
        if kept is None or not _is_same(kept[0], source):
            kept = self._kept[name] = (source, compute(source))
        return kept[1]

    def modulations(self, transformer: Any, pooled: Tensor) -> list[Vectors] | None:
        """Every block's vectors at this step; None where a block has to be entered as a whole.

        Offloading, caching and sharding hooks bring a block's weights when its forward is called, not before.
        """
        if self._is_plain is None:
            self._is_plain = all(_is_plain(block) for block in transformer.transformer_blocks)
        if not self._is_plain:
            return None
        if not self.has_modulation(pooled):
            self._fill(transformer, pooled)
        assert self._table is not None
        rows = len(pooled)
        start = (self.step - self._first) * rows
        return [
            (image[start : start + rows], context[start : start + rows])  # (B, M) each
            for image, context in self._table
        ]

    def has_modulation(self, pooled: Tensor) -> bool:
        """Whether the vectors of this step and condition (B, pooled width) are known."""
        if self._table is None or not _is_same(self._pooled, pooled):
            return False
        return self._first <= self.step < self._first + len(self._table[0][0]) // len(pooled)

    def _fill(self, transformer: Any, pooled: Tensor) -> None:
        """The vectors of this step and of as many further ones as fit."""
        blocks = transformer.transformer_blocks
        width = sum(
            block.norm1.linear.out_features + block.norm1_context.linear.out_features for block in blocks
        )
        count = max(1, self._max_bytes // (len(pooled) * width * pooled.element_size()))
        steps = self.timesteps[self.step : self.step + count]  # (T,)
        self._table = _table(transformer, steps, pooled)
        if self.is_exact and len(steps) > 1:
            self._table = _rounded_alike(transformer, steps, pooled, self._table)
        self._first, self._pooled = self.step, pooled


class JoinedStepCache(StepCache):
    """The step caches of several runs that share a model call, each at its own step.

    The modulation is taken from the runs' own caches, so its shapes do not depend on the other runs of the
    call, and it stays when they change. The rest is kept here, and made again for other runs.

    Args:
        parts: caches of the runs; one may stand there several times.
        pooled: the pooled condition of each, its rows [negative, positive] or one of them.
        num_branches: branches among the rows, 1 or 2.
    """

    def __init__(self, parts: Sequence[StepCache], pooled: Sequence[Tensor], num_branches: int) -> None:
        super().__init__(parts[0].timesteps, is_exact=parts[0].is_exact)
        self._parts, self._pooled_of, self._branches = parts, pooled, num_branches

    def at(self, steps: Sequence[int]) -> JoinedStepCache:
        """The cache with each run at the model call of its number."""
        for part, step in zip(self._parts, steps, strict=True):
            part.step = step
        return self

    def modulations(self, transformer: Any, pooled: Tensor) -> list[Vectors] | None:
        """As of one run; rows are all negatives, then all positives."""
        parts = []
        for part, own in zip(self._parts, self._pooled_of, strict=True):
            vectors = part.modulations(transformer, own)
            if vectors is None:
                return None
            parts.append(vectors)
        return [
            (self._joined([image for image, _ in block]), self._joined([context for _, context in block]))
            for block in zip(*parts, strict=True)
        ]

    def _joined(self, vectors: Sequence[Tensor]) -> Tensor:
        """Rows of all runs, (B, M) from (B_i, M)."""
        return join_rows(vectors, self._branches)


def join_rows(values: Sequence[Tensor], num_branches: int) -> Tensor:
    """Rows [negative, positive] of several runs as [all negatives, all positives]."""
    if num_branches == 1:
        return torch.cat(list(values))
    return torch.cat([half for branch in zip(*(x.chunk(2) for x in values), strict=True) for half in branch])


def may_keep(transformer: Any, *, is_exact: bool = False) -> bool:
    """Whether a run may hand the DiT a cache: not in training, nor an exact one to a DiT compiled as a whole,
    whose graph rounds otherwise with one. The cache is filled and read outside of graphs.
    """
    is_whole = getattr(transformer, "_compiled_call_impl", None) is not None
    return not torch.is_grad_enabled() and not (is_exact and is_whole)


def _table(transformer: Any, steps: Tensor, pooled: Tensor) -> list[Vectors]:
    """Every block's vectors at some steps, rows in their order, (T B, M)."""
    embedding = transformer.time_text_embed(
        steps.repeat_interleave(len(pooled)), pooled.repeat(len(steps), 1)
    )  # (T B, D)
    return [block.modulation(embedding) for block in transformer.transformer_blocks]


def _rounded_alike(transformer: Any, steps: Tensor, pooled: Tensor, table: list[Vectors]) -> list[Vectors]:
    """The table, or where its large products round otherwise, one of the products of single steps.

    A matrix product of T B rows is bit for bit that of B rows T times on most libraries from a few rows on,
    and not where another kernel serves few rows. That depends on the shape and not on the values, so it is
    compared in full at the first table of a shape and known from then on.
    """
    shape = (
        *(len(steps), tuple(pooled.shape), pooled.dtype, pooled.device, torch.get_num_threads()),
        *(table[0][0].dtype, type(transformer.transformer_blocks[0].norm1.linear)),
    )
    known = _rounds_alike.setdefault(transformer, {})
    is_alike = known.get(shape)
    if is_alike:
        return table
    single = [_table(transformer, steps[n : n + 1], pooled) for n in range(len(steps))]
    one_by_one = [
        (torch.cat([image for image, _ in block]), torch.cat([context for _, context in block]))
        for block in zip(*single, strict=True)
    ]
    if is_alike is None:
        known[shape] = all(
            torch.equal(ours, theirs)
            for block, other in zip(table, one_by_one, strict=True)
            for ours, theirs in zip(block, other, strict=True)
        )
    return one_by_one


def _is_same(kept: Source | None, given: Source) -> bool:
    """The same tensors, or copies of them: hooks that move parts between devices hand on copies."""
    if kept is given:
        return True
    if isinstance(kept, Tensor) and isinstance(given, Tensor):
        return kept.shape == given.shape and torch.equal(kept, given)
    if kept is None or isinstance(kept, Tensor) or isinstance(given, Tensor) or len(kept) != len(given):
        return False
    return all(_is_same(one, other) for one, other in zip(kept, given, strict=True))


def _is_plain(block: Any) -> bool:
    if not isinstance(block, JointBlock) or block._forward_pre_hooks:
        return False
    return not any(hasattr(module, "_hf_hook") or own_hooks(module) for module in block.modules())
