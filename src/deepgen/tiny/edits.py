"""Direct edits: each an instruction, the scene before, a scene after, and the claim on it.

What an instruction leaves open ("add a cat") the claim leaves open too. An instruction that cannot be
followed (it names what is not there, adds to a full cell, or changes nothing) has the source as its target,
and the edit that it would be on another picture with it (`as_if`).
Of the wordings of a kind the last one is never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_uppercase

import numpy as np

from deepgen.tiny.claims import CELLS, EditClaim, ThingClaim, contents, thing_claim, to_edit_claim
from deepgen.tiny.example import Ability, Origin, StorybookExample
from deepgen.tiny.facts import load_facts
from deepgen.tiny.language import (
    ROW_WORDS,
    SIZE_WORDS,
    STYLE_WORDS,
    choose,
    noun_phrase,
    place,
    row_place,
    spoken,
)
from deepgen.tiny.nouns import FACING_NOUNS
from deepgen.tiny.sampling import (
    common_style,
    dictionary,
    free_cells,
    free_rows,
    preferred,
    sample_nouns,
    sample_source,
    sample_things,
    sample_word,
    the,
    word_it,
)
from deepgen.tiny.scene import GROUNDS, MOST_THINGS, PLACES, Cell, Facing, Scene, Size, Thing, Word
from deepgen.tiny.wordings import load_wordings

_WORDINGS = load_wordings("edits")
EDIT_KINDS = tuple(kind for kind in _WORDINGS if kind != "leave")
BAD_EDIT_KINDS = ("not there", "full cell", "nothing to change")
_COMPARATIVES: dict[Size, str] = {"small": "smaller", "large": "bigger"}
_OTHER_SIZE: dict[Size, Size] = {"small": "large", "large": "small"}
_OTHER_FACING: dict[Facing, Facing] = {"left": "right", "right": "left"}


def sample_edit(rng: np.random.Generator, kind: str) -> StorybookExample:
    """An edit of that kind, one of `EDIT_KINDS` or `BAD_EDIT_KINDS`. Held-out ones come too (see splits)."""
    if kind not in _SAMPLERS:
        raise ValueError(f"unknown edit kind {kind!r}; known: {', '.join(_SAMPLERS)}")
    while True:
        found = _SAMPLERS[kind](rng)
        if found is not None:
            return found


def edit_example(
    kind: str,
    text: str,
    claim: EditClaim,
    target: Scene,
    *,
    is_last: bool,
    ability: Ability = "edit",
    combinations: tuple[tuple[str, str, str], ...] = (),
    nouns: Sequence[str] = (),
    direct: str | None = None,
) -> StorybookExample:
    """An example of an edit; `nouns` are those whose categories make it a crossing."""
    words = [scene.word.text for scene in (claim.source, target) if scene.word is not None]
    categories = tuple(dict.fromkeys(load_facts().category_of(noun) for noun in nouns))
    origin = Origin(
        template=kind,
        combinations=combinations,
        categories=categories,
        is_last_wording=is_last,
        words=tuple(dict.fromkeys(words)),
    )
    return StorybookExample(
        ability=ability,
        kind=kind,
        text=text,
        claim=claim,
        source=claim.source,
        target=target,
        origin=origin,
        direct=direct,
    )


def to_place(rng: np.random.Generator, cell: Cell) -> str:
    """A cell as a goal: "the top left corner"."""
    return place(rng, cell).split(" ", 1)[1]


def put_in(scene: Scene, old: Thing, new: Thing) -> Scene:
    """The scene with one thing in another's stead."""
    return replace(scene, things=tuple(new if thing == old else thing for thing in scene.things))


def neighbours(cell: Cell) -> list[Cell]:
    """Cells beside a cell: left, right, above and below."""
    return [other for other in CELLS if abs(other[0] - cell[0]) + abs(other[1] - cell[1]) == 1]


def _pick(rng: np.random.Generator, scene: Scene) -> tuple[Thing, str]:
    thing = choose(rng, scene.things)
    return thing, the(spoken(rng, thing.noun))


