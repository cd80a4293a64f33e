"""Captions and edit instructions of the shapes world, and the exact claims behind them.

A `ShapesClaim` states some properties of a picture and nothing of the rest; it holds for a scene when its
objects can be matched one to one with the scene's objects (nothing missing, nothing extra) and every stated
property is right. A `ShapesEdit` is an instruction, the scene it applies to, and the claim its result has to
satisfy. The text is drawn afterwards, from several wordings, so the same claim is met in many forms.

One attribute combination in eight is held out: training never draws a claim or an edit whose `split` is
"test", the benchmark draws nothing else. Which one it is depends on what is stated, not on the wording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from typing import Any, Literal

import numpy as np

from deepgen.shapes.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    SHAPES,
    SIZES,
    Object,
    ShapesScene,
    choose,
    sample_object,
    sample_offset,
    sample_scene,
)

Split = Literal["train", "test"]

CAPTION_KINDS = ("single", "two", "relation", "counting", "position", "background", "size", "all", "three")
EDIT_KINDS = ("recolor", "remove", "add", "move", "background", "replace", "resize")
RELATIONS = {
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (-1, 0),
    "below": (1, 0),
}  # (row, column) of the first
_TEST_SHARE = 8


@dataclass(frozen=True, kw_only=True)
class ObjectClaim:
    """What is stated about one object; None is "not stated"."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    cell: int | None = None

    def holds(self, item: Object) -> bool:
        """Whether every stated attribute is the object's."""
        return all(
            stated is None or stated == actual
            for stated, actual in (
                (self.shape, item.shape),
                (self.color, item.color),
                (self.size, item.size),
                (self.cell, item.cell),
            )
        )


@dataclass(frozen=True, kw_only=True)
class ShapesClaim:
    """What a caption states: every object there is, the background if named, how the first two lie."""

    kind: str
    objects: tuple[ObjectClaim, ...]
    background: str | None = None
    relation: str | None = None

    def holds(self, scene: ShapesScene) -> bool:
        """Whether the scene is as stated, with nothing missing and nothing extra."""
        if len(scene.objects) != len(self.objects):
            return False
        if self.background is not None and scene.background != self.background:
            return False
        return any(
            all(claim.holds(item) for claim, item in zip(self.objects, order, strict=True))
            and self._relation_holds(order)
            for order in permutations(scene.objects)
        )

    def _relation_holds(self, order: Sequence[Object]) -> bool:
        return self.relation is None or related(order[0], order[1], self.relation)

    @property
    def split(self) -> Split:
        """The side this combination of stated properties belongs to."""
        parts = sorted(f"{o.shape},{o.color},{o.size},{o.cell}" for o in self.objects)
        if self.relation is not None:  # the order of the objects matters here
            parts = [f"{o.shape},{o.color}" for o in self.objects]
        return _split(f"{parts};{self.background};{self.relation}")


@dataclass(frozen=True, kw_only=True)
class ShapesEdit:
    """One change of a scene: `named` is the object it is about (the new one for "add"), `value` what it
    becomes.
    """

    kind: str
    source: ShapesScene
    target: ShapesScene
    named: Object | None
    value: str | int | None
    claim: ShapesClaim
    states_size: bool = False

    @property
    def touched_cells(self) -> frozenset[int]:
        """Cells whose content may change; all of them when the background does."""
        if self.kind == "background":
            return frozenset(range(len(CELLS)))
        before = {item.cell: item for item in self.source.objects}
        after = {item.cell: item for item in self.target.objects}
        return frozenset(cell for cell in before.keys() | after.keys() if before.get(cell) != after.get(cell))

    @property
    def split(self) -> Split:
        """The side this change belongs to: by the object and its new value, or by the objects for a new
        background.
        """
        if self.named is None:
            parts = sorted(f"{o.shape},{o.color}" for o in self.source.objects)
            return _split(f"{self.kind};{parts};{self.value}")
        return _split(f"{self.kind};{self.named.shape};{self.named.color};{self.value}")


def _split(key: str) -> Split:
    digest = hashlib.sha256(f"deepgen shapes 1;{key}".encode()).digest()
    return "test" if digest[0] % _TEST_SHARE == 0 else "train"


