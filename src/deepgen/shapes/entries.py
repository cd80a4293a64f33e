"""Training entries of the shapes world by number: scenes, claims and edits of the training split.

Entry i of a seed is a pure function of both, so a pool, a data source and a test speak of the same ones.
"""

from __future__ import annotations

import numpy as np

from deepgen.shapes.caption import ShapesClaim, ShapesEdit, claim_about, sample_edit, sample_scene_for
from deepgen.shapes.scene import ShapesScene

# How often a scene of each sort is drawn, and what its captions may be.
_SCENE_KINDS = {"single": 0.25, "two": 0.35, "counting": 0.25, "three": 0.1, "all": 0.05}
_CAPTIONS = {
    "one": {"single": 0.3, "position": 0.25, "background": 0.2, "size": 0.2, "all": 0.05},
    "two": {"two": 0.3, "relation": 0.32, "position": 0.06, "background": 0.06, "size": 0.06, "all": 0.2},
    "many": {"three": 0.5, "all": 0.5},
    "same": {"counting": 1.0},
}
_EDIT_SHARES = {
    "recolor": 0.15,
    "remove": 0.13,
    "add": 0.15,
    "move": 0.19,
    "background": 0.08,
    "replace": 0.15,
    "resize": 0.15,
}


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return list(shares)[
        int(rng.choice(len(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    ]


def scene_entry(seed: int, index: int) -> ShapesScene:
    """Scene number `index` of the pool."""
    rng = np.random.default_rng((seed, 1, index))
    while True:
        scene = sample_scene_for(rng, _draw(rng, _SCENE_KINDS))
        if _find_training_claim(rng, scene, tries=30) is not None:
            return scene


def edit_entry(seed: int, index: int) -> ShapesEdit:
    """Edit number `index` of the pool, from the training side of the split."""
    rng = np.random.default_rng((seed, 2, index))
    return sample_edit(rng, _draw(rng, _EDIT_SHARES), "train")


def training_claim(rng: np.random.Generator, scene: ShapesScene) -> ShapesClaim:
    """A claim about the scene from the training side of the split; a ValueError for a scene that has none."""
    claim = _find_training_claim(rng, scene, tries=10_000)
    if claim is None:
        raise ValueError(f"every claim about {scene} is held out; draw scenes with scene_entry")
    return claim


def _find_training_claim(rng: np.random.Generator, scene: ShapesScene, tries: int) -> ShapesClaim | None:
    if len(scene.objects) > 1 and len({(o.shape, o.color) for o in scene.objects}) == 1:
        sort = "same"
    else:
        sort = {1: "one", 2: "two"}.get(len(scene.objects), "many")
    for _ in range(tries):
        claim = claim_about(rng, scene, _draw(rng, _CAPTIONS[sort]))
        if claim.split == "train":
            return claim
    return None