def _change(
    rng: np.random.Generator,
    kind: str,
    source: Scene,
    old: Thing,
    changed: Thing,
    value: str,
    **parts: object,
) -> StorybookExample:
    """An edit that changes one thing; the claim leaves the facing open where the drawing itself changes."""
    target = put_in(source, old, changed)
    is_redrawn = old.noun != changed.noun or old.style != changed.style
    claim = to_edit_claim(
        source, target, {changed.cell: replace(thing_claim(changed), facing=None)} if is_redrawn else None
    )
    wording = word_it(rng, _WORDINGS[kind], **{"old": the(spoken(rng, old.noun)), **parts})
    nouns = (old.noun, changed.noun) if kind == "replace" else (old.noun,)
    combination = (kind, old.noun, value)
    return edit_example(
        kind, wording.text, claim, target, is_last=wording.is_last, combinations=(combination,), nouns=nouns
    )


def _replace(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng)
    old = choose(rng, source.things)
    noun = sample_nouns(rng, 1, without=[thing.noun for thing in source.things])[0]
    new = noun_phrase(spoken(rng, noun))
    return _change(rng, "replace", source, old, replace(old, noun=noun), noun, new=new)


def _remove(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng, fewest=2)
    old, named = _pick(rng, source)
    target = replace(source, things=tuple(thing for thing in source.things if thing != old))
    wording = word_it(rng, _WORDINGS["remove"], old=named)
    claim = to_edit_claim(source, target)
    return edit_example("remove", wording.text, claim, target, is_last=wording.is_last, nouns=(old.noun,))


def added(source: Scene, noun: str, cell: Cell) -> Thing:
    """A new thing drawn in the style of the others."""
    return Thing(noun=noun, cell=cell, style=common_style(source))


def add_claim(source: Scene, new: Thing, cells: Sequence[Cell]) -> tuple[EditClaim, Scene]:
    """The claim that a thing of this noun came to one of these free cells, and the scene where it did."""
    target = replace(source, things=(*source.things, new))
    return to_edit_claim(
        source, target, {new.cell: ThingClaim(nouns=(new.noun,), cells=tuple(cells))}
    ), target


def _add(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng, most=MOST_THINGS - 1)
    noun = sample_nouns(rng, 1, without=[thing.noun for thing in source.things])[0]
    cells = free_cells(source)
    cell = choose(rng, cells)
    where = place(rng, cell)
    wording = word_it(rng, _WORDINGS["add"], new=noun_phrase(spoken(rng, noun)), where=where)
    is_placed = wording.text.endswith(where)
    if not is_placed:
        cell = preferred(cells)[0]
    claim, target = add_claim(source, added(source, noun, cell), [cell] if is_placed else cells)
    combinations = (("add", noun, PLACES[cell]),) if is_placed else ()
    return edit_example(
        "add", wording.text, claim, target, is_last=wording.is_last, combinations=combinations, nouns=(noun,)
    )


def _add_beside(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, most=MOST_THINGS - 1)
    old, named = _pick(rng, source)
    cells = [cell for cell in neighbours(old.cell) if cell in free_cells(source)]
    if not cells:
        return None
    noun = sample_nouns(rng, 1, without=[thing.noun for thing in source.things])[0]
    claim, target = add_claim(source, added(source, noun, preferred(cells)[0]), cells)
    wording = word_it(rng, _WORDINGS["add beside"], old=named, new=noun_phrase(spoken(rng, noun)))
    return edit_example(
        "add beside",
        wording.text,
        claim,
        target,
        is_last=wording.is_last,
        combinations=(("add beside", noun, old.noun),),
        nouns=(noun, old.noun),
    )


def _move(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng)
    old = choose(rng, source.things)
    cell = choose(rng, free_cells(source))
    return _change(rng, "move", source, old, replace(old, cell=cell), PLACES[cell],
                   to=to_place(rng, cell), where=place(rng, cell))  # fmt: skip


def swapped(source: Scene, first: Thing, second: Thing) -> Scene:
    """The scene with two things in each other's cells."""
    moved = {first: replace(first, cell=second.cell), second: replace(second, cell=first.cell)}
    return replace(source, things=tuple(moved.get(thing, thing) for thing in source.things))


def _swap(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng, fewest=2)
    first, second = (source.things[i] for i in rng.choice(len(source.things), size=2, replace=False))
    target = swapped(source, first, second)
    wording = word_it(
        rng, _WORDINGS["swap"], old=the(spoken(rng, first.noun)), other=the(spoken(rng, second.noun))
    )
    names = sorted((first.noun, second.noun))
    return edit_example(
        "swap",
        wording.text,
        to_edit_claim(source, target),
        target,
        is_last=wording.is_last,
        combinations=(("swap", names[0], names[1]),),
        nouns=names,
    )


