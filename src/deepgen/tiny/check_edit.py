"""Instructions that a picture of the world cannot follow: they name what is not in it, add where no room is,
or change nothing.

The model is trained to leave such a picture as it is (`edits.BAD_EDIT_KINDS`). What is asked is told by
patterns over the text whose nouns are put apart; an instruction that no pattern fits raises no fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from deepgen.tiny.edits import neighbours
from deepgen.tiny.language import NUMBER_WORDS, ROW_WORDS, SIZE_WORDS, STYLE_WORDS
from deepgen.tiny.mentions import Mention, NamedText, name_things
from deepgen.tiny.nouns import FACING_NOUNS
from deepgen.tiny.sampling import free_cells, free_rows
from deepgen.tiny.scene import GROUNDS, MOST_THINGS, PLACES, Cell, Scene, Thing

Fault = tuple[Literal["not there", "full cell", "nothing to change"], str]

_OLD = r"(?:the |this |that )?<(?P<old>\d+)>"
_NEW = r"(?P<number>a |an |the |one |two |three |four )?(?P<adjectives>(?:(?!<|\*)\S+ ){0,2}?)<(?P<new>\d+)>"
_NEW_SAID = (
    rf"\b(?:add|include|insert) {_NEW}",
    rf"(?<!in )\b(?:put|place) (?!the ){_NEW}",
    rf"\b(?:replace|swap|swap out|exchange) [^,.]*?<\d+> (?:with|for|by) {_NEW}",
    rf"<\d+> should (?:become|have) {_NEW}",
    rf"\blet <\d+> have {_NEW}",
    rf"\b(?:turn|change) [^,.]*?<\d+> (?:in)?to {_NEW}",
    rf"\bput {_NEW} in place of",
)
_OLD_SAID = (
    r"\b(?:the|this|that|these|those) (?:(?!<|\*)\w+ ){0,2}?<(?P<old>\d+)>",
    r"\b(?:remove|delete|erase|replace|mirror|flip|move|shift|bring|resize|swap|exchange|take away|take out"
    r"|get rid of|swap out|turn|change|in place of) <(?P<old>\d+)>",
)
_WORD_SAID = re.compile(r"(?<!write )(?<!add )(?<!put )(?<!place )\bthe (?:word|text|sign|letters)\b")
_PLACE_NAMES = {**{name: cell for cell, name in PLACES.items()}, "center": (1, 1), "centre": (1, 1)}
_PLACE_WORDS = "|".join(sorted(_PLACE_NAMES, key=len, reverse=True))
_PLACE = rf"(?:to|in|on|at|into) (?:the )?(?P<place>{_PLACE_WORDS})\b(?! of)"
_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}
_SIZES.update(smaller="small", bigger="large", larger="large")
_STYLES = {word: style for style, words in STYLE_WORDS.items() for word in words}
_TO = r"(?: to| in| into| should be| must be| be| should get)?(?: an?| the)? "
_SIZED = re.compile(rf"{_OLD}{_TO}(?P<size>{'|'.join(sorted(_SIZES, key=len, reverse=True))})\b")
_STYLED = re.compile(
    rf"(?:{_OLD}|(?P<all>everything|all things)){_TO}(?P<style>{'|'.join(sorted(_STYLES))})\b"
)
_MOVED = re.compile(
    rf"(?:\b(?:move|shift|bring|put|place) (?:the )?<(?P<old>\d+)>"
    rf"|<(?P<mover>\d+)> (?:should move|move|must go|must stand)) {_PLACE}"
)
_ADDED = re.compile(
    rf"(?:(?<!in )\b(?:add|include|insert|put|place|draw) (?!the <\d+> (?:to|in|on|at)\b)"
    rf"|\bthere (?:should )?be (?!the <|two |three |four )){_NEW}(?! in place| where)(?: {_PLACE})?"
)
_BESIDE = re.compile(r"(?:beside|next to) (?:the )?<(\d+)>|<(\d+)> gets .* beside it")
_MIRRORED = re.compile(
    r"\b(?:mirror|flip) (?:the )?<(\d+)>|\bturn (?:the )?<(\d+)> around|<(\d+)> (?:should )?look"
)
_REPLACED = re.compile(
    rf"\b(?:replace|swap out|turn|change) {_OLD} (?:with|for|by|to|into) (?:an? |the )?<(?P<new>\d+)>"
)
_GROUND = re.compile(
    rf"\bbackground(?: to| into| should be| must be| be)?(?: an?| the)? (?P<ground>{'|'.join(GROUNDS)})\b"
)
_ROW_NAMES = {text: row for row, texts in enumerate(ROW_WORDS) for text in texts}
_WRITES = re.compile(
    r"\b(?:write(?: the word)? \*"
    r"|(?:(?:add|put|place) the (?:word|text)|put|(?<!, )it should say) \*(?!, not))"
    rf"(?: (?P<row>{'|'.join(_ROW_NAMES)}))?"
)
_ERASES = re.compile(r"\b(?:erase|delete|remove|get rid of)(?: the word| the text)? \*")
_CORRECTS = re.compile(
    r"\b(?:the word (?:to|into|should be|say)|the word is wrong, it should be|make it say|it should say"
    r"|fix \*, it should be|fix the word, it should say|fix the word:|replace \* with)"
    r" (?P<right>\*)(?! (?:at|along|in|across))"
)
_NOTHING = re.compile(
    r"(?:please )?(?:change nothing|do nothing|no changes?|(?:leave|keep) (?:it|everything|the picture)"
    r"(?: (?:as it is|as is|alone|unchanged|the same))?)"
)
_ACTIONS = re.compile(
    r"\b(?:add|include|insert|put|(?<!in )place|move|shift|bring|remove|delete|erase|take|get rid|replace"
    r"|turn|change|make|swap|exchange|mirror|flip|resize|draw|write)\b"
)
_NUMBERS = {word: number for number, word in NUMBER_WORDS.items()}


def edit_faults(text: str, source: Scene | None) -> list[Fault]:
    """(kind, what is wrong) of an instruction, in words that go on "…, so the picture should stay as it is".

    Only the first kind that is found: what is not there cannot be full. Without a source only an instruction
    that asks for nothing is a fault.
    """
    named = name_things(text)
    if _NOTHING.fullmatch(named.text.strip(" .!")):
        return [("nothing to change", "the instruction asks for no change")]
    if source is None:
        return []
    if absent := [*_absent_things(named, source), *_absent_word(named, source)]:
        return [("not there", what) for what in dict.fromkeys(absent)]
    if len(_ACTIONS.findall(named.text)) > 1:  # the first may make room for the second
        return []
    if full := next(_full(named, source), None):
        return [("full cell", full)]
    if same := next(_unchanged(named, source), None):
        return [("nothing to change", same)]
    return []


def _absent_things(named: NamedText, source: Scene) -> Iterator[str]:
    new = {int(match["new"]) for pattern in _NEW_SAID for match in re.finditer(pattern, named.text)}
    old = {int(match["old"]) for pattern in _OLD_SAID for match in re.finditer(pattern, named.text)}
    for index in sorted(old - new):
        mention = named.mentions[index]
        comes = any(set(named.mentions[i].nouns) & set(mention.nouns) for i in new if i < index)
        if not comes and not _things(mention, source):
            yield f'there is no "{mention.word}" in the picture'


def _absent_word(named: NamedText, source: Scene) -> Iterator[str]:
    if source.word is None:
        if _WORD_SAID.search(named.text) or _ERASES.search(named.text):
            yield "there is no word in the picture"
    elif _ERASES.search(named.text) and source.word.text not in named.letters:
        yield f'the word in the picture is "{source.word.text}", not "{named.letters[0]}"'


def _full(named: NamedText, source: Scene) -> Iterator[str]:
    """Places where something is to come and something stands."""
    text, taken = named.text, {thing.cell for thing in source.things}
    written = _WRITES.search(text)
    if written and not free_rows(source):
        yield "no row of the picture is free for a word"
    elif written and written["row"] and _ROW_NAMES[written["row"]] not in free_rows(source):
        yield f"there is something {written['row']} already, where the word is to stand"
    elif written and source.word is not None:
        yield "there is a word in the picture already, and it holds one"
    for match in _ADDED.finditer(text):
        number = _NUMBERS.get((match["number"] or "").strip(), 1)
        if len(source.things) + number > MOST_THINGS:
            yield f"the picture has {len(source.things)} things already, and at most {MOST_THINGS} fit"
        if match["place"] and _PLACE_NAMES[match["place"]] not in free_cells(source):
            yield f"the {match['place']} of the picture is taken already"
        if (old := _old(_BESIDE.search(text), named)) and not _room_beside(_things(old, source), source):
            yield f'there is no room beside the "{old.word}"'
    for old, cell in _moves(named):
        own = {thing.cell for thing in _things(old, source)}
        if own and cell not in own and (cell in taken or cell not in free_cells(source)):
            yield f"the {PLACES[cell]} of the picture is taken already"


def _room_beside(things: list[Thing], source: Scene) -> bool:
    free = free_cells(source)
    return any(cell in free for thing in things for cell in neighbours(thing.cell))


def _unchanged(named: NamedText, source: Scene) -> Iterator[str]:
    """What is asked for and is so already."""
    text = named.text
    for match in _SIZED.finditer(text):
        old, size = named.mentions[int(match["old"])], _SIZES[match["size"]]
        if _all(thing.size == size for thing in _things(old, source)):
            yield f'the "{old.word}" is {size} already'
    for match in _STYLED.finditer(text):
        style = _STYLES[match["style"]]
        old = None if match["all"] else named.mentions[int(match["old"])]
        if _all(thing.style == style for thing in (source.things if old is None else _things(old, source))):
            what = "everything" if old is None else f'the "{old.word}"'
            yield f"{what} is {style} already"
    for old, cell in _moves(named):
        if any(thing.cell == cell for thing in _things(old, source)):
            yield f'the "{old.word}" is at the {PLACES[cell]} already'
    old = _old(_MIRRORED.search(text), named)
    if old and _all(thing.noun not in FACING_NOUNS for thing in _things(old, source)):
        yield f'the "{old.word}" has no side that it faces in this world'
    for match in _REPLACED.finditer(text):
        old, new = named.mentions[int(match["old"])], named.mentions[int(match["new"])]
        if len(new.nouns) == 1 and _all(thing.noun in new.nouns for thing in _things(old, source)):
            yield f'the "{old.word}" is one already'
    if (ground := _GROUND.search(text)) and ground["ground"] == source.ground:
        yield f"the background is {source.ground} already"
    corrected = None if source.word is None else _CORRECTS.search(text)
    if corrected and source.word and _letters(named, corrected.start("right")) == source.word.text:
        yield f'the word is "{source.word.text}" already'


def _letters(named: NamedText, start: int) -> str:
    """What is written for the `*` at this place of the text."""
    return named.letters[named.text[:start].count("*")]


def _moves(named: NamedText) -> Iterator[tuple[Mention, Cell]]:
    for match in _MOVED.finditer(named.text):
        yield named.mentions[int(match["old"] or match["mover"])], _PLACE_NAMES[match["place"]]


def _things(mention: Mention, source: Scene) -> list[Thing]:
    return [thing for thing in source.things if thing.noun in mention.nouns]


def _all(truths: Iterator[bool]) -> bool:
    """Whether there are some and all hold."""
    found = list(truths)
    return bool(found) and all(found)


def _old(match: re.Match[str] | None, named: NamedText) -> Mention | None:
    """The first thing a match names."""
    index = None if match is None else next((group for group in match.groups() if group is not None), None)
    return None if index is None else named.mentions[int(index)]
