"""Prompts of the shapes world for reinforcement learning: text, source scene of an edit, and the claim.

They come from the training side of the split, with the words the data source `shapes` has at the same number.
What has to hold is JSON under the key "shapes" of the metadata, so a row survives being written to a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

import numpy as np
from PIL import Image

from deepgen.shapes.caption import (
    CAPTION_KINDS,
    EDIT_KINDS,
    ShapesClaim,
    ShapesEdit,
    caption,
    from_json,
    instruction,
    to_json,
)
from deepgen.shapes.entries import edit_entry, scene_entry, training_claim
from deepgen.shapes.render import render

ShapesTask = Literal["generate", "edit"]


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """What is asked, what an edit starts from (RGB 96x96), and the metadata a reward needs."""

    prompt: str
    references: tuple[Image.Image, ...]
    metadata: dict[str, Any]


def prompt_row(seed: int, index: int, task: ShapesTask) -> PromptRow:
    """Row number `index`, a pure function of its arguments."""
    rng = np.random.default_rng((seed, 3, index))
    if task == "edit":
        edit = edit_entry(seed, index)
        return row_of(instruction(rng, edit), edit)
    claim = training_claim(rng, scene_entry(seed, index))
    return row_of(caption(rng, claim), claim)


def prompt_rows(
    num_rows: int, *, seed: int = 1, task: ShapesTask = "generate", kinds: Sequence[str] = (), first: int = 0
) -> list[PromptRow]:
    """Rows from number `first` on, of some kinds of claim or edit only; of all where `kinds` is empty."""
    known = EDIT_KINDS if task == "edit" else CAPTION_KINDS
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise ValueError(f"unknown {task} kind {unknown[0]!r}; known: {', '.join(known)}")

    def rows() -> Iterator[PromptRow]:
        for index in count(first):
            row = prompt_row(seed, index, task)
            if not kinds or row.metadata["shapes"]["kind"] in kinds:
                yield row

    return list(islice(rows(), num_rows))


def row_of(words: str, asked: ShapesClaim | ShapesEdit) -> PromptRow:
    """The row that asks for a claim or an edit in those words."""
    references = (render(asked.source),) if isinstance(asked, ShapesEdit) else ()
    return PromptRow(prompt=words, references=references, metadata={"shapes": to_json(asked)})


def asked_of(metadata: Any) -> ShapesClaim | ShapesEdit:
    """The claim or edit a row's metadata carries; a ValueError where there is none."""
    values = metadata.get("shapes")
    if not isinstance(values, dict):
        raise ValueError("there is no claim under 'shapes' in the metadata; make rows with prompt_rows")
    return from_json(values)
