"""Statistics of a mixture: rows, shares, sizes, texts, and how many files are missing.

Counted exactly where that costs nothing (rows, shares), and on a random sample of rows where files must be
opened.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from statistics import quantiles
from typing import Any

from deepgen.data.example import Example, RowError, Size
from deepgen.data.example_images import example_sizes
from deepgen.data.images import ImageError
from deepgen.data.mixture import Mixture
from deepgen.data.order import index_at
from deepgen.text_lines import shown

SHOWN_BUCKETS = 4
SHOWN_REASONS = 5


@dataclass(frozen=True, kw_only=True)
class SourceStats:
    """One source. What concerns files is of the rows looked at.

    Attributes:
        share: of all draws of the mixture.
        bad: why rows could not be used, with how many there are.
        buckets: (references' sizes, target's size) after the rule as text, with how many there are.
        text_lengths: quartiles of the number of characters: 25 %, 50 %, 75 %.
        references: how many rows have so many references.
        mean_pixels: of the target after the rule.
        notes: what the source repeats and what it left out.
    """

    name: str
    task: str
    rows: int
    share: float
    looked_at: int
    bad: dict[str, int]
    buckets: dict[str, int]
    text_lengths: tuple[int, int, int]
    references: dict[int, int]
    mean_pixels: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A paragraph."""
        good = max(sum(self.buckets.values()), 1)
        shown = ", ".join(
            f"{bucket} {count / good:.0%}" for bucket, count in list(self.buckets.items())[:SHOWN_BUCKETS]
        )
        more = len(self.buckets) - SHOWN_BUCKETS
        counts = ", ".join(f"{count} with {number}" for number, count in self.references.items())
        lines = [
            f"{self.name}: {self.task}, {self.rows:,} rows, {self.share:.2%} of draws",
            f"  sizes       {shown}{f', and {more} more' if more > 0 else ''}",
            f"  text        {' / '.join(map(str, self.text_lengths))} characters (quartiles)",
        ]
        if self.task == "edit":
            lines.append(f"  references  {counts}")
        num_bad = sum(self.bad.values())
        lines.append(f"  bad rows    {num_bad} of {self.looked_at} looked at")
        lines += [f"    {count} x {reason}" for reason, count in list(self.bad.items())[:SHOWN_REASONS]]
        if len(self.bad) > SHOWN_REASONS:
            lines.append(f"    and {len(self.bad) - SHOWN_REASONS} more reasons")
        lines += [f"  note        {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class MixtureStats:
    """All sources of a mixture."""

    sources: tuple[SourceStats, ...]

    @property
    def num_bad(self) -> int:
        """Bad rows among those looked at."""
        return sum(sum(source.bad.values()) for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"sources": [asdict(source) for source in self.sources]}

    def __str__(self) -> str:
        """A paragraph for each source, and the sum."""
        rows = sum(source.rows for source in self.sources)
        paragraphs = "\n".join(str(source) for source in self.sources)
        return f"{paragraphs}\n{len(self.sources)} source(s), {rows:,} rows"


def mixture_stats(mixture: Mixture, sample: int = 200, seed: int = 0) -> MixtureStats:
    """Statistics of every source, from up to `sample` random rows of each."""
    return MixtureStats(
        tuple(_source_stats(mixture, entry.name, sample, seed) for entry in mixture.config.sources)
    )


def _source_stats(mixture: Mixture, name: str, sample: int, seed: int) -> SourceStats:
    source = mixture.sources[name]
    bad, buckets, references, areas = Counter[str](), Counter[str](), Counter[int](), []
    lengths: list[int] = []
    num_rows = min(sample, len(source))
    for place in range(num_rows):
        try:
            example = source[index_at(place, len(source), seed, f"stats/{name}")]
            target, inputs = _sizes(mixture, example)
        except (RowError, ImageError) as error:
            bad[_without_names(str(error))] += 1
            continue
        lengths.append(len(example.text))
        references[len(example.references)] += 1
        areas.append(target[0] * target[1])
        buckets[" + ".join(map(_as_text, inputs)) + (" -> " if inputs else "") + _as_text(target)] += 1
    quartiles = quantiles(lengths, n=4, method="inclusive") if len(lengths) > 1 else (lengths or [0]) * 3
    low, middle, high = (round(length) for length in quartiles)
    return SourceStats(
        name=name,
        task=source.task,
        rows=len(source),
        share=mixture.share(name),
        looked_at=num_rows,
        bad=dict(bad.most_common()),
        buckets=dict(buckets.most_common()),
        text_lengths=(low, middle, high),
        references=dict(sorted(references.items())),
        mean_pixels=round(sum(areas) / len(areas)) if areas else 0,
        notes=tuple(getattr(source, "notes", ())),
    )


def _sizes(mixture: Mixture, example: Example) -> tuple[Size, tuple[Size, ...]]:
    """After the rule, from the files themselves: a manifest's sizes do not prove that they are there."""
    target, references = example_sizes(replace(example, size=None, reference_sizes=None))
    rule = mixture.config.image
    return rule.size(target), tuple(rule.size(size) for size in references)


def _as_text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _without_names(reason: str) -> str:
    """One line for all missing files, with the first as the example."""
    return "a picture is missing" if reason.startswith("there is no picture at") else shown(reason)
