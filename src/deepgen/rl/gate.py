"""The regression gate: how much a run of reinforcement learning lost of the abilities it did not train.

The run's own evaluation looks at the same prompts with the same noise before the first step and after the
last (evaluation.py), so the two looks differ by the weights alone. They are read from the log, which a
resumed run continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepgen.training.plot import read_log

_PREFIX = "evaluation/"
_COUNTS = "judged/"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Of the mean of one reward over the prompts of one set."""

    name: str  # SET/REWARD
    before: float
    after: float
    num_before: int | None = None  # prompts that could be judged; None in a log that does not say
    num_after: int | None = None

    @property
    def points(self) -> float:
        """By how much it changed, in hundredths of the reward's unit."""
        return 100 * (self.after - self.before)


def changes_of(run_dir: Path) -> list[Change]:
    """What the first and the last look of a run's evaluation saw, the greatest fall first.

    Raises:
        FileNotFoundError: there is no log in the folder.
        ValueError: the log has fewer than two looks.
    """
    log = Path(run_dir) / "log.jsonl"
    if not log.is_file():
        raise FileNotFoundError(f"no log.jsonl in {run_dir}; name the --output folder of a training run")
    logged = read_log(log)
    curves = {name: curve for name, curve in logged.items() if name.startswith(_PREFIX)}
    looks = sorted({step for curve in curves.values() for step, _ in curve})
    if len(looks) < 2:
        raise ValueError(
            f"{log} has {len(looks)} look(s) of an evaluation, and a gate compares the first with the last; "
            "train with --set evaluation.prompts=FILE, and evaluation.every of at least 2"
        )
    lost = [name for name, curve in curves.items() if (curve[0][0], curve[-1][0]) != (looks[0], looks[-1])]
    if lost:
        raise ValueError(
            f"{log}: {lost[0].removeprefix(_PREFIX)} was not judged in the first or in the last look; "
            "see why its reward failed then, and train again"
        )
    found = []
    for name, curve in curves.items():
        own = name.removeprefix(_PREFIX)
        counts = [int(count) for _, count in logged.get(f"{_COUNTS}{own}", [])] or [None]
        found.append(
            Change(
                name=own, before=curve[0][1], after=curve[-1][1], num_before=counts[0], num_after=counts[-1]
            )
        )
    return sorted(found, key=lambda change: (change.points, change.name))


def fallen(changes: Sequence[Change], largest_fall: float) -> list[Change]:
    """Those that lost more than so many points."""
    return [change for change in changes if -change.points > largest_fall + 1e-6]


def table(changes: Sequence[Change]) -> str:
    """Markdown: each set and reward, before, after, the change in points, and prompts that were judged."""
    lines = ["| set/reward | before | after | points | judged |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {c.name} | {c.before:.3f} | {c.after:.3f} | {c.points:+.1f} | {_judged(c)} |" for c in changes
    ]
    return "\n".join(lines)


def _judged(change: Change) -> str:
    """How many prompts the two means are over."""
    if change.num_before is None or change.num_after is None:
        return "not logged"
    same = change.num_before == change.num_after
    return str(change.num_after) if same else f"{change.num_before}, then {change.num_after}"
