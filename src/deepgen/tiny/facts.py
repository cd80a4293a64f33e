"""The facts file: what the world knows of its nouns, and the riddles that are made of it.

A fact is a relation with a value ("says" "meow") and the set of nouns that it is true of. A riddle is a fact
in one of the relation's four wordings; any noun it fits is a right answer. Nouns of the file that the world
does not draw are left out on loading, so a shorter list of nouns needs no new file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from deepgen.tiny.language import plural, said
from deepgen.tiny.nouns import NOUNS

NUM_WORDINGS = 4  # the last one is never trained
_FEWEST_FACTS = 4
_FEWEST_MEMBERS = 3


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What is true of `nouns` and of no other noun."""

    relation: str
    value: str
    nouns: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name of the fact, as splits and reports use it."""
        return f"{self.relation} {self.value}"


@dataclass(frozen=True, kw_only=True)
class Riddle:
    """A fact in words, and every noun it fits."""

    text: str
    fact: Fact
    wording: int
    category: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The whole file, of the nouns that the world draws."""

    categories: Mapping[str, tuple[str, ...]]
    category_plurals: Mapping[str, str]
    colours: Mapping[str, tuple[str, ...]]
    wordings: Mapping[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    legs: Mapping[str, int]
    wheels: Mapping[str, int]
    size_ranks: Mapping[str, int]
    feed: Mapping[str, str]
    together: tuple[tuple[str, str], ...]
    opposites: tuple[tuple[str, str], ...]
    numbers: Mapping[int, str]
    words: tuple[str, ...]
    _of_noun: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)

    def of(self, noun: str) -> tuple[Fact, ...]:
        """The facts that are true of a noun."""
        return self._of_noun[noun]

    def category_of(self, noun: str) -> str:
        """The first category that holds the noun."""
        return next(name for name, members in self.categories.items() if noun in members)

    def riddle(self, fact: Fact, noun: str, wording: int) -> Riddle:
        """A fact about `noun` in one of the four wordings; naming the category narrows the answers."""
        category = self.category_of(noun)
        template = self.wordings[fact.relation][wording]
        answers = fact.nouns
        if "{kind}" in template:
            answers = tuple(other for other in answers if other in self.categories[category])
        text = template.replace("{kind}", category).replace("{value}", fact.value)
        return Riddle(text=text, fact=fact, wording=wording, category=category, answers=answers)


@cache
def load_facts(nouns: Sequence[str] = NOUNS) -> Facts:
    """The facts of the package, of these nouns (a tuple). A ValueError says what is wrong with the file."""
    text = files("deepgen.tiny").joinpath("facts.json").read_text(encoding="utf-8")
    return parse_facts(json.loads(text), nouns)


def parse_facts(values: Mapping[str, Any], nouns: Sequence[str]) -> Facts:
    """Facts from the file's values, checked. A ValueError names the first fault."""
    declared = {noun for category in values["categories"].values() for noun in category["nouns"].split()}
    missing = [noun for noun in nouns if noun not in declared]
    if missing:
        raise ValueError(f"the facts file puts {missing[0]!r} in no category; add it to one")
    # Of the file itself: a shorter list of nouns may leave a category with fewer.
    for name, category in values["categories"].items():
        if len(category["nouns"].split()) < _FEWEST_MEMBERS:
            raise ValueError(
                f"category {name!r} needs at least {_FEWEST_MEMBERS} nouns, got {category['nouns']!r}"
            )

    def known(names: str, where: str) -> tuple[str, ...]:
        unknown = [name for name in names.split() if name not in declared]
        if unknown:
            raise ValueError(f"the facts file names {unknown[0]!r} at {where!r}, which is in no category")
        return tuple(name for name in names.split() if name in nouns)

    def known_map(entries: Mapping[str, str], where: str) -> dict[str, tuple[str, ...]]:
        found = {key: known(names, f"{where} {key}") for key, names in entries.items()}
        return {key: names for key, names in found.items() if names}

    categories = known_map({key: value["nouns"] for key, value in values["categories"].items()}, "categories")
    facts = tuple(
        Fact(relation=relation, value=value, nouns=names)
        for relation, entry in values["relations"].items()
        for value, names in known_map(entry["values"], relation).items()
    )
    ranks = [known(names, "by size") for names in values["by size"]]
    feed = {known(k, "feed"): known(v, "feed") for k, v in values["feed"].items()}
    loaded = Facts(
        categories=categories,
        category_plurals={key: value["many"] for key, value in values["categories"].items()},
        colours=known_map(values["colours"], "colours"),
        wordings={key: tuple(entry["wordings"]) for key, entry in values["relations"].items()},
        facts=facts,
        legs=_numbers(known_map(values["legs"], "legs")),
        wheels=_numbers(known_map(values["wheels"], "wheels")),
        size_ranks={noun: rank for rank, names in enumerate(ranks) for noun in names},
        feed={animal[0]: food[0] for animal, food in feed.items() if animal and food},
        together=tuple(
            (a, b) for a, b in values["together"] if known(a, "together") and known(b, "together")
        ),
        opposites=tuple((a, b) for a, b in values["opposites"]),
        numbers={int(key): value for key, value in values["numbers"].items()},
        words=tuple(values["words"].split()),
        _of_noun={noun: tuple(fact for fact in facts if noun in fact.nouns) for noun in nouns},
    )
    check_facts(loaded, nouns)
    return loaded


def _numbers(entries: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return {noun: int(number) for number, names in entries.items() for noun in names}


def check_facts(facts: Facts, nouns: Sequence[str]) -> None:
    """A ValueError unless the rules of the file hold (four wordings, four facts, no leak, short words)."""
    for relation, wordings in facts.wordings.items():
        if len(set(wordings)) != NUM_WORDINGS or not all("{value}" in text for text in wordings):
            raise ValueError(
                f"{relation!r} needs {NUM_WORDINGS} different wordings with {{value}}, got {wordings}"
            )
    for noun in nouns:
        if len(facts.of(noun)) < _FEWEST_FACTS:
            raise ValueError(f"{noun!r} needs at least {_FEWEST_FACTS} facts, got {len(facts.of(noun))}")
        own_name = re.compile(rf"\b({re.escape(said(noun))}|{re.escape(plural(noun))})\b")
        for fact in facts.of(noun):
            for wording in range(NUM_WORDINGS):
                text = facts.riddle(fact, noun, wording).text
                if own_name.search(text):
                    raise ValueError(f"the riddle {text!r} says its answer, {noun!r}")
    short = [word for pair in facts.opposites for word in pair] + [*facts.numbers.values(), *facts.words]
    wrong = [word for word in short if not re.fullmatch("[A-Z]{1,4}", word)]
    if wrong:
        raise ValueError(f"words have one to four capitals, got {wrong[0]!r}")
