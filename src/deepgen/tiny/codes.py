"""A fixed code of a prompt's meaning: the stand-in for the condition of a pretrained text encoder.

A text path from nothing learns to bind words to things far too slowly from the flow loss alone. So the two
halves of the model are first trained apart, against one code fixed in advance: the DiT learns to draw from
it, VLM and connector learn to write it at the think tokens. Each think token is a slot; its code is a sum of
orthogonal directions, one for each attribute, so any set of attributes can be read back without confusion.

| slot | picture from text | edit |
|---|---|---|
| 0 | task, ground, number of things | task, new ground or style of all, number of new things |
| 1 to 4 | the things, as stated | the things named, then the new ones or what the named one becomes; \
of an edit that draws all things anew, all of them and where they stand |
| 5 to 8 | letters, with the length of the word and its row if stated | the same |
| 9 | relation | kind of edit |

Reasoning needs no code of its own: a riddle has the code of its answer, of several right answers the first.
What an edit's picture shows ("the smallest", "continue the row") the code does not say: the DiT sees it in
its reference. Only what takes knowledge ("the odd one out", "name it") is written out, and what a DiT of this
size does not recognise in latents: one named thing it drew in the other style in 0.71 of the cases, all
things, unnamed, in 0.06; on a new ground it blended those of several cells. So an instruction that the
picture does not allow (a cat in a cell that is taken) has the code of what is asked, and the DiT, which sees
the picture, leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from string import ascii_uppercase
from typing import Any

import numpy as np

from deepgen.tiny.claims import CELLS, RELATIONS, Claim, EditClaim, ThingClaim, contents
from deepgen.tiny.edits import BAD_EDIT_KINDS, EDIT_KINDS
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.language import ROW_WORDS
from deepgen.tiny.mentions import name_things
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.scene import (
    GROUNDS,
    MOST_LETTERS,
    MOST_THINGS,
    ROWS,
    SIZES,
    STYLES,
    Cell,
    Scene,
    Thing,
)

NUM_SLOTS = 10
WIDTH = 256
_POOLED_SCALE = 2.0
_FIRST_THING, _FIRST_LETTER, _LAST = 1, 5, 9
# Edits that the DiT does as a whole from its reference, whether or not a noun is named with them.
SEEN_KINDS = ("mirror scene", "match rows", "grow smallest", "smallest left", "continue", "name", "night")
_KINDS = (*EDIT_KINDS, *SEEN_KINDS, "nothing")
_SAME_AS = {
    "odd one out": "remove",
    "complete": "add",
    "rain": "add",
    "together": "add",
    "feed": "add beside",
    "opposite": "correct",
    **dict.fromkeys(BAD_EDIT_KINDS, "nothing"),
}
# What of a thing a kind of edit changes; of new things the code says what the claim states.
_BECOMES = {"replace": "noun", "resize": "size", "restyle": "style", "move": "cell"}
_LISTED = ("restyle all", "mirror scene", "change ground", "night")
_NAMED = frozenset({
    "replace", "remove", "add beside", "move", "swap", "resize", "mirror", "restyle", "name",
})  # fmt: skip

Attribute = tuple[str, object]
_GROUPS: dict[str, Sequence[object]] = {
    "task": ("generate", "edit"),
    "slot": range(1, NUM_SLOTS),
    "role": ("named", "new"),
    "noun": NOUNS,
    "style": STYLES,
    "size": SIZES,
    "facing": ("left", "right"),
    "cell": CELLS,
    "ground": GROUNDS,
    "count": range(1, MOST_THINGS + 1),
    "letter": ascii_uppercase,
    "length": range(1, MOST_LETTERS + 1),
    "row": range(ROWS),
    "relation": tuple(RELATIONS),
    "edit": _KINDS,
}


@cache
def attributes() -> dict[Attribute, int]:
    """The number of every attribute value, which is its row in `directions`."""
    names = [(group, value) for group, values in _GROUPS.items() for value in values]
    return {name: index for index, name in enumerate(names)}


@cache
def directions() -> np.ndarray:
    """The direction of every attribute value: orthogonal float32 rows (values, WIDTH) of plus and minus 1/2.

    The same on every machine. Do not write to it.
    """
    rows = np.array([[1.0]])  # Sylvester's Hadamard matrix: exact in any precision
    while len(rows) < WIDTH:
        rows = np.block([[rows, rows], [rows, -rows]])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], WIDTH)
    return (rows[1 : len(attributes()) + 1] * signs / 2).astype(np.float32)


Written = list[tuple[int, int]]  # (slot, attribute number): a code with nothing but what is in it


def write_code(example: StorybookExample) -> Written:
    """What the think tokens should say of an example, as pairs of slot and attribute number."""
    claim = example.claim
    if isinstance(claim, Claim):
        return claim_code(claim)
    return _edit_code(example, claim) if example.as_if is None else write_code(example.as_if)


def empty_code(task: str) -> Written:
    """The code of an empty prompt: only the task, "generate" or "edit"."""
    return _numbers(0, ("task", task))


def to_array(codes: Sequence[Written]) -> np.ndarray:
    """Codes as the DiT reads them: float32 (N, NUM_SLOTS, WIDTH)."""
    array = np.zeros((len(codes), NUM_SLOTS, WIDTH), np.float32)
    flat = [(row, slot, value) for row, code in enumerate(codes) for slot, value in code]
    if flat:
        rows, slots, values = np.array(flat).T
        np.add.at(array, (rows, slots), directions()[values])
    return array


def pooled_code(codes: Any) -> Any:
    """The pooled condition that goes with codes (..., NUM_SLOTS, WIDTH): their scaled mean, (..., WIDTH).

    An array or a tensor.
    """
    return _POOLED_SCALE * codes.mean(-2)


def cell_codes(scene: Scene) -> np.ndarray:
    """What is in each cell, and where that is: float32 (9, WIDTH). Of an empty cell only where it is.

    Image tokens get their place here because Qwen2.5-VL marks it by rotary phase alone, so that values
    that are attended to would carry none.
    """
    things, word = contents(scene), scene.word
    letters: dict[Cell, str] = {}
    if word is not None and len(word.text) <= 3:  # four letters straddle the cells
        columns = _columns(word.text)
        letters = {(word.row, column): letter for column, letter in zip(columns, word.text, strict=True)}
    table, numbers = directions(), attributes()
    codes = np.zeros((len(CELLS), WIDTH), np.float32)
    for index, cell in enumerate(CELLS):
        said: list[Attribute] = [("cell", cell)]
        if cell in things:
            thing = things[cell]
            said += [
                ("noun", thing.noun),
                ("style", thing.style),
                ("size", thing.size),
                ("facing", thing.facing),
            ]
        elif cell in letters:
            said.append(("letter", letters[cell]))
        codes[index] = table[[numbers[name] for name in said]].sum(0)
    return codes


def _columns(text: str) -> range:
    """Cells that the letters of a word lie in for the greater part; 24 pixels a letter, centred."""
    return {1: range(1, 2), 2: range(2), 3: range(3)}[len(text)]


def _numbers(slot: int, *said: Attribute) -> Written:
    table = attributes()
    return [(slot, table[name]) for name in said if name[1] is not None]


def _single(values: Sequence[object]) -> object | None:
    return values[0] if len(values) == 1 else None


def claim_code(claim: Claim) -> Written:
    """The code of what a caption states."""
    code = empty_code("generate") + _numbers(0, ("ground", claim.ground))
    if claim.things:
        code += _numbers(0, ("count", len(claim.things)))
    for slot, stated in enumerate(claim.things, start=_FIRST_THING):
        code += _thing(slot, stated)
    if claim.words:
        code += _word(claim.words[0], _single(claim.rows))
    if claim.relation is not None:
        code += _numbers(_LAST, ("slot", _LAST), ("relation", claim.relation))
    return code


def _thing(slot: int, stated: ThingClaim, role: str | None = None) -> Written:
    noun = stated.nouns[0] if stated.nouns else None
    return _numbers(
        slot,
        ("slot", slot),
        ("role", role),
        ("noun", noun),
        ("style", stated.style),
        ("size", stated.size),
        ("cell", _single(stated.cells)),
    )


def _word(text: str, row: object | None) -> Written:
    code: Written = []
    for slot, letter in enumerate(text, start=_FIRST_LETTER):
        code += _numbers(slot, ("slot", slot), ("letter", letter), ("length", len(text)), ("row", row))
    return code


def _edit_code(example: StorybookExample, edit: EditClaim) -> Written:
    kind = _SAME_AS.get(example.kind, example.kind)
    source, target = edit.source, example.target
    code = empty_code("edit") + _numbers(_LAST, ("slot", _LAST), ("edit", kind))
    if kind == "nothing":
        return code
    named = _named(example, source, target) if kind in _NAMED or example.kind == "feed" else []
    slot = _FIRST_THING
    if kind in _LISTED:
        for place, thing in enumerate(sorted(source.things, key=lambda thing: thing.cell), start=slot):
            code += _thing(place, ThingClaim(nouns=(thing.noun,), cells=(thing.cell,)), "named")
    for thing in named:
        code += _thing(slot, ThingClaim(nouns=(thing.noun,)), "named")
        slot += 1
    if kind in _BECOMES:
        after = next(thing for thing in target.things if thing not in source.things)
        becomes = {
            "replace": ThingClaim(nouns=(after.noun,)),
            "resize": ThingClaim(size=after.size),
            "restyle": ThingClaim(style=after.style),
            "move": ThingClaim(cells=(after.cell,)),
        }[kind]
        code += _thing(slot, becomes, "new")
    elif kind in ("add", "add beside"):
        code += _new_things(kind, slot, source, target, edit.claim)
    elif kind in ("change ground", "night"):
        code += _numbers(0, ("ground", target.ground))
    elif kind == "restyle all":
        code += _numbers(0, ("style", target.things[0].style))
    elif kind in ("write", "correct", "name") and target.word is not None:
        row = target.word.row if kind == "write" else None
        is_said = row is not None and example.text.endswith(ROW_WORDS[row])
        code += _word(target.word.text, row if is_said else None)
    return code


def _new_things(kind: str, slot: int, source: Scene, target: Scene, claim: Claim) -> Written:
    before = contents(source)
    new = [
        stated for thing, stated in zip(target.things, claim.things, strict=True) if thing.cell not in before
    ]
    code = _numbers(0, ("count", len(new)))
    for place, stated in enumerate(new, start=slot):
        # Beside another thing the DiT sees where; else the code says what the claim does.
        said = stated if kind == "add" else ThingClaim(nouns=stated.nouns)
        code += _thing(place, said, "new")
    return code


def _named(example: StorybookExample, source: Scene, target: Scene) -> list[Thing]:
    """The things of the source that the instruction is about, in the order in which it names them."""
    if example.kind == "name":
        return [source.things[0]]
    if example.kind in ("add beside", "feed"):
        return [example_anchor(example)]
    after = contents(target)
    changed = [thing for thing in source.things if after.get(thing.cell) != thing]
    named = [noun for mention in name_things(example.text).mentions for noun in mention.nouns]
    return sorted(changed, key=lambda thing: [*named, *NOUNS].index(thing.noun))


def example_anchor(example: StorybookExample) -> Thing:
    """The thing beside which an edit adds: the one whose neighbours are the free claim's cells."""
    claim = example.claim
    if not isinstance(claim, EditClaim):
        raise ValueError("only an edit adds beside a thing")
    noun = (
        example.origin.combinations[0][2]
        if example.kind == "add beside"
        else example.origin.combinations[0][1]
    )
    return next(thing for thing in claim.source.things if thing.noun == noun)
