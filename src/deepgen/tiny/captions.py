"""Captions that say what is in a picture: eleven kinds, each with its claim and a scene that fulfils it.

Of the wordings of a kind the last one is never trained.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepgen.tiny.claims import RELATIONS, Claim, ThingClaim, related
from deepgen.tiny.example import Origin, StorybookExample
from deepgen.tiny.language import (
    ALWAYS_PLURAL,
    GROUND_WORDS,
    NUMBER_WORDS,
    RELATION_WORDS,
    SIZE_WORDS,
    STYLE_WORDS,
    choose,
    listed,
    noun_phrase,
    place,
    plural,
    row_place,
    spoken,
)
from deepgen.tiny.sampling import (
    CELL_ABOVE_WORD,
    RELATION_CELLS,
    ROW_BELOW_THING,
    WORD_ROW,
    plain_things,
    sample_cells,
    sample_ground,
    sample_nouns,
    sample_things,
    sample_word,
    word_it,
)
from deepgen.tiny.scene import PLACES, ROWS, SIZES, STYLES, Scene, Thing, Word
from deepgen.tiny.wordings import load_wordings

CAPTION_KINDS = (
    "single",
    "two",
    "three",
    "counting",
    "position",
    "relation",
    "size",
    "style",
    "ground",
    "all",
    "text",
    "text with a thing",
)
_OPENERS = ("", "", "", "", "a picture of ", "draw ", "please draw ", "an image of ")
_WORDINGS = load_wordings("captions")


def sample_caption(rng: np.random.Generator, kind: str) -> StorybookExample:
    """A caption of that kind, its claim, and a scene in which it holds. Held-out ones come too."""
    if kind not in CAPTION_KINDS:
        raise ValueError(f"unknown caption kind {kind!r}; known: {', '.join(CAPTION_KINDS)}")
    if kind.startswith("text"):
        return _text_caption(rng, kind)
    scene = _sample_scene(rng, kind)
    claim = _claim_about(rng, scene, kind)
    return _caption(rng, kind, scene, claim)


def _sample_scene(rng: np.random.Generator, kind: str) -> Scene:
    if kind == "counting":
        nouns = sample_nouns(rng, 1) * int(rng.integers(2, 5))
    elif kind == "all":
        nouns = sample_nouns(rng, int(rng.integers(1, 4)))
    elif kind in ("position", "ground"):
        nouns = sample_nouns(rng, 2 if rng.random() < 0.3 else 1)
    else:
        nouns = sample_nouns(rng, {"two": 2, "relation": 2, "three": 3}.get(kind, 1))
    if kind == "all":
        things = sample_things(rng, nouns)
    else:
        cells = None
        if kind == "position":
            cells = sample_cells(rng, len(nouns))
        elif kind == "relation":
            cells = RELATION_CELLS[choose(rng, tuple(RELATIONS))]
        things = plain_things(nouns, cells)
    if kind == "size":
        things = [replace(thing, size=choose(rng, SIZES)) for thing in things]
    if kind == "style":
        things = [replace(thing, style=choose(rng, STYLES)) for thing in things]
    if kind == "all":  # captions do not say which way a thing looks
        things = [replace(thing, facing="left") for thing in things]
    return Scene(ground=sample_ground(rng), things=tuple(things))


def _claim_about(rng: np.random.Generator, scene: Scene, kind: str) -> Claim:
    is_all = kind == "all"
    things = tuple(
        ThingClaim(
            nouns=(thing.noun,),
            cells=(thing.cell,) if is_all or kind == "position" else (),
            size=thing.size if is_all or kind == "size" else None,
            style=thing.style if is_all or kind == "style" else None,
        )
        for thing in scene.things
    )
    relation = None
    if kind == "relation":
        first, second = scene.things
        relation = choose(rng, [name for name in RELATIONS if related(first, second, name)])
    ground = scene.ground if is_all or kind == "ground" else None
    return Claim(things=things, relation=relation, ground=ground)


def _caption(rng: np.random.Generator, kind: str, scene: Scene, claim: Claim) -> StorybookExample:
    has_article = rng.random() < 0.8
    nouns = [spoken(rng, thing.noun) for thing in scene.things]
    bare = [noun_phrase(noun, has_article=has_article) for noun in nouns]
    full = [
        _full_phrase(rng, noun, stated, has_article) for noun, stated in zip(nouns, claim.things, strict=True)
    ]
    first = scene.things[0]
    number = len(scene.things)
    wording = word_it(
        rng,
        _WORDINGS[kind],
        list=listed(full),
        noun=noun_phrase(nouns[0], has_article=False),
        a=bare[0],
        b=bare[min(1, number - 1)],
        c=bare[min(2, number - 1)],
        number=choose(rng, (NUMBER_WORDS[number], NUMBER_WORDS[number], str(number))),
        many=plural(nouns[0]),
        relation=choose(rng, RELATION_WORDS[claim.relation]) if claim.relation else "",
        size=choose(rng, SIZE_WORDS[first.size]),
        style=choose(rng, STYLE_WORDS[first.style]),
        ground=choose(rng, GROUND_WORDS[scene.ground]),
    )
    origin = Origin(
        template=kind, combinations=_combinations(kind, scene.things, claim), is_last_wording=wording.is_last
    )
    return StorybookExample(
        ability="generation",
        kind=kind,
        text=_finished(rng, wording.text, nouns[0], has_opener=wording.text.startswith((full[0], bare[0]))),
        claim=claim,
        target=scene,
        origin=origin,
    )


def _full_phrase(rng: np.random.Generator, noun: str, stated: ThingClaim, has_article: bool) -> str:
    adjectives = []
    if stated.size is not None:
        adjectives.append(choose(rng, SIZE_WORDS[stated.size]))
    if stated.style is not None:
        adjectives.append(choose(rng, STYLE_WORDS[stated.style]))
    where = f" {place(rng, stated.cells[0])}" if stated.cells else ""
    return noun_phrase(noun, adjectives, has_article) + where


def _finished(rng: np.random.Generator, text: str, noun: str, has_opener: bool) -> str:
    """With an opener before a phrase, none before a sentence; "are" after a plural word."""
    if noun in ALWAYS_PLURAL or noun == "spectacles":
        for singular, many in (("there is", "there are"), ("that is", "that are"), (" it is ", " they are ")):
            text = text.replace(singular, many)
        text = text.replace(f"{noun} is ", f"{noun} are ").replace(f"{noun} has ", f"{noun} have ")
    is_sentence = any(f"{noun} {verb} " in text for verb in ("is", "has", "are", "have"))
    return choose(rng, _OPENERS) + text if has_opener and not is_sentence else text


def _combinations(kind: str, things: tuple[Thing, ...], claim: Claim) -> tuple[tuple[str, str, str], ...]:
    first = things[0]
    if kind == "single":
        return ()
    if kind in ("two", "three"):
        names = sorted(thing.noun for thing in things)
        return ((kind, names[0], " ".join(names[1:])),)
    if kind == "counting":
        return ((kind, first.noun, str(len(things))),)
    if kind == "relation":
        return ((kind, first.noun, f"{claim.relation} {things[1].noun}"),)
    found = []
    for thing, stated in zip(things, claim.things, strict=True):
        found += [("position", thing.noun, PLACES[cell]) for cell in stated.cells]
        found += [("size", thing.noun, stated.size)] if stated.size and kind == "size" else []
        found += [("style", thing.noun, stated.style)] if stated.style and kind == "style" else []
        found += [("ground", thing.noun, claim.ground)] if claim.ground else []
    return tuple(found)


def _text_caption(rng: np.random.Generator, kind: str) -> StorybookExample:
    things: tuple[Thing, ...] = ()
    row, has_row = WORD_ROW, False
    if kind == "text with a thing":
        row = ROW_BELOW_THING
        things = tuple(plain_things(sample_nouns(rng, 1), [CELL_ABOVE_WORD]))
    elif rng.random() < 0.5:
        row, has_row = int(rng.integers(ROWS)), True
    word = Word(text=sample_word(rng), row=row)
    scene = Scene(ground=sample_ground(rng), things=things, word=word)
    has_ground = rng.random() < 0.3
    a = noun_phrase(spoken(rng, things[0].noun)) if things else ""
    wording = word_it(rng, _WORDINGS[kind], word=word.text, a=a)
    text = wording.text + (f" {row_place(rng, word.row)}" if has_row else "")
    text += f" {choose(rng, GROUND_WORDS[scene.ground])}" if has_ground else ""
    claim = Claim(
        things=tuple(ThingClaim(nouns=(thing.noun,)) for thing in things),
        ground=scene.ground if has_ground else None,
        words=(word.text,),
        rows=(word.row,) if has_row else (),
    )
    combinations = tuple((kind, thing.noun, word.text) for thing in things)
    origin = Origin(
        template=kind, combinations=combinations, is_last_wording=wording.is_last, words=(word.text,)
    )
    return StorybookExample(ability="text", kind=kind, text=text, claim=claim, target=scene, origin=origin)


def more_texts() -> list[str]:
    """What captions say beside their wordings, for those who need to know which words are used."""
    words = (*GROUND_WORDS.values(), *SIZE_WORDS.values(), *STYLE_WORDS.values(), *RELATION_WORDS.values())
    return [text for texts in (*words, _OPENERS) for text in texts]
