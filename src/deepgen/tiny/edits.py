"""Direct edits: each an instruction, the scene before, a scene after, and the claim on it.

What an instruction leaves open ("add a cat") the claim leaves open too. An instruction that cannot be
followed (it names what is not there, adds to a full cell, or changes nothing) has the source as its target.
Of the wordings of a kind the last one is never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_uppercase

import numpy as np

from deepgen.tiny.claims import CELLS, EditClaim, ThingClaim, thing_claim, to_edit_claim
from deepgen.tiny.example import Ability, Origin, StorybookExample
from deepgen.tiny.facts import load_facts
from deepgen.tiny.language import (
    SIZE_WORDS,
    STYLE_WORDS,
    choose,
    noun_phrase,
    place,
    row_place,
    spoken,
)
from deepgen.tiny.nouns import FACING_NOUNS, NOUNS
from deepgen.tiny.sampling import (
    common_style,
    dictionary,
    free_cells,
    free_rows,
    preferred,
    sample_nouns,
    sample_source,
    sample_word,
    the,
    word_it,
)
from deepgen.tiny.scene import GROUNDS, MOST_THINGS, PLACES, Cell, Facing, Scene, Size, Thing, Word

_WORDINGS: dict[str, tuple[str, ...]] = {
    "replace": ("replace {old} with {new}", "turn {old} into {new}", "change {old} to {new}",
                "put {new} in place of {old}", "swap out {old} for {new}"),
    "remove": ("remove {old}", "delete {old}", "take {old} away", "take away {old}", "get rid of {old}"),
    "add": ("add {new} {where}", "put {new} {where}", "add {new}", "place {new} {where}",
            "include {new} {where}"),
    "add beside": ("add {new} beside {old}", "put {new} next to {old}", "add {new} next to {old}",
                   "place {new} beside {old}", "{old} gets {new} beside it"),
    "move": ("move {old} to {to}", "put {old} {where}", "bring {old} to {to}", "shift {old} to {to}",
             "{old} should move to {to}"),
    "swap": ("swap {old} and {other}", "exchange {old} and {other}", "let {old} and {other} change places",
             "swap the places of {old} and {other}", "{old} and {other} should change places"),
    "resize": ("make {old} {size}", "make {old} {comparative}", "resize {old} to {size}", "turn {old} {size}",
               "{old} should be {size}"),
    "mirror": ("mirror {old}", "flip {old}", "turn {old} around", "let {old} look the other way",
               "{old} should look the other way"),
    "restyle": ("make {old} {style}", "draw {old} in {style} style", "turn {old} {style}",
                "change {old} to {style} style", "{old} should be {style}"),
    "restyle all": ("make everything {style}", "draw everything in {style} style", "turn all things {style}",
                    "change everything to {style} style", "all things should be {style}"),
    "change ground": ("change the background to {ground}", "make the background {ground}",
               "turn the background {ground}",
               "set the background to {ground}", "the background should be {ground}"),
    "write": ("write {word} {row}", 'write "{word}" {row}', "add the word {word} {row}", "write {word}",
              'put the word "{word}" {row}'),
    "erase": ("erase the word", "remove the word", "delete the word {word}", "erase {word}",
              "get rid of the word {word}"),
    "correct": ("correct the word to {word}", "change the word to {word}", "the word should be {word}",
                "replace {wrong} with {word}", "fix the word, it should say {word}"),
}  # fmt: skip
EDIT_KINDS = tuple(_WORDINGS)
BAD_EDIT_KINDS = ("not there", "full cell", "nothing to change")
_COMPARATIVES: dict[Size, str] = {"small": "smaller", "large": "bigger"}
_OTHER_SIZE: dict[Size, Size] = {"small": "large", "large": "small"}
_OTHER_FACING: dict[Facing, Facing] = {"left": "right", "right": "left"}


def sample_edit(rng: np.random.Generator, kind: str) -> StorybookExample:
    """An edit of that kind, one of `EDIT_KINDS` or `BAD_EDIT_KINDS`. Held-out ones come too (see splits)."""
    samplers = {**_SAMPLERS, **{bad: _bad(bad) for bad in BAD_EDIT_KINDS}}
    if kind not in samplers:
        raise ValueError(f"unknown edit kind {kind!r}; known: {', '.join(samplers)}")
    while True:
        found = samplers[kind](rng)
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
    source = sample_source(rng)
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


def _bad(kind: str) -> Callable[[np.random.Generator], StorybookExample | None]:
    def sample(rng: np.random.Generator) -> StorybookExample | None:
        source = sample_source(rng)
        thing, named = _pick(rng, source)
        absent = sample_nouns(rng, 1, without=[thing.noun for thing in source.things])[0]
        old = the(spoken(rng, absent))
        new = noun_phrase(spoken(rng, choose(rng, NOUNS)))
        where, to = place(rng, thing.cell), to_place(rng, thing.cell)
        size = choose(rng, SIZE_WORDS[thing.size])
        style = choose(rng, STYLE_WORDS[thing.style])
        if kind == "not there":
            asked = choose(rng, ("remove", "replace", "resize", "move", "mirror"))
        elif kind == "full cell":
            if len(source.things) == MOST_THINGS:
                return None
            asked, new = "full", noun_phrase(spoken(rng, absent))
        else:
            asked, old = choose(rng, ("size", "move", "style", "same")), named
        templates = {
            "full": (
                "add {new} {where}",
                "put {new} {where}",
                "place {new} {where}",
                "include {new} {where}",
            ),
            "size": (
                "make {old} {size}",
                "resize {old} to {size}",
                "turn {old} {size}",
                "{old} should be {size}",
            ),
            "style": ("make {old} {style}", "draw {old} in {style} style", "{old} should be {style}"),
            "same": ("change nothing", "leave it as it is", "do nothing", "keep everything as it is"),
        }.get(asked) or _WORDINGS[asked]
        wording = word_it(rng, templates, old=old, new=new, where=where, to=to, size=size, style=style,
                          comparative=choose(rng, ("bigger",
            "smaller")) if kind == "not there" else "")  # fmt: skip
        return edit_example(
            kind, wording.text, to_edit_claim(source, source), source, is_last=wording.is_last
        )

    return sample


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
}


def trained_wordings(kind: str) -> tuple[str, ...]:
    """The wordings of an edit that training draws."""
    return _WORDINGS[kind][:-1]


def template_texts() -> list[str]:
    """Every wording, for those who need to know which words are used."""
    return [text for texts in _WORDINGS.values() for text in texts]