def _resize(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng)
    old = choose(rng, source.things)
    size = _OTHER_SIZE[old.size]
    return _change(rng, "resize", source, old, replace(old, size=size), size,
                   size=choose(rng, SIZE_WORDS[size]), comparative=_COMPARATIVES[size])  # fmt: skip


def _mirror(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, turned=0.5)
    looking = [thing for thing in source.things if thing.noun in FACING_NOUNS]
    if not looking:
        return None
    old = choose(rng, looking)
    edit = _change(rng, "mirror", source, old, replace(old, facing=_OTHER_FACING[old.facing]), "")
    # No crossing: with two categories a held-out one would be half of all.
    return replace(edit, origin=replace(edit.origin, combinations=(), categories=()))


def _restyle(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng)
    old = choose(rng, source.things)
    style = "flat" if old.style == "glossy" else "glossy"
    return _change(rng, "restyle", source, old, replace(old, style=style), style,
                   style=choose(rng, STYLE_WORDS[style]))  # fmt: skip


def _restyle_all(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng)
    style = "flat" if common_style(source) == "glossy" else "glossy"
    target = replace(source, things=tuple(replace(thing, style=style) for thing in source.things))
    free = {
        thing.cell: replace(thing_claim(thing), facing=None)
        for thing, before in zip(target.things, source.things, strict=True)
        if thing != before
    }
    wording = word_it(rng, _WORDINGS["restyle all"], style=choose(rng, STYLE_WORDS[style]))
    claim = to_edit_claim(source, target, free)
    return edit_example("restyle all", wording.text, claim, target, is_last=wording.is_last)


def _ground(rng: np.random.Generator) -> StorybookExample:
    source = sample_source(rng)
    ground = choose(rng, [ground for ground in GROUNDS if ground != source.ground])
    named = {"night": "night", "winter": "winter"}.get(ground, choose(rng, (ground, f"a {ground}")))
    named = ground if ground in ("white", "cream", "pink", "mint") else named
    target = replace(source, ground=ground)
    wording = word_it(rng, _WORDINGS["change ground"], ground=named)
    combinations = tuple(("change ground", thing.noun, ground) for thing in source.things[:1])
    return edit_example(
        "change ground",
        wording.text,
        to_edit_claim(source, target),
        target,
        is_last=wording.is_last,
        combinations=combinations,
    )


def _write(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, most=3, word_share=0)
    rows = free_rows(source)
    if not rows:
        return None
    word = Word(text=sample_word(rng), row=choose(rng, rows))
    where = row_place(rng, word.row)
    wording = word_it(rng, _WORDINGS["write"], word=word.text, row=where)
    is_placed = wording.text.endswith(where)
    if not is_placed:
        word = replace(word, row=rows[-1])
    target = replace(source, word=word)
    claim = write_claim(source, target, [word.row] if is_placed else rows)
    return edit_example("write", wording.text, claim, target, is_last=wording.is_last)


def write_claim(source: Scene, target: Scene, rows: Sequence[int]) -> EditClaim:
    """The claim of a target with a new word that may stand in any of these free rows."""
    claim = to_edit_claim(source, target, rows=rows)
    return replace(claim, untouched=frozenset(cell for cell in claim.untouched if cell[0] not in rows))


def _erase(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, most=3, word_share=1)
    target = replace(source, word=None)
    wording = word_it(rng, _WORDINGS["erase"], word=source.word.text if source.word else "")
    return edit_example("erase", wording.text, to_edit_claim(source, target), target, is_last=wording.is_last)


def misspelled(rng: np.random.Generator, word: str) -> str:
    """The word with one letter wrong, missing or in its neighbour's place; never itself."""
    while True:
        at = int(rng.integers(len(word)))
        way = int(rng.integers(3)) if len(word) > 1 else 0
        if way == 0:
            wrong = word[:at] + choose(rng, ascii_uppercase) + word[at + 1 :]
        elif way == 1:
            wrong = word[:at] + word[at + 1 :]
        else:
            wrong = word[: max(at - 1, 0)] + word[max(at - 1, 0) : at + 1][::-1] + word[at + 1 :]
        if wrong != word:
            return wrong


