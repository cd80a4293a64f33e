"""The facts file: its rules hold, a fault in it is named, and a shorter list of nouns needs no new file."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import pytest

from deepgen.tiny.facts import NUM_WORDINGS, load_facts, parse_facts
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.unknown import unknown_nouns


@pytest.fixture
def values() -> dict[str, Any]:
    return json.loads(files("deepgen.tiny").joinpath("facts.json").read_text(encoding="utf-8"))


def test_every_noun_has_a_category_and_four_facts_in_four_wordings() -> None:
    facts = load_facts()
    for noun in NOUNS:
        assert noun in facts.categories[facts.category_of(noun)]
        assert len(facts.of(noun)) >= 4
        for fact in facts.of(noun):
            riddles = [facts.riddle(fact, noun, wording) for wording in range(NUM_WORDINGS)]
            assert len({riddle.text for riddle in riddles}) == NUM_WORDINGS
            assert all(noun in riddle.answers for riddle in riddles)


def test_a_riddle_fits_every_noun_the_fact_is_true_of() -> None:
    facts = load_facts()
    fact = next(fact for fact in facts.of("cow") if fact.value == "grass")
    assert facts.riddle(fact, "cow", 2).answers == ("cow", "sheep", "horse", "rabbit")
    wings = next(fact for fact in facts.of("owl") if fact.value == "wings")
    assert "airplane" in facts.riddle(wings, "owl", 2).answers  # "it has wings"
    assert "airplane" not in facts.riddle(wings, "owl", 0).answers  # "the animal that has wings"


def test_fewer_nouns_need_no_new_file() -> None:
    facts = load_facts(tuple(noun for noun in NOUNS if noun not in ("cow", "candle", "umbrella")))
    assert "cow" not in facts.legs
    assert all("cow" not in fact.nouns for fact in facts.facts)
    assert not any("candle" in pair for pair in facts.together)


def _unknown_noun(values: dict[str, Any]) -> None:
    values["relations"]["says"]["values"]["meow"] = "catt"


def _no_category(values: dict[str, Any]) -> None:
    values["categories"]["animal"]["nouns"] = values["categories"]["animal"]["nouns"].replace("panda ", "")
    for name in ("big cat or bear",):
        values["categories"][name]["nouns"] = "lion tiger bear"


def _three_wordings(values: dict[str, Any]) -> None:
    values["relations"]["eats"]["wordings"].pop()


def _says_itself(values: dict[str, Any]) -> None:
    values["relations"]["does"]["values"]["is a cow"] = "cow"


def _two_members(values: dict[str, Any]) -> None:
    values["categories"]["thing to wear"]["nouns"] = "hat glasses"
    values["categories"]["toy"] = {"many": "toys", "nouns": "crown ball gift"}


def _long_word(values: dict[str, Any]) -> None:
    values["opposites"].append(["CLOSED", "OPEN"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_unknown_noun, "names 'catt' at 'says meow'"),
        (_no_category, "'panda' in no category"),
        (_three_wordings, "'eats' needs 4 different wordings"),
        (_says_itself, "says its answer, 'cow'"),
        (_two_members, "'thing to wear' needs at least 3 nouns"),
        (_long_word, "one to four capitals, got 'CLOSED'"),
    ],
)
def test_a_fault_in_the_file_is_named(values: dict[str, Any], spoil: Any, message: str) -> None:
    wrong = copy.deepcopy(values)
    spoil(wrong)
    with pytest.raises(ValueError, match=message):
        parse_facts(wrong, NOUNS)


def test_too_few_facts_are_named(values: dict[str, Any]) -> None:
    for relation in values["relations"].values():
        entries = relation["values"].items()
        relation["values"] = {k: " ".join(n for n in v.split() if n != "sun") for k, v in entries}
    with pytest.raises(ValueError, match="'sun' needs at least 4 facts, got 0"):
        parse_facts(values, NOUNS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat and two palm trees on a meadow", []),
        ("three sheeps, cherries and glasses", []),
        ('a sign that says "HELLO" and the word GIRA', []),
        ("a bunny next to a present", []),
        ("two elefants", [("elefants", "elephant")]),
        ("a bananna left of a dragon", [("bananna", "banana"), ("dragon", "snake")]),
        ("eine Katze und zwei Hunde", [("katze", "cat"), ("hunde", "dog")]),
        ("un gato", [("gato", "cat")]),
        ("", []),
    ],
)
def test_unknown_words_come_with_the_nearest_noun(text: str, expected: list[tuple[str, str]]) -> None:
    assert unknown_nouns(text) == expected


def test_a_word_of_another_script_is_unknown_with_some_noun() -> None:
    ((word, nearest),) = unknown_nouns("кошка")
    assert word == "кошка"
    assert nearest in NOUNS