def related(first: Object, second: Object, relation: str) -> bool:
    """Whether the first object's cell lies in that direction of the second's."""
    row, column = RELATIONS[relation]
    if row:
        return (first.row - second.row) * row > 0
    return (first.column - second.column) * column > 0


# Claims


def sample_claim(rng: np.random.Generator, kind: str, split: Split) -> tuple[ShapesClaim, ShapesScene]:
    """A claim of that kind and split, and a scene it holds for."""
    while True:
        scene = sample_scene_for(rng, kind)
        claim = claim_about(rng, scene, kind)
        if claim.split == split:
            return claim, scene


def sample_scene_for(rng: np.random.Generator, kind: str) -> ShapesScene:
    """A scene that a caption of that kind can describe."""
    if kind not in CAPTION_KINDS:
        raise ValueError(f"unknown caption kind {kind!r}; known: {', '.join(CAPTION_KINDS)}")
    if kind == "counting":
        scene = sample_scene(rng, int(rng.integers(2, 5)))
        shape, color = scene.objects[0].shape, scene.objects[0].color
        return replace(scene, objects=tuple(replace(o, shape=shape, color=color) for o in scene.objects))
    if kind in ("two", "relation", "three"):
        count = 3 if kind == "three" else 2
        while True:
            scene = sample_scene(rng, count)
            if len({(o.shape, o.color) for o in scene.objects}) == count:
                return scene
    if kind == "all":
        return sample_scene(rng, int(rng.integers(2, 4)))
    return sample_scene(rng, 2 if kind in ("position", "background", "size") and rng.random() < 0.25 else 1)


def claim_about(rng: np.random.Generator, scene: ShapesScene, kind: str) -> ShapesClaim:
    """What a caption of that kind states about a scene it fits; the objects come in a drawn order."""
    items = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    plain = [ObjectClaim(shape=o.shape, color=o.color) for o in items]
    if kind == "relation":
        first, second = items[:2]
        names = [name for name in RELATIONS if related(first, second, name)]
        return ShapesClaim(kind=kind, objects=tuple(plain), relation=choose(rng, names))
    if kind == "position":
        return ShapesClaim(
            kind=kind, objects=tuple(replace(c, cell=o.cell) for c, o in zip(plain, items, strict=True))
        )
    if kind == "size":
        return ShapesClaim(
            kind=kind, objects=tuple(replace(c, size=o.size) for c, o in zip(plain, items, strict=True))
        )
    if kind == "background":
        return ShapesClaim(kind=kind, objects=tuple(plain), background=scene.background)
    if kind == "all":
        full = tuple(ObjectClaim(shape=o.shape, color=o.color, size=o.size, cell=o.cell) for o in items)
        return ShapesClaim(kind=kind, objects=full, background=scene.background)
    return ShapesClaim(kind=kind, objects=tuple(plain))


# Edits


def sample_edit(rng: np.random.Generator, kind: str, split: Split) -> ShapesEdit:
    """An edit of that kind and split of a scene of one to four objects that differ in shape and color."""
    while True:
        least = 2 if kind == "remove" else 1
        most = 3 if kind == "add" else 4
        source = sample_scene(rng, int(rng.integers(least, most + 1)))
        if len({(o.shape, o.color) for o in source.objects}) < len(source.objects):
            continue
        edit = sample_edit_of(rng, source, kind)
        if edit.split == split:
            return edit


