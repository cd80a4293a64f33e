"""Sampling from a mixture: the row of sample p is a pure function of (seed, p), found in constant time.

Samples come in blocks of one task, and the tasks take turns by their ratios. Inside a task, sources share
the samples by their sizes, as in the original, or by given weights. Sharing is exact rather than random:
among any first q samples of a task, each source has had its share to within a few, and as each source's
count is known in closed form, so is its place in its own shuffled order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from deepgen.data.example import Example, Task
from deepgen.data.mixture_config import ImageRule, MixtureConfig, SourceEntry
from deepgen.data.mixture_file import read_mixture
from deepgen.data.order import index_at, random_bits, stream_key
from deepgen.data.sources import Source, make_source


@dataclass(frozen=True)
class Draw:
    """What sample number `sample` is: a row of a source."""

    sample: int
    task: Task
    source: str
    index: int


class Mixture:
    """The endless stream of samples of a mixture.

    Args:
        config: the mixture.
        sources: its sources by name, where they are already open.
    """

    def __init__(self, config: MixtureConfig, sources: Mapping[str, Source] | None = None) -> None:
        self.config = config
        self.sources = dict(sources) if sources is not None else _open_all(config)
        found = {name: source.task for name, source in self.sources.items()}
        wrong = [
            f"source {entry.name} is listed under {entry.task} but holds rows to {found[entry.name]}"
            for entry in config.sources
            if found[entry.name] != entry.task
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    @cached_property
    def cycle(self) -> tuple[Task, ...]:
        """The tasks of successive blocks, evenly interleaved: edit and three times generate for 1 to 3."""
        tasks = list(self.config.ratios)
        turns = [
            (Fraction(turn, ratio), number)
            for number, ratio in enumerate(self.config.ratios.values())
            for turn in range(ratio)
        ]
        return tuple(tasks[number] for _, number in sorted(turns))

    def draw(self, sample: int, block_size: int) -> Draw:
        """Sample number `sample` of a stream whose task changes every `block_size` samples at most."""
        block, place = divmod(sample, block_size)
        cycle, turn = divmod(block, len(self.cycle))
        task = self.cycle[turn]
        earlier = cycle * self.config.ratios[task] + self.cycle[:turn].count(task)
        source, index = self._of_task(task, earlier * block_size + place)
        return Draw(sample, task, source, index)

    def example(self, draw: Draw) -> Example:
        """The row itself; RowError when it cannot be used."""
        return self.sources[draw.source][draw.index]

    def share(self, name: str) -> float:
        """The share of a source in all samples."""
        entry = next(entry for entry in self.config.sources if entry.name == name)
        weights = {one.name: self._weight(one) for one in self.config.of_task(entry.task)}
        return (
            weights[name]
            / sum(weights.values())
            * self.config.ratios[entry.task]
            / sum(self.config.ratios.values())
        )

    @property
    def notes(self) -> list[str]:
        """What sources repeat, and what they left out, each beginning with the source's name."""
        return [
            f"{name}: {note}"
            for name, source in self.sources.items()
            for note in getattr(source, "notes", ())
        ]

    def _of_task(self, task: Task, position: int) -> tuple[str, int]:
        """(source, row) at a position among the samples of a task."""
        if not self._shares[task]:  # uniform over all rows of the task: one shuffle of them all
            names, ends = self._rows[task]
            row = index_at(position, ends[-1], self.config.seed, task)
            number = bisect_right(ends, row)
            return names[number], row - (ends[number - 1] if number else 0)
        for name, share, phase in self._shares[task]:
            # Of the first q samples that get this far, floor(q * share + phase) are this source's.
            before = _floor(position * share + phase)
            if _floor((position + 1) * share + phase) > before:
                return name, index_at(before, len(self.sources[name]), self.config.seed, f"{task}/{name}")
            position -= before
        raise AssertionError("the last source takes all that is left")

    def _weight(self, entry: SourceEntry) -> float:
        """Of a source among those of its task: its own, or its rows' times their number."""
        if entry.weight is not None:
            return entry.weight
        return (1 if entry.row_weight is None else entry.row_weight) * len(self.sources[entry.name])

    @cached_property
    def _rows(self) -> dict[Task, tuple[list[str], list[int]]]:
        """For each task its sources and where each ends in their concatenation."""
        return {
            task: (
                [entry.name for entry in self.config.of_task(task)],
                list(accumulate(len(self.sources[entry.name]) for entry in self.config.of_task(task))),
            )
            for task in self.config.ratios
        }

    @cached_property
    def _shares(self) -> dict[Task, list[tuple[str, Fraction, Fraction]]]:
        """For each task (source, its share of what the sources before it leave, a phase in [0, 1))."""
        shares: dict[Task, list[tuple[str, Fraction, Fraction]]] = {}
        for task in self.config.ratios:
            shares[task] = []
            entries = self.config.of_task(task)
            if all(entry.weight is None and entry.row_weight is None for entry in entries):
                continue  # drawn by their sizes
            entries = [entry for entry in entries if self._weight(entry)]  # one without rows has no share
            left = [Fraction(self._weight(entry)) for entry in entries]
            for entry in entries:
                share = left[0] / sum(left)
                bits = random_bits(stream_key(self.config.seed, 0, f"phase/{task}/{entry.name}"), 0)
                shares[task].append((entry.name, share, Fraction(bits >> 32, 2**32)))
                left = left[1:]
        return shares


def open_mixture(path: str | Path, root: str | Path | None = None) -> Mixture:
    """The mixture a YAML file describes, its sources opened; `root` replaces the file's own root folder."""
    return Mixture(read_mixture(path, root))


def single_source(
    name: str, source: str, options: Mapping[str, Any], image: ImageRule | None = None, **settings: Any
) -> Mixture:
    """A mixture of one source; `settings` are further fields of `MixtureConfig`."""
    opened = make_source(source, **options)
    entry = SourceEntry(name=name, source=source, task=opened.task, options=options)
    config = MixtureConfig(sources=(entry,), ratios={opened.task: 1}, image=image or ImageRule(), **settings)
    return Mixture(config, {name: opened})


def _floor(value: Fraction) -> int:
    return value.numerator // value.denominator


def _open_all(config: MixtureConfig) -> dict[str, Source]:
    """Every source, or one ValueError that names all that cannot be opened."""
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for entry in config.sources:
        try:
            sources[entry.name] = make_source(entry.source, **entry.options)
        except (ValueError, OSError, ImportError) as error:
            problems.append(f"{entry.name}: {error}")
    if problems:
        raise ValueError(_listed("these sources cannot be opened", problems))
    return sources


def _listed(title: str, problems: list[str]) -> str:
    return f"{title} ({len(problems)}):" + "".join(f"\n  - {problem}" for problem in problems)
