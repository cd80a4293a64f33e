"""Scores of pictures of the shapes world, for benchmarks and rewards.

`is_right` is the verdict that counts. The credits are for learning, where a verdict that is nearly always
"wrong" teaches nothing; each of them is 1 exactly where the picture is right.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from PIL import Image

from deepgen.shapes.caption import ObjectClaim, ShapesClaim, ShapesEdit, related
from deepgen.shapes.read import ShapesReading
from deepgen.shapes.render import render
from deepgen.shapes.scene import CANVAS, CELL, CELLS, Object


def is_right(claim: ShapesClaim, reading: ShapesReading) -> bool:
    """Whether everything was understood and is as stated, with nothing missing and nothing extra."""
    scene = reading.scene
    return scene is not None and claim.holds(scene)


def kept_share(edit: ShapesEdit, reading: ShapesReading) -> float | None:
    """Share of the objects both scenes have that were read again in place; None where they share none."""
    same = [o for o in edit.source.objects if o in edit.target.objects]
    return sum(o in reading.objects for o in same) / len(same) if same else None


def psnr_outside(edit: ShapesEdit, image: Image.Image) -> float | None:
    """PSNR in dB against the source over the cells an edit leaves alone; None where it leaves none."""
    cells = [cell for cell in range(len(CELLS)) if cell not in edit.touched_cells]
    if not cells:
        return None
    error = (np.asarray(image.convert("RGB"), np.float32) - np.asarray(render(edit.source), np.float32)) ** 2
    blocks = error.reshape(CANVAS // CELL, CELL, CANVAS // CELL, CELL, 3).mean((1, 3, 4)).ravel()  # (9,)
    return float(10 * np.log10(255**2 / max(blocks[cells].mean(), 1e-6)))


def claim_credit(claim: ShapesClaim, reading: ShapesReading) -> float:
    """Share of what is stated that holds, less one part for each thing too many, in [0, 1].

    Each object is a part (in it, the share of its stated attributes), and so are a stated background and a
    stated relation. Objects are matched so as to give the most. Too many are objects that were not asked for,
    cells that show nothing known, and a background that is none of the world's.
    """
    wanted, found = claim.objects, list(reading.objects)
    padded = [*found, *[None] * (len(wanted) - len(found))]
    best = max(
        sum(_object_credit(c, o) for c, o in zip(wanted, order, strict=True)) + _relation_credit(claim, order)
        for order in permutations(padded, len(wanted))
    )
    background = claim.background is not None and claim.background == reading.background
    num_parts = len(wanted) + (claim.background is not None) + (claim.relation is not None)
    num_extra = max(0, len(found) - len(wanted)) + len(reading.unreadable_cells)
    num_extra += reading.background is None and claim.background is None
    return max(0.0, (best + background - num_extra) / num_parts)


def edit_credit(edit: ShapesEdit, reading: ShapesReading) -> float:
    """How far an edit got, in [0, 1]: nothing for a picture left as it was, half for the change alone, all
    where everything else was kept too.
    """
    return change_share(edit, reading) * (0.5 + 0.5 * keeping_share(edit, reading))


def change_share(edit: ShapesEdit, reading: ShapesReading) -> float:
    """Share of the cells to be changed that are as the edit wants them; or whether the background is."""
    if edit.kind == "background":
        return float(reading.background == edit.target.background)
    wanted = {claim.cell: claim for claim in edit.claim.objects}
    found = {item.cell: item for item in reading.objects}
    right = [
        cell not in reading.unreadable_cells and _cell_is_right(wanted.get(cell), found.get(cell))
        for cell in edit.touched_cells
    ]
    return sum(right) / len(right)


def keeping_share(edit: ShapesEdit, reading: ShapesReading) -> float:
    """Share of what an edit leaves alone that was left alone, less one part for each thing too many, in
    [0, 1]: its objects, and the background unless that is the change.
    """
    same = [o for o in edit.source.objects if o in edit.target.objects]
    parts = [o in reading.objects for o in same]
    touched = frozenset[int]() if edit.kind == "background" else edit.touched_cells
    if edit.kind != "background":
        parts.append(reading.background == edit.source.background)
    allowed = touched | {o.cell for o in same}
    seen = [*(o.cell for o in reading.objects), *reading.unreadable_cells]
    num_extra = sum(cell not in allowed for cell in seen)
    return max(0.0, (sum(parts) - num_extra) / len(parts))


def _cell_is_right(wanted: ObjectClaim | None, found: Object | None) -> bool:
    return found is None if wanted is None else found is not None and wanted.holds(found)


def _object_credit(claim: ObjectClaim, item: Object | None) -> float:
    if item is None:
        return 0.0
    stated = [name for name in ("shape", "color", "size", "cell") if getattr(claim, name) is not None]
    if not stated:
        return 1.0
    return sum(getattr(claim, name) == getattr(item, name) for name in stated) / len(stated)


def _relation_credit(claim: ShapesClaim, order: tuple[Object | None, ...]) -> float:
    """Only for objects that are the ones meant: two wrong shapes side by side are no relation kept."""
    if claim.relation is None:
        return 0.0
    first, second = order[:2]
    if first is None or second is None:
        return 0.0
    is_meant = claim.objects[0].holds(first) and claim.objects[1].holds(second)
    return float(is_meant and related(first, second, claim.relation))
