"""Which drawings a decoder does badly, so that they can be shown to it more often.

A look is a noun in one style and size, facing one way. What was unreadable in the first storybook model's
pictures were a few looks: a bicycle in 21 of 41 cases, most others in none, what faces right six times as
often as what faces left. Drawn evenly, a bicycle comes once in 87 things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import torch
from diffusers import AutoencoderKL

from deepgen.data.pixels import pixels_to_bytes
from deepgen.models import vae as latent_space
from deepgen.tiny.claims import CELLS
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.read import read
from deepgen.tiny.sampling import FACINGS
from deepgen.tiny.scene import GROUNDS, MOST_THINGS, SIZES, STYLES, Ground, Scene, Thing
from deepgen.tiny.stages.dit import encode_scenes

_BATCH_SIZE = 32
_ROUNDS = 3  # grounds on which a look is tried
_LEAST = 0.01  # weight of a look that was always readable


@dataclass(frozen=True)
class Looks:
    """Looks, each as a thing in any cell, and the share of grounds (N,) on which each came out unreadable."""

    things: tuple[Thing, ...]
    faults: np.ndarray

    @cached_property
    def _by_look(self) -> Mapping[Thing, float]:
        return dict(zip(self.things, self.faults.tolist(), strict=True))

    def share(self, scene: Scene) -> float:
        """Sum of the faults of a scene's things."""
        return sum(self._by_look[replace(thing, cell=CELLS[0])] for thing in scene.things)


def read_looks(vae: AutoencoderKL, nouns: Sequence[str] = NOUNS) -> Looks:
    """Encode, decode and read every look of these nouns on three grounds, four looks a picture; of all of
    them, 20 seconds of one core.
    """
    ways = product(nouns, STYLES, SIZES, FACINGS)
    things = tuple(
        dict.fromkeys(Thing(noun=n, cell=CELLS[0], style=s, size=z, facing=f) for n, s, z, f in ways)
    )
    rng = np.random.default_rng(0)
    order = rng.permutation(len(things))
    rows = [order[start : start + MOST_THINGS] for start in range(0, len(order), MOST_THINGS)]
    faults = np.zeros(len(things))
    for turn in range(_ROUNDS):
        scenes = [
            _scene(rng, [things[i] for i in row], GROUNDS[(number + turn * _ROUNDS) % len(GROUNDS)])
            for number, row in enumerate(rows)
        ]
        for row, scene, picture in zip(rows, scenes, _decoded(vae, scenes), strict=True):
            reading = read(picture)
            sure = {thing for thing in reading.things if thing.cell not in reading.unknown_cells}
            faults[row] += [thing not in sure for thing in scene.things]
    return Looks(things, faults / _ROUNDS)


def hard_scene(rng: np.random.Generator, looks: Looks) -> Scene:
    """One to four things anywhere, looks drawn as often as they came out wrong."""
    weights = looks.faults + _LEAST
    count = int(rng.integers(1, MOST_THINGS + 1))
    chosen = rng.choice(len(looks.things), count, p=weights / weights.sum())
    return _scene(rng, [looks.things[i] for i in chosen], GROUNDS[int(rng.integers(len(GROUNDS)))])


def _scene(rng: np.random.Generator, things: list[Thing], ground: Ground) -> Scene:
    """The things in cells of their own."""
    cells = rng.permutation(len(CELLS))[: len(things)]
    placed = (replace(thing, cell=CELLS[cell]) for thing, cell in zip(things, cells, strict=True))
    return Scene(ground=ground, things=tuple(placed))


@torch.no_grad()
def _decoded(vae: AutoencoderKL, scenes: list[Scene]) -> np.ndarray:
    """Pictures (N, 96, 96, 3) of uint8, as they come back."""
    latents = encode_scenes(vae, scenes).float()
    pixels = torch.cat([latent_space.decode(vae, some) for some in latents.split(_BATCH_SIZE)])
    return pixels_to_bytes(pixels).permute(0, 2, 3, 1).numpy()
