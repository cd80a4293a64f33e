"""Reasoning edits, whose target follows only from the picture or from the world's facts.

Each comes down to the claim of an ordinary edit, so it is judged like one; `direct` is the instruction that
says what to do. Of the wordings of a kind the last one is never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from deepgen.tiny.claims import CELLS, ThingClaim, to_edit_claim
from deepgen.tiny.edits import add_claim, added, edit_example, neighbours, put_in, swapped
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.facts import load_facts
from deepgen.tiny.language import NUMBER_WORDS, choose, noun_phrase, plural, said
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.reasoning import opposite_words
from deepgen.tiny.sampling import (
    free_cells,
    is_short,
    preferred,
    sample_ground,
    sample_nouns,
    sample_source,
    sample_things,
    the,
    word_it,
)
from deepgen.tiny.scene import COLUMNS, MOST_THINGS, PLACES, ROWS, Facing, Scene, Thing, Word
from deepgen.tiny.wordings import load_wordings

_WORDINGS = load_wordings("reasoning edits")
# A world without umbrellas has nothing against rain.
REASONING_EDIT_KINDS = tuple(kind for kind in _WORDINGS if kind != "rain" or "umbrella" in NOUNS)
_OTHER_FACING: dict[Facing, Facing] = {"left": "right", "right": "left"}


def sample_reasoning_edit(rng: np.random.Generator, kind: str) -> StorybookExample:
    """An edit of that kind with its scenes, claim and direct wording. Held-out ones come too (see splits)."""
    if kind not in REASONING_EDIT_KINDS:
        raise ValueError(f"unknown reasoning edit {kind!r}; known: {', '.join(REASONING_EDIT_KINDS)}")
    while True:
        found = _SAMPLERS[kind](rng)
        if found is not None:
            return found


def _finish(
    rng: np.random.Generator,
    kind: str,
    source: Scene,
    target: Scene,
    direct: str,
    *,
    combination: tuple[str, str] | None = None,
    nouns: Sequence[str] = (),
    free: dict[tuple[int, int], ThingClaim] | None = None,
    **parts: object,
) -> StorybookExample:
    wording = word_it(rng, _WORDINGS[kind], **parts)
    return edit_example(
        kind,
        wording.text,
        to_edit_claim(source, target, free),
        target,
        is_last=wording.is_last,
        ability="reasoning edit",
        combinations=((kind, *combination),) if combination else (),
        nouns=nouns,
        direct=direct,
    )


def _finish_add(
    rng: np.random.Generator,
    kind: str,
    source: Scene,
    new: Thing,
    cells: Sequence[tuple[int, int]],
    direct: str,
    combination: tuple[str, str],
    nouns: Sequence[str] = (),
    **parts: object,
) -> StorybookExample:
    claim, target = add_claim(source, new, cells)
    edit = _finish(rng, kind, source, target, direct, combination=combination, nouns=nouns, **parts)
    return replace(edit, claim=claim)


def _odd_one_out(rng: np.random.Generator) -> StorybookExample | None:
    facts = load_facts()
    members = choose(rng, [names for names in facts.categories.values() if len(names) >= 3])
    same = sample_nouns(rng, 3, members)
    odd = choose(rng, NOUNS)
    shared = [set(names) for names in facts.categories.values()]
    if any(odd in names and len(names & set(same)) >= 2 for names in shared) or odd in members:
        return None
    things = sample_things(rng, [*same, odd])
    # One style and size, or the drawing itself would make another thing the odd one.
    things = [replace(thing, style=things[0].style, size=things[0].size) for thing in things]
    source = Scene(ground=sample_ground(rng), things=tuple(things[i] for i in rng.permutation(4)))
    target = replace(source, things=tuple(thing for thing in source.things if thing.noun != odd))
    combination = (" ".join(sorted(same)), odd)
    categories = (facts.category_of(same[0]), facts.category_of(odd))
    edit = _finish(rng, "odd one out", source, target, f"remove {the(odd)}", combination=combination)
    return replace(edit, origin=replace(edit.origin, categories=tuple(dict.fromkeys(categories))))


def _complete(rng: np.random.Generator) -> StorybookExample:
    noun = choose(rng, NOUNS)
    before = int(rng.integers(1, MOST_THINGS))
    after = int(rng.integers(before + 1, MOST_THINGS + 1))
    things = sample_things(rng, [noun] * before)
    source = Scene(ground=sample_ground(rng), things=tuple(things))
    cells = free_cells(source)
    new = [added(source, noun, cell) for cell in preferred(cells)[: after - before]]
    target = replace(source, things=(*things, *new))
    free = {thing.cell: ThingClaim(nouns=(noun,), cells=tuple(cells)) for thing in new}
    n, m = NUMBER_WORDS[before], NUMBER_WORDS[after]
    count = NUMBER_WORDS[after - before]
    direct = f"add {count} {said(noun) if after - before == 1 else plural(noun)}"
    edit = _finish(
        rng, "complete", source, target, direct, combination=(noun, f"{n} {m}"), nouns=(noun,), free=free,
        n=n, m=m, many=plural(noun),
    )  # fmt: skip
    return replace(edit, text=edit.text.replace("there are one", "there is one"))


def _match_rows(rng: np.random.Generator) -> StorybookExample:
    a, b = sample_nouns(rng, 2)
    columns = [int(c) for c in rng.permutation(COLUMNS)[:2]]
    top = sample_things(rng, [a, b], [(0, column) for column in columns])
    bottom = [replace(thing, cell=(2, thing.cell[1])) for thing in top]
    source = Scene(ground=sample_ground(rng), things=(*top, bottom[0]))
    target = replace(source, things=(*source.things, bottom[1]))
    stated = ThingClaim(nouns=(b,), cells=(bottom[1].cell,), style=bottom[1].style, size=bottom[1].size)
    direct = f"add {noun_phrase(b, (bottom[1].size,))} at the {PLACES[bottom[1].cell]}"
    return _finish(
        rng,
        "match rows",
        source,
        target,
        direct,
        combination=(b, a),
        nouns=(b,),
        free={stated.cells[0]: stated},
    )


def _mirror_scene(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, word_share=0, turned=0.5)
    things = tuple(
        replace(
            thing,
            cell=(thing.cell[0], COLUMNS - 1 - thing.cell[1]),
            facing=_OTHER_FACING[thing.facing],
        )
        for thing in source.things
    )
    if all(thing.cell[1] == 1 for thing in things):
        return None
    target = replace(source, things=things)
    moved = [thing for thing in things if thing.cell[1] != 1]
    direct = ", ".join(f"move {the(thing.noun)} to the {PLACES[thing.cell]}" for thing in moved)
    return _finish(rng, "mirror scene", source, target, f"{direct}, and turn everything around")


def _one_small(rng: np.random.Generator, number: int, cells: Sequence[tuple[int, int]] | None) -> Scene:
    """A scene whose last thing is the only small one."""
    things = sample_things(rng, sample_nouns(rng, number), cells)
    sized = [replace(thing, size="large") for thing in things[:-1]] + [replace(things[-1], size="small")]
    return Scene(ground=sample_ground(rng), things=tuple(sized))


def _smallest_left(rng: np.random.Generator) -> StorybookExample:
    number, row = int(rng.integers(2, 4)), int(rng.integers(ROWS))
    columns = sorted(int(c) for c in rng.permutation(COLUMNS)[:number])
    last = columns.pop(int(rng.integers(1, number)))
    source = _one_small(rng, number, [(row, column) for column in [*columns, last]])
    first, smallest = source.things[0], source.things[-1]
    target = swapped(source, first, smallest)
    direct = f"swap {the(first.noun)} and {the(smallest.noun)}"
    return _finish(rng, "smallest left", source, target, direct,
                   combination=(smallest.noun, first.noun), nouns=(smallest.noun,))  # fmt: skip


def _grow_smallest(rng: np.random.Generator) -> StorybookExample:
    source = _one_small(rng, int(rng.integers(2, 5)), None)
    smallest = source.things[-1]
    target = put_in(source, smallest, replace(smallest, size="large"))
    others = " ".join(sorted(thing.noun for thing in source.things[:-1]))
    direct = f"make {the(smallest.noun)} large"
    return _finish(
        rng, "grow smallest", source, target, direct,
        combination=(smallest.noun, others), nouns=(smallest.noun,),
    )  # fmt: skip


def _rain(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, most=3)
    if any(thing.noun == "umbrella" for thing in source.things):
        return None
    cells = free_cells(source)
    new = added(source, "umbrella", preferred(cells)[0])
    return _finish_add(
        rng, "rain", source, new, cells, "add an umbrella", (source.things[0].noun, source.ground)
    )


def _night(rng: np.random.Generator) -> StorybookExample | None:
    source = sample_source(rng, word_share=0)
    nouns = {thing.noun for thing in source.things}
    if rng.random() < 0.6 and "sun" in NOUNS and not nouns & {"sun", "moon"}:
        source = put_in(source, source.things[0], replace(source.things[0], noun="sun"))
    if source.ground == "night":
        return None
    things = tuple(replace(thing, noun="moon") if thing.noun == "sun" else thing for thing in source.things)
    target = replace(source, ground="night", things=things)
    free = {
        thing.cell: ThingClaim(nouns=("moon",), cells=(thing.cell,), style=thing.style, size=thing.size)
        for thing, before in zip(things, source.things, strict=True)
        if thing != before
    }
    direct = "change the background to night" + (", replace the sun with a moon" if free else "")
    return _finish(
        rng, "night", source, target, direct, combination=(source.things[-1].noun, source.ground), free=free
    )


def _feed(rng: np.random.Generator) -> StorybookExample | None:
    feed = load_facts().feed
    animal = choose(rng, list(feed))
    food = feed[animal]
    number = int(rng.integers(0, 3))
    others = sample_nouns(rng, number, without=[*feed, food])
    source = Scene(ground=sample_ground(rng), things=tuple(sample_things(rng, [animal, *others])))
    eater = source.things[0]
    cells = [cell for cell in neighbours(eater.cell) if cell in free_cells(source)]
    if not cells:
        return None
    new = added(source, food, preferred(cells)[0])
    direct = f"add {noun_phrase(food)} beside {the(animal)}"
    return _finish_add(rng, "feed", source, new, cells, direct,
                       (animal, PLACES[eater.cell]), animal=the(animal))  # fmt: skip


def _name(rng: np.random.Generator) -> StorybookExample:
    noun = choose(rng, [noun for noun in NOUNS if is_short(noun)])
    cell = choose(rng, [cell for cell in CELLS if cell[0] < ROWS - 1])
    thing = sample_things(rng, [noun], [cell])[0]
    source = Scene(ground=sample_ground(rng), things=(thing,))
    word = Word(text=noun.upper(), row=cell[0] + 1)
    target = replace(source, word=word)
    direct = f"write {word.text} under {the(noun)}"
    # Which words are drawn is held out as words; the place adds nothing to reason about.
    return _finish(rng, "name", source, target, direct, thing=the(noun))


def _continue(rng: np.random.Generator) -> StorybookExample:
    a, b = sample_nouns(rng, 2)
    pattern = choose(rng, ("aba", "aab", "abb"))
    start = int(rng.integers(ROWS - 1))
    nouns = [a if letter == "a" else b for letter in pattern]
    things = sample_things(rng, nouns, [(start, column) for column in range(COLUMNS)])
    things = [replace(thing, style=things[0].style, size=things[0].size) for thing in things]
    source = Scene(ground=sample_ground(rng), things=tuple(things))
    following = {"aba": b, "aab": a, "abb": a}[pattern]
    cell = (start + 1, 0)
    new = added(source, following, cell)
    direct = f"add {noun_phrase(following)} {_under(cell)}"
    return _finish_add(rng, "continue", source, new, [cell], direct, (f"{pattern} {a}", b), (following,))


def _under(cell: tuple[int, int]) -> str:
    name = PLACES[cell]
    return f"on the {name}" if name == "left" else f"at the {name}"


def _together(rng: np.random.Generator) -> StorybookExample:
    pair = choose(rng, load_facts().together)
    here, missing = pair if rng.random() < 0.5 else pair[::-1]
    others = sample_nouns(
        rng, int(rng.integers(0, 3)), without=[n for two in load_facts().together for n in two]
    )
    source = Scene(ground=sample_ground(rng), things=tuple(sample_things(rng, [here, *others])))
    cells = free_cells(source)
    new = added(source, missing, preferred(cells)[0])
    direct = f"add {noun_phrase(missing)}"
    return _finish_add(rng, "together", source, new, cells, direct,
                       (here, PLACES[source.things[0].cell]), thing=the(here))  # fmt: skip


def _opposite(rng: np.random.Generator) -> StorybookExample | None:
    before, after = opposite_words(rng)
    source = sample_source(rng, most=3, word_share=1)
    if source.word is None:
        return None
    source = replace(source, word=replace(source.word, text=before))
    target = replace(source, word=Word(text=after, row=source.word.row if source.word else 0))
    return _finish(rng, "opposite", source, target, f"change the word to {after}")


_SAMPLERS: dict[str, Callable[[np.random.Generator], StorybookExample | None]] = {
    "odd one out": _odd_one_out,
    "complete": _complete,
    "match rows": _match_rows,
    "mirror scene": _mirror_scene,
    "smallest left": _smallest_left,
    "grow smallest": _grow_smallest,
    "rain": _rain,
    "night": _night,
    "feed": _feed,
    "name": _name,
    "continue": _continue,
    "together": _together,
    "opposite": _opposite,
}
