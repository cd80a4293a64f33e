"""Micro-batches for one process of several, read ahead by workers.

Every worker plans whole steps and reads only the share of its process, so workers exchange no messages.
Which process reads what depends on the number of processes; what a step holds does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from deepgen.data.bad_rows import BadRow, BadRowTracker
from deepgen.data.batches import Batches, BatchPlan, MicroBatch
from deepgen.data.cache import CacheError
from deepgen.data.file_stamp import DataChangedError

StartMethod = Literal["fork", "spawn", "forkserver"]


def micro_batches(
    batches: Batches,
    first_step: int,
    num_steps: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    prefetch: int = 2,
    start_method: StartMethod | None = None,
    pin_memory: bool = False,
    bad_rows: BadRowTracker | None = None,
) -> Iterator[list[MicroBatch]]:
    """For each step from `first_step` on, the micro-batches of this process; a list may be empty.

    Processes get equally many plans in each step (except where a step has fewer samples than processes),
    but a micro-batch in which every row turns out to be bad is dropped when it is read: a caller that
    synchronises in each micro-batch compares the counts first.

    Args:
        batches: what the steps hold.
        first_step: where to go on.
        num_steps: how many steps to read.
        rank: this process, in [0, world_size).
        world_size: how many processes share each step.
        num_workers: processes that read ahead; 0 reads here.
        prefetch: steps each worker reads ahead.
        start_method: how workers are started; None: Python's choice for the system.
        pin_memory: hand out tensors in page-locked memory.
        bad_rows: counts bad rows and stops the run when there are too many; by default one with the mixture's
            limit and no file.

    Raises:
        TooManyBadRows: the share of rows this process could not use has passed the limit.
        DataChangedError: a data file was replaced meanwhile.
        CacheError: a cache lacks a row, or holds another.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"expected rank in [0, {world_size}), got {rank}")
    bad_rows = BadRowTracker(batches.mixture.config.bad_share_limit) if bad_rows is None else bad_rows
    loader = DataLoader(
        _Steps(batches, first_step, num_steps, rank, world_size),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        multiprocessing_context=start_method if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # PyTorch's loader would draw a seed from everybody's generator
    )
    for loaded in loader:
        if loaded.error is not None:
            raise loaded.error
        bad_rows.record(loaded.num_samples, loaded.bad)
        yield loaded.batches
    bad_rows.judge()


def deal(plans: Sequence[BatchPlan], world_size: int) -> list[list[BatchPlan]]:
    """The plans of a step for each process: equally many, of about equal cost.

    Equally many, because sharded models synchronise in every forward. The dearest plans are split in halves
    until the number divides; only a step of fewer samples than that leaves some processes with fewer plans.
    """
    dealt: list[list[BatchPlan]] = [[] for _ in range(world_size)]
    shares = _divisible(list(plans), world_size)
    most = -(-len(shares) // world_size)
    for plan in sorted(shares, key=lambda plan: (-plan.cost, plan.samples)):
        open_ranks = [rank for rank in range(world_size) if len(dealt[rank]) < most]
        rank = min(open_ranks, key=lambda rank: (sum(p.cost for p in dealt[rank]), rank))
        dealt[rank].append(plan)
    return dealt


class _Loaded(NamedTuple):
    batches: list[MicroBatch]
    num_samples: int
    bad: list[BadRow]
    error: ValueError | None = None  # raised here, since a worker would wrap it into pages of its own


class _Steps(Dataset[_Loaded]):
    """Item i is step first_step + i, as one process of several sees it."""

    def __init__(self, batches: Batches, first_step: int, num_steps: int, rank: int, world_size: int) -> None:
        self.batches, self.first_step, self.num_steps = batches, first_step, num_steps
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, index: int) -> _Loaded:
        try:
            return self._load(index)
        except (DataChangedError, CacheError) as error:
            return _Loaded([], 0, [], error)

    def _load(self, index: int) -> _Loaded:
        unplanned: list[BadRow] = []
        plans = deal(self.batches.plan(self.first_step + index, unplanned), self.world_size)[self.rank]
        # Every process finds these; each is counted by one.
        bad = [row for row in unplanned if row.sample % self.world_size == self.rank]
        num_samples = len(bad) + sum(len(plan.samples) for plan in plans)
        loaded = [batch for plan in plans if (batch := self.batches.load(plan, bad)) is not None]
        return _Loaded(loaded, num_samples, bad)


def _divisible(plans: list[BatchPlan], world_size: int) -> list[BatchPlan]:
    """The same samples in a number of plans that divides by `world_size`, if there are enough samples."""
    while len(plans) % world_size:
        dearest = max(
            (plan for plan in plans if len(plan.samples) > 1),
            key=lambda plan: (plan.cost, plan.samples),
            default=None,
        )
        if dearest is None:
            return plans
        half = len(dearest.samples) // 2
        plans = [plan for plan in plans if plan is not dearest]
        plans += [replace(dearest, samples=part) for part in (dearest.samples[:half], dearest.samples[half:])]
    return plans