def sample_edit_of(rng: np.random.Generator, source: ShapesScene, kind: str) -> ShapesEdit:
    """An edit of that kind of a given scene; the changed object keeps its cell and jitter unless it moves."""
    if kind == "background":
        value = choose(rng, [name for name in BACKGROUNDS if name != source.background])
        return _edit(kind, source, replace(source, background=value), None, value)
    if kind == "add":
        taken = {(o.shape, o.color) for o in source.objects}
        while True:
            new = sample_object(rng, int(rng.choice(source.free_cells)))
            if (new.shape, new.color) not in taken:
                break
        states_size = bool(rng.random() < 0.5)
        target = replace(source, objects=(*source.objects, new))
        return _edit(kind, source, target, new, new.cell, states_size)
    index = int(rng.integers(len(source.objects)))
    named, rest = source.objects[index], source.objects[:index] + source.objects[index + 1 :]
    taken = {(o.shape, o.color) for o in rest}
    if kind == "remove":
        return _edit(kind, source, replace(source, objects=rest), named, None)
    if kind == "move":
        cell = int(rng.choice(source.free_cells))
        changed, value = replace(named, cell=cell, offset=sample_offset(rng)), cell
    elif kind == "recolor":
        value = choose(rng, [c for c in COLORS if c != named.color and (named.shape, c) not in taken])
        changed = replace(named, color=value)
    elif kind == "replace":
        value = choose(rng, [s for s in SHAPES if s != named.shape and (s, named.color) not in taken])
        changed = replace(named, shape=value)
    elif kind == "resize":
        value = choose(rng, [s for s in SIZES if s != named.size])
        changed = replace(named, size=value)
    else:
        raise ValueError(f"unknown edit kind {kind!r}; known: {', '.join(EDIT_KINDS)}")
    return _edit(kind, source, replace(source, objects=(*rest, changed)), named, value)


def _edit(
    kind: str,
    source: ShapesScene,
    target: ShapesScene,
    named: Object | None,
    value: str | int | None,
    states_size: bool = True,
) -> ShapesEdit:
    objects = tuple(
        ObjectClaim(
            shape=o.shape, color=o.color, cell=o.cell, size=o.size if states_size or o.cell != value else None
        )
        for o in target.objects
    )
    claim = ShapesClaim(kind=kind, objects=objects, background=target.background)
    return ShapesEdit(
        kind=kind,
        source=source,
        target=target,
        named=named,
        value=value,
        claim=claim,
        states_size=states_size,
    )


# Words

_NUMBERS = {2: ("two",), 3: ("three",), 4: ("four",)}
_SIZE_WORDS = {
    "small": ("small", "small", "little"),
    "medium": ("medium",),
    "large": ("large", "large", "big"),
}
_BACKGROUND_WORDS = {"white": ("white",), "black": ("black",), "grey": ("grey", "gray"), "brown": ("brown",)}
_OPENERS = ("", "", "", "", "a picture of ", "draw ", "please draw ")
_RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


def plural(shape: str) -> str:
    """The shape's name for more than one."""
    return shape + ("es" if shape == "cross" else "s")


def place(rng: np.random.Generator, cell: int) -> str:
    """A cell in words, as in "in the top left corner" or "on the right"."""
    name = CELLS[cell]
    if name == "center":
        return choose(rng, ("in the center", "in the middle", "at the center"))
    if " " in name:
        return choose(rng, (f"at the {name}", f"in the {name} corner", f"in the {name}"))
    if name in ("left", "right"):
        return choose(rng, (f"on the {name}", f"at the {name}"))
    return choose(rng, (f"at the {name}", f"in the {name}"))


def _noun_phrase(rng: np.random.Generator, claim: ObjectClaim, article: bool = True) -> str:
    words = [] if claim.size is None else [choose(rng, _SIZE_WORDS[claim.size])]
    words += [word for word in (claim.color, claim.shape or "shape") if word is not None]
    if not article:
        return " ".join(words)
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _phrase(rng: np.random.Generator, claim: ObjectClaim) -> str:
    return _noun_phrase(rng, claim) + ("" if claim.cell is None else f" {place(rng, claim.cell)}")


def caption(rng: np.random.Generator, claim: ShapesClaim) -> str:
    """The claim in words, in one of its wordings."""
    if claim.relation is not None:
        first, second = (_phrase(rng, o) for o in claim.objects)
        text = f"{first} {choose(rng, _RELATION_WORDS[claim.relation])} {second}"
    elif len(claim.objects) > 1 and len(set(claim.objects)) == 1:
        only = claim.objects[0]
        text = f"{choose(rng, _NUMBERS[len(claim.objects)])} {only.color} {plural(only.shape or 'shape')}"
    else:
        phrases = [_phrase(rng, o) for o in claim.objects]
        joiner = " and " if len(phrases) == 2 else ", "
        text = (
            joiner.join(phrases[:-1]) + (" and " if len(phrases) > 2 else joiner) + phrases[-1]
            if len(phrases) > 1
            else phrases[0]
        )
    if claim.background is not None:
        color = choose(rng, _BACKGROUND_WORDS[claim.background])
        text += choose(
            rng,
            (
                f" on a {color} background",
                f" on a {color} background",
                f" with a {color} background",
                f" on {color}",
            ),
        )
    return choose(rng, _OPENERS) + text


