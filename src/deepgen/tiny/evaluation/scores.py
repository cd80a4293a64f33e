"""The verdict on one picture of the storybook benchmark, with the reason where it is wrong.

The picture is read (tiny/read.py) and the claim asked of what was read (tiny/claims.py). For an edit it is
also measured what became of the cells it should leave alone: how many still hold what they held, and how
close their pixels are to the source.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from deepgen.tiny.claims import Claim, EditClaim, ThingClaim, contents, holds
from deepgen.tiny.read import Reading, read
from deepgen.tiny.render import CANVAS, render_array
from deepgen.tiny.scene import CELL, Cell, Scene

MOST_PSNR = 60.0  # dB; equal pixels have no bound
# What is asked of a thing, in the order in which a fault is looked for, and what it is called.
_PROPERTIES: dict[str, tuple[Any, str]] = {
    "facing": (None, "a thing faces the other way"),
    "style": (None, "a thing in the other style"),
    "size": (None, "a thing of the other size"),
    "cells": ((), "a thing in another place"),
    "nouns": ((), "another thing than asked for"),
}


@dataclass(frozen=True, kw_only=True)
class StorybookScore:
    """The verdict on one picture.

    Attributes:
        is_right: whether everything asked for holds and nothing extra is there.
        reason: why not, with what was found; empty where it is right.
        fault: the kind of that reason, by which reasons are counted.
        kept: of an edit, the share of cells to be left alone that hold what they held; None without such.
        psnr: of an edit, in dB over the pixels of these cells; None without such, or on a new ground.
    """

    is_right: bool
    reason: str = ""
    fault: str = ""
    kept: float | None = None
    psnr: float | None = None


def score_image(claim: Claim | EditClaim, image: Image.Image) -> StorybookScore:
    """The verdict on a picture; one of another size is made 96x96 before it is read."""
    image = image.convert("RGB")
    if image.size != (CANVAS, CANVAS):
        image = image.resize((CANVAS, CANVAS), Image.Resampling.BOX)
    reading = read(image)
    reason, fault = _why_wrong(claim, reading)
    if not isinstance(claim, EditClaim):
        return StorybookScore(is_right=not reason, reason=reason, fault=fault)
    same_ground = claim.claim.ground in (None, claim.source.ground)
    return StorybookScore(
        is_right=not reason,
        reason=reason,
        fault=fault,
        kept=kept_share(claim.source, claim.untouched, reading),
        psnr=psnr_within(claim.source, claim.untouched, image) if same_ground else None,
    )


def kept_share(source: Scene, cells: Collection[Cell], reading: Reading) -> float | None:
    """Share of these cells, in [0, 1], whose thing (or nothing) is read as it is in the source."""
    if not cells:
        return None
    before, after = contents(source), {thing.cell: thing for thing in reading.things}
    same = [
        cell not in reading.unknown_cells and before.get(cell) == after.get(cell) for cell in sorted(cells)
    ]
    return sum(same) / len(same)


def psnr_within(source: Scene, cells: Collection[Cell], image: Image.Image) -> float | None:
    """PSNR in dB between a 96x96 picture and the source within these cells, at most 60; None without any."""
    if not cells:
        return None
    wanted, found = render_array(source).astype(np.float64), np.asarray(image.convert("RGB"), np.float64)
    parts = [
        (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
        for row, column in cells
    ]
    error = float(np.mean([((wanted[part] - found[part]) ** 2).mean() for part in parts]))
    return MOST_PSNR if error == 0 else float(min(MOST_PSNR, 10 * np.log10(255**2 / error)))


def _why_wrong(claim: Claim | EditClaim, reading: Reading) -> tuple[str, str]:
    """(reason, kind of reason), both empty where the claim holds."""
    scene = reading.scene
    if scene is None:
        return _not_understood(reading)
    verdict = holds(claim, scene)
    return (verdict.reason, "" if verdict.is_right else fault_of(claim, scene, verdict.reason))


def _not_understood(reading: Reading) -> tuple[str, str]:
    if reading.ground is None:
        return "the ground is none of the world's", "a ground that is none of the world's"
    if reading.unknown_cells:
        return (
            f"cells {', '.join(map(str, reading.unknown_cells))} hold nothing of the world",
            "blurred or mixed: no thing of the world",
        )
    return f"there are {len(reading.things)} things", "too many things"


def fault_of(claim: Claim | EditClaim, scene: Scene, reason: str) -> str:
    """The kind of a reason of `holds`."""
    if found := re.match(r"there should be (\d+) things, not (\d+)", reason):
        return "too many things" if int(found[2]) > int(found[1]) else "too few things"
    beginnings = {
        "no word": "a word that was not asked for",
        "the word should be": "no word" if scene.word is None else "another word than asked for",
        "the word should stand": "the word in another row",
        "the ground": "another ground than asked for",
        "the first thing": "the wrong relation",
        "cell": "changed what should have stayed",
    }
    for beginning, fault in beginnings.items():
        if reason.startswith(beginning):
            return fault
    return _wrong_property(claim.claim if isinstance(claim, EditClaim) else claim, scene)


def _wrong_property(claim: Claim, scene: Scene) -> str:
    """What has to be left free for the things to be as stated: one property, or several."""
    for name, (free, fault) in _PROPERTIES.items():
        things = tuple(_without(stated, name, free) for stated in claim.things)
        if holds(replace(claim, things=things, relation=None), scene).is_right:
            return fault
    return "several properties of things are wrong"


def _without(stated: ThingClaim, name: str, free: Any) -> ThingClaim:
    return replace(stated, **{name: free})
