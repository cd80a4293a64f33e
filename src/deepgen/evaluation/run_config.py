"""Config of a benchmark run and its processes, which drawing and scoring share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from deepgen.evaluation.benchmark import Benchmark, Item, Settings
from deepgen.evaluation.image_folder import FolderMatch
from deepgen.evaluation.seeds import Mode
from deepgen.moved import renamed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How benchmarks are run.

    Attributes:
        output_dir: one folder for each benchmark is made in it.
        data_dir: official files, one folder for each benchmark.
        batch_size: items in a call of the model.
        seeds: see `deepgen.evaluation.seeds`.
        limit: items, spread over the categories; None is all.
        min_coverage: share of pictures with a verdict, instead of the benchmark's own.
        allow_partial: give scores below that, marked as partial.
        allow_altered: read official files that are not the official ones.
        has_scoring: score as well as draw.
    """

    output_dir: Path
    data_dir: Path
    batch_size: int = 4
    seeds: Mode = "each"
    limit: int | None = None
    min_coverage: float | None = None
    allow_partial: bool = False
    allow_altered: bool = False
    has_scoring: bool = True

    def __post_init__(self) -> None:
        """Refuse runs of nothing."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.seeds not in ("each", "sequential"):
            raise ValueError(f"unknown seeds {self.seeds!r}; known: each, sequential")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes there are, which one this is, and what waits for all of them."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    def share(self, chunks: Sequence[T]) -> list[T]:
        """The chunks of this process."""
        return list(chunks[self.rank :: self.count])


def workers(device: str | None = None) -> Workers:
    """Those that `torchrun` started; one otherwise.

    Args:
        device: "cpu" keeps to the CPU where there is an accelerator.
    """
    from deepgen.processes import join

    # The time-out is long because scoring of one share may take much longer than of another.
    state = join(device, timedelta(days=2))
    return Workers(rank=state.process_index, count=state.num_processes, wait=state.wait_for_everyone)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """One benchmark in one folder, for one process.

    Attributes:
        benchmark: what is drawn and scored.
        settings: how it is drawn.
        config: how it is run.
        team: the processes.
        folder: where pictures, records and the result go.
        chosen: the items, in their order.
        taken: where pictures are those of a folder, which file is which sample.
    """

    benchmark: Benchmark
    settings: Settings
    config: RunConfig
    team: Workers
    folder: Path
    chosen: Sequence[Item] = field(repr=False)
    taken: FolderMatch | None = field(default=None, repr=False)

    @property
    def samples(self) -> range:
        """Numbers of an item's pictures."""
        return range(self.settings.num_samples)

    @property
    def shows_progress(self) -> bool:
        """Progress is said by the first process."""
        return self.team.rank == 0


def chunked(items: Sequence[T], size: int) -> list[list[T]]:
    """Consecutive runs of at most `size`."""
    return [list(items[first : first + size]) for first in range(0, len(items), size)]


__getattr__ = renamed(__name__, {"Job": "deepgen.evaluation.run_config.EvaluationJob"})
