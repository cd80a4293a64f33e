"""Reasoning prompts, which do not name the answer: riddles, numbers, places, order, spelling, and two steps.

Each comes down to an ordinary claim, so it is judged like any caption; `direct` asks for the same picture
without a riddle. What can be known is in the facts file and nowhere else. Of the wordings of a template the
last one is never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deepgen.tiny.claims import Claim, ThingClaim
from deepgen.tiny.example import Origin, StorybookExample
from deepgen.tiny.facts import NUM_WORDINGS, Fact, load_facts
from deepgen.tiny.language import NUMBER_WORDS, article, choose, noun_phrase, plural, said
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.sampling import (
    CELL_ABOVE_WORD,
    ROW_BELOW_THING,
    WORD_ROW,
    Wording,
    dictionary,
    is_short,
    plain_things,
    sample_cells,
    sample_ground,
    sample_nouns,
    word_it,
)
from deepgen.tiny.scene import MOST_THINGS, PLACES, Cell, Scene, Word
from deepgen.tiny.wordings import load_wordings

REASONING_KINDS = (
    "riddle",
    "category and property",
    "number",
    "place",
    "order",
    "reasoned text",
    "riddle and number",
    "riddle and place",
    "riddle and text",
)
_OPPOSITE: dict[Cell, Cell] = {
    (row, column): (2 - row, 2 - column) for row, column in PLACES if (row, column) != (1, 1)
}
# Each number template: the number it comes to by its parameter, and its wordings.
_NUMBERS: dict[str, tuple[tuple[int, ...], Callable[[int], int]]] = {
    "one more": ((1, 2, 3), lambda n: n + 1),
    "one less": ((2, 3, 4), lambda n: n - 1),
    "half": ((2, 4), lambda n: n // 2),
    "double": ((1, 2), lambda n: 2 * n),
}
_TEXTS = ("name", "opposite", "backwards", "sum", "legs")
_WORDINGS = load_wordings("reasoning")


def sample_reasoning(rng: np.random.Generator, kind: str) -> StorybookExample:
    """A prompt of that kind with its claim, a scene and the direct wording. Held-out ones come too."""
    if kind not in _SAMPLERS:
        raise ValueError(f"unknown reasoning kind {kind!r}; known: {', '.join(REASONING_KINDS)}")
    return _SAMPLERS[kind](rng, kind)


def _example(
    rng: np.random.Generator,
    kind: str,
    text: str,
    direct: str,
    *,
    is_last: bool,
    combination: tuple[str, str, str],
    template: str = "",
    answers: Sequence[str] = (),
    number: int = 0,
    cells: tuple[Cell, ...] = (),
    words: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
) -> StorybookExample:
    """The claim of `number` things of any of the answers and one of the words, and a scene for it."""
    claim = Claim(things=(ThingClaim(nouns=tuple(answers), cells=cells),) * number, words=words)
    row = ROW_BELOW_THING if number else WORD_ROW
    word = Word(text=choose(rng, words), row=row) if words else None
    nouns = [choose(rng, answers)] * number if number else []
    stood = sample_cells(rng, number, cells) if cells else [CELL_ABOVE_WORD] if word and number else None
    things = plain_things(nouns, stood) if number else []
    scene = Scene(ground=sample_ground(rng), things=tuple(things), word=word)
    origin = Origin(
        template=template or kind,
        combinations=(combination,),
        categories=categories,
        is_last_wording=is_last,
        words=words,
    )
    return StorybookExample(
        ability="reasoning", kind=kind, text=text, claim=claim, target=scene, origin=origin, direct=direct
    )


def _any_of(answers: Sequence[str]) -> str:
    return " or ".join(noun_phrase(noun) for noun in answers)


def sample_fact(rng: np.random.Generator, most_answers: int = len(NOUNS)) -> tuple[str, Fact]:
    """A noun and a fact about it, true of at most so many nouns; each noun as likely."""
    facts = load_facts()
    while True:
        noun = choose(rng, NOUNS)
        found = [fact for fact in facts.of(noun) if len(fact.nouns) <= most_answers]
        if found:
            return noun, choose(rng, found)


def _riddle(rng: np.random.Generator, kind: str) -> StorybookExample:
    noun, fact = sample_fact(rng)
    riddle = load_facts().riddle(fact, noun, int(rng.integers(NUM_WORDINGS)))
    return _example(
        rng,
        kind,
        riddle.text,
        _any_of(riddle.answers),
        is_last=riddle.wording == NUM_WORDINGS - 1,
        combination=(f"{kind} {riddle.wording}", fact.key, riddle.category),
        answers=riddle.answers,
        number=1,
    )


def _property(rng: np.random.Generator, kind: str) -> StorybookExample:
    facts = load_facts()
    counted = "legs" if rng.random() < 0.3 else "colour"
    while True:
        category = choose(rng, list(facts.categories))
        members = facts.categories[category]
        if counted == "legs":
            legs = choose(rng, sorted(set(facts.legs.values())))
            answers = tuple(noun for noun in members if facts.legs.get(noun) == legs)
            name = {0: "no", 6: "six"}.get(legs) or NUMBER_WORDS[legs]
            text = word_it(
                rng, _WORDINGS["legs"], kind=article(category), short=category, number=name, parts="legs"
            )
        else:
            name = choose(rng, list(facts.colours))
            answers = tuple(noun for noun in members if noun in facts.colours[name])
            text = word_it(rng, _WORDINGS["colour"], kind=article(category), colour=name)
        if answers:
            break
    return _example(
        rng,
        kind,
        text.text,
        _any_of(answers),
        is_last=text.is_last,
        combination=(f"{kind} {counted}", category, name),
        answers=answers,
        number=1,
    )


def _amount(noun: str, number: int) -> str:
    return f"{NUMBER_WORDS[number]} {said(noun) if number == 1 else plural(noun)}"


def _number(rng: np.random.Generator, kind: str) -> StorybookExample:
    facts = load_facts()
    noun = choose(rng, NOUNS)
    if rng.random() < 0.4:
        parts, owners = choose(rng, [("legs", facts.legs), ("wheels", facts.wheels)])
        owner = choose(rng, [name for name, n in owners.items() if 0 < n <= MOST_THINGS and name != noun])
        number, template, argument = owners[owner], f"as many {parts}", owner
        text = word_it(rng, _WORDINGS["as many"], many=plural(noun), owner=noun_phrase(owner), parts=parts)
    else:
        template = choose(rng, list(_NUMBERS))
        options, result = _NUMBERS[template]
        n = choose(rng, options)
        number, argument = result(n), str(n)
        some = said(noun) if n == 1 else plural(noun)
        text = word_it(
            rng,
            _WORDINGS[f"number {template}"],
            n=NUMBER_WORDS[n],
            one=said(noun),
            many=plural(noun),
            some=some,
        )
    return _example(
        rng,
        kind,
        text.text,
        _amount(noun, number),
        is_last=text.is_last,
        template=f"number {template}",
        combination=(f"number {template}", noun, argument),
        categories=(facts.category_of(noun),),
        answers=(noun,),
        number=number,
    )


def _place(rng: np.random.Generator, kind: str) -> StorybookExample:
    noun, start = choose(rng, NOUNS), choose(rng, list(_OPPOSITE))
    cell = _OPPOSITE[start]
    text = word_it(rng, _WORDINGS["place"], a=noun_phrase(noun), place=PLACES[start])
    return _example(
        rng,
        kind,
        text.text,
        f"{noun_phrase(noun)} at the {PLACES[cell]}",
        is_last=text.is_last,
        combination=(kind, noun, PLACES[start]),
        categories=(load_facts().category_of(noun),),
        answers=(noun,),
        number=1,
        cells=(cell,),
    )


def _order(rng: np.random.Generator, kind: str) -> StorybookExample:
    facts = load_facts()
    if rng.random() < 0.5:
        ranks = facts.size_ranks
        a, b = sample_nouns(rng, 2, sorted(ranks))
        while ranks[a] == ranks[b]:
            a, b = sample_nouns(rng, 2, sorted(ranks))
        bigger = choose(rng, ("bigger", "smaller"))
        answer = a if (ranks[a] > ranks[b]) == (bigger == "bigger") else b
        text = word_it(rng, _WORDINGS["order size"], bigger=bigger, a=said(a), b=said(b))
        names = sorted((a, b))
        # Only animals have a size, so there is no crossing to hold out.
        template, combination, categories = "order size", ("order size", names[0], names[1]), ()
    else:
        a, b = sample_nouns(rng, 2)
        pattern, answer = choose(rng, [("abab", a), ("ababa", b), ("aabaa", b), ("abbabb", a), ("aba", b)])
        row = " ".join(said(a if letter == "a" else b) for letter in pattern)
        text = word_it(rng, _WORDINGS["order sequence"], row=row)
        template, combination = "order sequence", (f"order {pattern}", a, b)
        categories = (facts.category_of(answer),)
    return _example(
        rng,
        kind,
        text.text,
        noun_phrase(answer),
        is_last=text.is_last,
        template=template,
        combination=combination,
        categories=categories,
        answers=(answer,),
        number=1,
    )


def _number_word(rng: np.random.Generator) -> tuple[Wording, str, str]:
    numbers = load_facts().numbers
    total = choose(rng, sorted(numbers))
    a = int(rng.integers(total + 1))
    return word_it(rng, _WORDINGS["text sum"], a=a, b=total - a), f"{a} + {total - a}", numbers[total]


def _text(rng: np.random.Generator, kind: str) -> StorybookExample:
    facts = load_facts()
    template = choose(rng, _TEXTS)
    if template == "name":
        while True:
            noun, fact = sample_fact(rng)
            riddle = facts.riddle(fact, noun, 0)
            if all(is_short(answer) for answer in riddle.answers):
                break
        text = word_it(rng, _WORDINGS[f"text {template}"], riddle=riddle.text)
        argument, words = fact.key, tuple(answer.upper() for answer in riddle.answers)
    elif template == "opposite":
        argument, word = opposite_words(rng)
        text, words = word_it(rng, _WORDINGS[f"text {template}"], word=argument), (word,)
    elif template == "backwards":
        argument = choose(rng, [word for word in dictionary() if len(word) > 1])
        text, words = word_it(rng, _WORDINGS[f"text {template}"], word=argument), (argument[::-1],)
    elif template == "sum":
        text, argument, word = _number_word(rng)
        words = (word,)
    else:
        argument = choose(rng, [noun for noun, legs in facts.legs.items() if legs in facts.numbers])
        text = word_it(rng, _WORDINGS[f"text {template}"], owner=noun_phrase(argument))
        words = (facts.numbers[facts.legs[argument]],)
    return _example(
        rng,
        kind,
        text.text,
        f"the word {' or '.join(words)}",
        is_last=text.is_last,
        template=f"text {template}",
        combination=(f"text {template}", argument, ""),
        words=words,
    )


def opposite_words(rng: np.random.Generator) -> tuple[str, str]:
    """A word and its opposite, in either order, of words that have one opposite only."""
    pairs = load_facts().opposites
    told = [word for pair in pairs for word in pair]
    first, second = choose(rng, [pair for pair in pairs if all(told.count(word) == 1 for word in pair)])
    return (first, second) if rng.random() < 0.5 else (second, first)


def _two_steps(rng: np.random.Generator, kind: str) -> StorybookExample:
    noun, fact = sample_fact(rng)
    riddle = load_facts().riddle(fact, noun, 0)
    answer = _any_of(riddle.answers)
    if kind == "riddle and number":
        number = int(rng.integers(2, MOST_THINGS + 1))
        text = word_it(rng, _WORDINGS[kind], riddle=riddle.text, number=NUMBER_WORDS[number])
        direct = " or ".join(_amount(other, number) for other in riddle.answers)
        argument, cells, words = str(number), (), ()
    elif kind == "riddle and place":
        start = choose(rng, list(_OPPOSITE))
        cells = (_OPPOSITE[start],)
        text = word_it(rng, _WORDINGS[kind], riddle=riddle.text, place=PLACES[start])
        number, argument, words, direct = 1, PLACES[start], (), f"{answer} at the {PLACES[cells[0]]}"
    else:
        argument, word = opposite_words(rng)
        text = word_it(rng, _WORDINGS[kind], riddle=riddle.text, word=argument)
        number, cells, words, direct = 1, (), (word,), f"{answer} and the word {word}"
    return _example(
        rng,
        kind,
        text.text,
        direct,
        is_last=text.is_last,
        combination=(kind, fact.key, argument),
        categories=(riddle.category,),
        answers=riddle.answers,
        number=number,
        cells=cells,
        words=words,
    )


_SAMPLERS: dict[str, Callable[[np.random.Generator, str], StorybookExample]] = {
    "riddle": _riddle,
    "category and property": _property,
    "number": _number,
    "place": _place,
    "order": _order,
    "reasoned text": _text,
    "riddle and number": _two_steps,
    "riddle and place": _two_steps,
    "riddle and text": _two_steps,
}
