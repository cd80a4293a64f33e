"""The flat world as a source: captions or edits of drawn scenes, made when they are asked for.

Rows come from the training side of the split; the shapes benchmark asks for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np

from deepgen.data.example import Example, Task
from deepgen.moved import renamed
from deepgen.shapes.caption import caption, instruction
from deepgen.shapes.entries import edit_entry, scene_entry, training_claim
from deepgen.shapes.render import render
from deepgen.shapes.scene import CANVAS, ShapesScene


@dataclass(frozen=True, kw_only=True)
class ShapesSourceOptions:
    """`rows` of one task; another `seed` gives other scenes."""

    task: Task = "generate"
    rows: int = 100_000
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer rows than one."""
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")


class ShapesSource:
    """Scenes and words by row number."""

    def __init__(self, options: ShapesSourceOptions) -> None:
        self.options, self.task = options, options.task

    def __len__(self) -> int:
        return self.options.rows

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.options.seed, 3, index))
        key, size = f"shapes:{index}", (CANVAS, CANVAS)
        if self.task == "edit":
            edit = edit_entry(self.options.seed, index)
            return Example(
                task="edit",
                text=instruction(rng, edit),
                target=_png(edit.target),
                references=(_png(edit.source),),
                key=key,
                size=size,
                reference_sizes=(size,),
            )
        scene = scene_entry(self.options.seed, index)
        text = caption(rng, training_claim(rng, scene))
        return Example(task="generate", text=text, target=_png(scene), key=key, size=size)


def _png(scene: ShapesScene) -> bytes:
    buffer = BytesIO()
    render(scene).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


options, source = ShapesSourceOptions, ShapesSource


__getattr__ = renamed(
    __name__,
    {
        "Shapes": "deepgen.data.sources.shapes.ShapesSource",
        "ShapesOptions": "deepgen.data.sources.shapes.ShapesSourceOptions",
    },
)