def _correct(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, most=3, word_share=1)
    right = choose(rng, dictionary())
    if source.word is None or len(right) < 2:
        return None
    wrong = misspelled(rng, right)
    source = replace(source, word=replace(source.word, text=wrong))
    target = replace(source, word=Word(text=right, row=source.word.row if source.word else 0))
    wording = word_it(rng, _WORDINGS["correct"], word=right, wrong=wrong)
    return edit_example(
        "correct", wording.text, to_edit_claim(source, target), target, is_last=wording.is_last
    )


def _unchanged(kind: str, asked: StorybookExample, source: Scene) -> StorybookExample:
    """The instruction of another edit on a picture in which it cannot be followed.

    What would be held out of that edit is held out here, too, for the code says the same.
    """
    edit = edit_example(kind, asked.text, to_edit_claim(source, source), source, is_last=False)
    words = tuple(dict.fromkeys((*asked.origin.words, *edit.origin.words)))
    return replace(edit, origin=replace(asked.origin, words=words), as_if=asked)


def _not_there(rng: np.random.Generator) -> StorybookExample | None:
    asked = choose(
        rng, (_remove, _replace, _resize, _move, _mirror, _swap, _restyle, _add_beside, _remove, _replace)
    )(rng)
    if asked is None or asked.source is None:
        return None
    things = asked.source.things
    named = [thing for thing in things if thing not in asked.target.things]
    if asked.kind == "add beside":
        named = [thing for thing in things if thing.noun == asked.origin.combinations[0][2]]
    gone = choose(rng, named)
    if len(things) > 1 and rng.random() < 0.5:
        return _unchanged(
            "not there", asked, replace(asked.source, things=tuple(t for t in things if t != gone))
        )
    present = [thing.noun for scene in (asked.source, asked.target) for thing in scene.things]
    other = replace(gone, noun=sample_nouns(rng, 1, without=present)[0])
    return _unchanged("not there", asked, put_in(asked.source, gone, other))


def _full_cell(rng: np.random.Generator) -> StorybookExample | None:
    asked = choose(rng, (_add, _add, _add, _move, _write))(rng)
    if asked is None or asked.source is None or len(asked.source.things) == MOST_THINGS:
        return None
    claim = asked.claim.claim if isinstance(asked.claim, EditClaim) else asked.claim
    if asked.kind == "write":
        cells = [cell for cell in CELLS if cell[0] in claim.rows]
        is_placed = len(claim.rows) == 1 and asked.text.endswith(ROW_WORDS[claim.rows[0]])
    else:
        before = contents(asked.source)
        cells = [thing.cell for thing in asked.target.things if thing.cell not in before]
        is_placed = bool(asked.origin.combinations)  # an addition without a place has none
    if not is_placed:
        return None
    present = [thing.noun for thing in asked.target.things]
    taken = sample_things(rng, sample_nouns(rng, 1, without=present), [choose(rng, cells)])
    return _unchanged("full cell", asked, replace(asked.source, things=(*asked.source.things, *taken)))


def _nothing_to_change(rng: np.random.Generator) -> StorybookExample | None:
    asked = choose(rng, (None, _resize, _resize, _move, _move, _restyle, _restyle_all, _ground, _correct))
    if asked is None:
        source = sample_source(rng)
        wording = word_it(rng, _WORDINGS["leave"])
        return edit_example(
            "nothing to change", wording.text, to_edit_claim(source, source), source, is_last=wording.is_last
        )
    edit = asked(rng)
    return None if edit is None else _unchanged("nothing to change", edit, edit.target)


_SAMPLERS: dict[str, Callable[[np.random.Generator], StorybookExample | None]] = {
    "replace": _replace,
    "remove": _remove,
    "add": _add,
    "add beside": _add_beside,
    "move": _move,
    "swap": _swap,
    "resize": _resize,
    "mirror": _mirror,
    "restyle": _restyle,
    "restyle all": _restyle_all,
    "change ground": _ground,
    "write": _write,
    "erase": _erase,
    "correct": _correct,
    "not there": _not_there,
    "full cell": _full_cell,
    "nothing to change": _nothing_to_change,
}


def trained_wordings(kind: str) -> tuple[str, ...]:
    """The wordings of an edit that training draws."""
    return _WORDINGS[kind][:-1]