def instruction(rng: np.random.Generator, edit: ShapesEdit) -> str:
    """The edit in words: the object is named by its shape alone where that is enough, or by color and
    shape.
    """
    if edit.named is None:
        color = choose(rng, _BACKGROUND_WORDS[str(edit.value)])
        return choose(
            rng,
            (
                f"change the background to {color}",
                f"make the background {color}",
                f"turn the background {color}",
            ),
        )
    if edit.kind == "add":
        new = ObjectClaim(
            shape=edit.named.shape, color=edit.named.color, size=edit.named.size if edit.states_size else None
        )
        where = place(rng, edit.named.cell)
        return choose(rng, (f"add {_noun_phrase(rng, new)} {where}", f"put {_noun_phrase(rng, new)} {where}"))
    is_only = sum(o.shape == edit.named.shape for o in edit.source.objects) == 1
    thing = (
        f"the {edit.named.shape}"
        if is_only and rng.random() < 0.4
        else f"the {edit.named.color} {edit.named.shape}"
    )
    if edit.kind == "remove":
        return choose(rng, (f"remove {thing}", f"delete {thing}", f"erase {thing}"))
    if edit.kind == "move":
        where = place(rng, int(edit.value or 0)).split(" ", 1)[1]
        return choose(rng, (f"move {thing} to {where}", f"put {thing} {place(rng, int(edit.value or 0))}"))
    if edit.kind == "recolor":
        return choose(
            rng,
            (
                f"make {thing} {edit.value}",
                f"change the color of {thing} to {edit.value}",
                f"recolor {thing} to {edit.value}",
                f"turn {thing} {edit.value}",
                f"paint {thing} {edit.value}",
            ),
        )
    if edit.kind == "resize":
        size = choose(rng, _SIZE_WORDS[str(edit.value)])
        return choose(rng, (f"make {thing} {size}", f"resize {thing} to {size}"))
    article = "an" if str(edit.value)[0] in "aeiou" else "a"
    return choose(
        rng,
        (f"replace {thing} with {article} {edit.value}", f"turn {thing} into {article} {edit.value}",
         f"change {thing} to {article} {edit.value}"),
    )  # fmt: skip


# JSON, so that a claim can travel with its prompt


def to_json(asked: ShapesClaim | ShapesEdit) -> dict[str, Any]:
    """Plain values that `from_json` turns into an equal claim or edit, jitter included."""
    return asdict(asked)


def from_json(values: Mapping[str, Any]) -> ShapesClaim | ShapesEdit:
    """The claim or edit that `to_json` wrote; a ValueError where it is none."""
    try:
        if "source" not in values:
            return _claim_from(values)
        return ShapesEdit(
            kind=values["kind"],
            source=_scene_from(values["source"]),
            target=_scene_from(values["target"]),
            named=None if values["named"] is None else _object_from(values["named"]),
            value=values["value"],
            claim=_claim_from(values["claim"]),
            states_size=bool(values["states_size"]),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is no claim or edit as to_json writes it: {error!r}") from error


def _claim_from(values: Mapping[str, Any]) -> ShapesClaim:
    return ShapesClaim(**{**values, "objects": tuple(ObjectClaim(**item) for item in values["objects"])})


def _scene_from(values: Mapping[str, Any]) -> ShapesScene:
    return ShapesScene(background=values["background"], objects=tuple(map(_object_from, values["objects"])))


def _object_from(values: Mapping[str, Any]) -> Object:
    x, y = values["offset"]
    return Object(**{**values, "offset": (int(x), int(y))})
