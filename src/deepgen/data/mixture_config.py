"""Config of a mixture: sources in task groups, how often each is drawn, and the size rule of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepgen.data.example import Size, Task
from deepgen.data.resize import resize_rule


class MixtureError(ValueError):
    """A mixture with one or several problems; the message names them all."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """The size rule of targets and references alike, as in the original.

    Attributes:
        rule: fix_pixels, dynamic, resize2square or crop2square.
        image_size: side of the square whose area, or side, the rule aims at.
        unit: every side is a multiple of it.
    """

    rule: str = "fix_pixels"
    image_size: int = 512
    unit: int = 32

    def __post_init__(self) -> None:
        """Refuse an unknown rule, and sizes below one unit."""
        resize_rule(self.rule).size((self.unit, self.unit), self.image_size, self.unit)
        if self.unit < 16 or self.unit % 16:
            raise ValueError(
                f"unit must be a multiple of 16, got {self.unit}; the models were trained with 32"
            )
        if self.image_size < self.unit:
            raise ValueError(f"image_size must be at least one unit of {self.unit}, got {self.image_size}")

    def size(self, image: Size) -> Size:
        """The (height, width) a picture is given."""
        return resize_rule(self.rule).size(image, self.image_size, self.unit)


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One named source: its format, its options, and its weight among the sources of its task.

    Attributes:
        weight: of the source, whatever its size.
        row_weight: of each of its rows; the source then weighs that times their number.
    """

    name: str
    source: str
    task: Task
    options: Mapping[str, Any]
    weight: float | None = None
    row_weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """A whole mixture.

    Attributes:
        ratios: of every task, how many of sum(ratios) successive blocks of samples it gets.
        bad_share_limit: share of unusable samples beyond which a run stops.
    """

    sources: tuple[SourceEntry, ...]
    ratios: Mapping[Task, int]
    seed: int = 0
    image: ImageRule = field(default_factory=ImageRule)
    bad_share_limit: float = 0.01

    def __post_init__(self) -> None:
        """MixtureError that names everything wrong."""
        if problems := self.problems():
            raise MixtureError(problems)

    def of_task(self, task: Task) -> tuple[SourceEntry, ...]:
        """The sources of a task, in the file's order."""
        return tuple(entry for entry in self.sources if entry.task == task)

    def problems(self) -> list[str]:
        """Everything that contradicts itself."""
        names = [entry.name for entry in self.sources]
        problems = [
            f"two sources are named {name}" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        if not self.ratios:
            problems.append("a mixture needs at least one task")
        for task, ratio in self.ratios.items():
            if type(ratio) is not int or ratio < 1:
                problems.append(f"the ratio of {task} must be a whole number of at least 1, got {ratio!r}")
            problems += self._weight_problems(task)
        problems += [
            f"source {entry.name} is for {entry.task}, which has no ratio"
            for entry in self.sources
            if entry.task not in self.ratios
        ]
        if not 0 <= self.bad_share_limit <= 1:
            problems.append(f"bad_share_limit is a share in [0, 1], got {self.bad_share_limit}")
        if resize_rule(self.image.rule).is_crop and "edit" in self.ratios:
            problems.append(
                f"the rule {self.image.rule} cuts each picture elsewhere, so an edit's pictures would no "
                "longer fit each other; use fix_pixels, or leave edits out"
            )
        return problems

    def _weight_problems(self, task: Task) -> list[str]:
        entries = self.of_task(task)
        if not entries:
            return [f"task {task} has no sources"]
        weighted = [entry for entry in entries if entry.weight is not None]
        if weighted and len(weighted) < len(entries):
            without = ", ".join(entry.name for entry in entries if entry.weight is None)
            return [
                f"in task {task} some sources have a weight and these have none: {without}; give all or none"
            ]
        by_row = [entry.name for entry in entries if entry.row_weight is not None]
        if weighted and by_row:
            return [f"in task {task} sources have a weight, and rows of {by_row[0]} have one; give one kind"]
        return [
            f"the {kind} of {entry.name} must be positive and finite, got {value!r}"
            for entry in entries
            for kind, value in (("weight", entry.weight), ("row_weight", entry.row_weight))
            if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf"))
        ]
