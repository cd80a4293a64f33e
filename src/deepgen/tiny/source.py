"""The storybook world as a source: captions, edits and reasoning, drawn when they are asked for.

Rows come from the training side of every split; held-out examples are left to the benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO

from deepgen.data.example import Example, Task
from deepgen.tiny.render import CANVAS, render
from deepgen.tiny.rows import Group, Selection
from deepgen.tiny.scene import Scene


@dataclass(frozen=True, kw_only=True)
class StorybookSourceOptions:
    """`rows` of one group; another `seed` gives others.

    Attributes:
        group: captions and reasoning are to generate, the two kinds of edits to edit.
        kinds: of the group, all where empty.
        weights: how often a kind comes beside the others, 1 where none is named.
    """

    group: Group = "caption"
    kinds: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    rows: int = 100_000
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer rows than one, a negative seed, and kinds and weights there are not."""
        if self.rows < 1 or self.seed < 0:
            raise ValueError(f"rows must be at least 1 and seed at least 0, got {self.rows} and {self.seed}")
        Selection(group=self.group, kinds=self.kinds, weights=self.weights)


class StorybookSource:
    """Examples of a group by row number."""

    def __init__(self, options: StorybookSourceOptions) -> None:
        self.options = options
        self.selection = Selection(group=options.group, kinds=options.kinds, weights=options.weights)
        self.task: Task = "edit" if self.selection.is_edit else "generate"

    def __len__(self) -> int:
        return self.options.rows

    def __getitem__(self, index: int) -> Example:
        drawn, size = self.selection.example(self.options.seed, index), (CANVAS, CANVAS)
        references = () if drawn.source is None else (_png(drawn.source),)
        return Example(
            task=self.task,
            text=drawn.text,
            target=_png(drawn.target),
            references=references,
            key=f"storybook {self.options.group}:{index}",
            size=size,
            reference_sizes=(size,) * len(references),
        )


def _png(scene: Scene) -> bytes:
    buffer = BytesIO()
    render(scene).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


options, source = StorybookSourceOptions, StorybookSource
