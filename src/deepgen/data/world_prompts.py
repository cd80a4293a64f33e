"""Rows of the embedded worlds as prompts, each with the claim that its exact reward needs.

A row is (text, key, references, metadata), as those of a file of prompts are (prompts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from deepgen.shapes.prompts import prompt_rows
from deepgen.tiny.claims import to_json
from deepgen.tiny.render import render
from deepgen.tiny.rows import Selection

Row = tuple[str, str, tuple[Image.Image, ...], dict[str, Any]]


class ShapesRows:
    """Rows of the flat world, with what the exact rewards need."""

    def __init__(self, task: str, kinds: Sequence[str] = (), rows: int = 1000, seed: int = 1) -> None:
        if task not in ("generate", "edit"):
            raise ValueError(f"shapes must be generate or edit, got {task!r}")
        self.task, self.seed = task, seed
        self.rows = prompt_rows(rows, seed=seed, task=task, kinds=tuple(kinds))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        return row.prompt, f"shapes {self.task} {self.seed}:{index}", row.references, row.metadata


class StorybookRows:
    """Rows of the storybook's world; never a held-out one.

    They have the words that the data source `storybook` has at the same number, for equal seeds and kinds.
    """

    def __init__(self, selection: Selection, rows: int = 1000, seed: int = 1) -> None:
        for name, value, least in (("rows", rows, 1), ("seed", seed, 0)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        self.selection, self.rows, self.seed = selection, rows, seed

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Row:
        drawn = self.selection.example(self.seed, index)
        references = () if drawn.source is None else (render(drawn.source),)
        metadata = {"storybook": to_json(drawn.claim), "kind": drawn.kind}
        return drawn.text, f"storybook {self.selection.group} {self.seed}:{index}", references, metadata


def storybook_rows(
    name: str,
    group: Any,
    kinds: Any = (),
    weights: Any = None,
    each_kind: bool = False,
    **options: Any,
) -> Mapping[str, tuple[StorybookRows, float]]:
    """Sets of a mix by their names, each with its share of the weight.

    Args:
        name: of the one set there is without `each_kind`.
        group: see `Selection`, as a file gives it; so are the next two.
        kinds: a list.
        weights: a mapping, or None.
        each_kind: a set of every kind that is drawn, called as the kind and with its weight.
        **options: rows and seed.

    Raises:
        ValueError: one of them is not what it should be.
    """
    weights = {} if weights is None else weights
    if not isinstance(kinds, list | tuple) or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError(f"kinds must be a list such as [counting, two], got {kinds!r}")
    if not isinstance(weights, Mapping) or not all(type(value) in (int, float) for value in weights.values()):
        raise ValueError(f"weights must be numbers by kind such as {{counting: 3}}, got {weights!r}")
    if not isinstance(each_kind, bool):
        raise ValueError(f"each_kind must be true or false, got {each_kind!r}")
    selection = Selection(group=group, kinds=tuple(kinds), weights=weights)
    if not each_kind:
        return {name: (StorybookRows(selection, **options), 1.0)}
    return {
        kind: (StorybookRows(Selection(group=selection.group, kinds=(kind,)), **options), share)
        for kind, share in selection.shares.items()
        if share
    }
