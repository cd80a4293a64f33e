"""A fixed code for what a prompt states: the stand-in for the condition of a pretrained text encoder.

A from-scratch text path learns to bind words to objects far too slowly from the flow loss alone. So the two
halves of its model are first trained apart, against one code fixed in advance: the DiT learns to draw from
it, the VLM and the connector learn to write it at the think tokens. Each think token is a slot; its code is a
sum of orthogonal directions, one per stated attribute, so any set of attributes can be read back without
confusion.

Slot 0 holds the task, the background and the number of objects; slots 1 to 4 the objects in the order of the
caption; slot 5 the relation. An edit uses slot 0 for its kind, 1 for the object it is about and 2 for what
that becomes.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from deepgen.shapes.caption import EDIT_KINDS, RELATIONS, ObjectClaim, ShapesClaim, ShapesEdit
from deepgen.shapes.scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, ShapesScene

NUM_SLOTS = 8
WIDTH = 128
POOLED_SCALE = 2.0
_GROUPS: dict[str, tuple] = {
    "task": ("generate", "edit"),
    "slot": tuple(range(1, NUM_SLOTS)),
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "cell": tuple(range(len(CELLS))),
    "background": tuple(BACKGROUNDS),
    "relation": tuple(RELATIONS),
    "edit": EDIT_KINDS,
    "count": (1, 2, 3, 4),
}


@cache
def directions() -> dict[tuple[str, object], np.ndarray]:
    """The direction of every attribute value: orthogonal float32 vectors (WIDTH,), the same on every
    machine.
    """
    names = [(group, value) for group, values in _GROUPS.items() for value in values]
    # Sylvester's Hadamard matrix: orthogonal rows of plus and minus one, exact in any precision.
    rows = np.array([[1.0]])
    while len(rows) < WIDTH:
        rows = np.block([[rows, rows], [rows, -rows]])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], WIDTH)
    return {name: (row * signs / 2).astype(np.float32) for name, row in zip(names, rows[1:], strict=False)}


def _sum(*attributes: tuple[str, object]) -> np.ndarray:
    table = directions()
    return np.sum([table[name] for name in attributes if name[1] is not None], axis=0)


def _object(slot: int, claim: ObjectClaim) -> np.ndarray:
    return _sum(
        ("slot", slot),
        ("shape", claim.shape),
        ("color", claim.color),
        ("size", claim.size),
        ("cell", claim.cell),
    )


def empty_code(task: str) -> np.ndarray:
    """The code of an empty prompt: only the task, "generate" or "edit". (NUM_SLOTS, WIDTH)."""
    code = np.zeros((NUM_SLOTS, WIDTH), dtype=np.float32)
    code[0] = _sum(("task", task))
    return code


def claim_code(claim: ShapesClaim) -> np.ndarray:
    """The code of a caption, (NUM_SLOTS, WIDTH) float32."""
    code = empty_code("generate")
    code[0] += _sum(("background", claim.background), ("count", len(claim.objects)))
    for slot, item in enumerate(claim.objects, start=1):
        code[slot] = _object(slot, item)
    if claim.relation is not None:
        code[5] = _sum(("slot", 5), ("relation", claim.relation))
    return code


def edit_code(edit: ShapesEdit) -> np.ndarray:
    """The code of an instruction and of what it refers to in its source, (NUM_SLOTS, WIDTH) float32."""
    code = empty_code("edit")
    code[0] += _sum(("edit", edit.kind))
    named = edit.named
    if named is None:
        code[0] += _sum(("background", edit.value))
        return code
    if edit.kind == "add":
        size = named.size if edit.states_size else None
        code[2] = _object(2, ObjectClaim(shape=named.shape, color=named.color, size=size, cell=named.cell))
        return code
    # Not its cell: Qwen2.5-VL marks image tokens by rotary phase alone, so values that are attended to
    # carry no place.
    code[1] = _object(1, ObjectClaim(shape=named.shape, color=named.color))
    attribute = {"recolor": "color", "replace": "shape", "resize": "size", "move": "cell"}.get(edit.kind)
    if attribute is not None:
        code[2] = _object(2, ObjectClaim(**{attribute: edit.value}))
    return code


def pooled_code(code: np.ndarray) -> np.ndarray:
    """The pooled condition that goes with codes (..., NUM_SLOTS, WIDTH): their scaled mean, (..., WIDTH)."""
    return POOLED_SCALE * code.mean(-2)


def describe_cells(scene: ShapesScene) -> np.ndarray:
    """What is in each cell: shape, color and size, zero where it is empty. (9, WIDTH) float32."""
    cells = np.zeros((len(CELLS), WIDTH), dtype=np.float32)
    for item in scene.objects:
        cells[item.cell] = _sum(("shape", item.shape), ("color", item.color), ("size", item.size))
    return cells
