"""English for the world: nouns in the singular and plural, synonyms, articles, places, lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.scene import PLACES, Cell

T = TypeVar("T")

ALWAYS_PLURAL = frozenset({"grapes", "cherries", "scissors", "glasses"})
_PLURALS = {
    "sheep": "sheep",
    "fish": "fish",
    "bus": "buses",
    "peach": "peaches",
    "strawberry": "strawberries",
    "butterfly": "butterflies",
    "octopus": "octopuses",
    "cactus": "cactuses",
    "bread": "breads",
    "broccoli": "broccoli",
    "corn": "ears of corn",
}
# Another word for the same thing; the noun itself stays the usual one.
SYNONYMS = {
    "rabbit": "bunny",
    "chicken": "hen",
    "airplane": "plane",
    "bicycle": "bike",
    "ladybug": "ladybird",
    "gift": "present",
    "doughnut": "donut",
    "hamburger": "burger",
    "ship": "boat",
    "car": "automobile",
    "glasses": "spectacles",
    "tree": "leafy tree",
    "hat": "top hat",
    "ball": "football",
}
NUMBER_WORDS = {0: "zero", 1: "one", 2: "two", 3: "three", 4: "four"}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
STYLE_WORDS = {"glossy": ("glossy", "shaded"), "flat": ("flat", "plain")}
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
ROW_WORDS = (("at the top", "along the top"), ("in the middle", "across the middle"), ("at the bottom",))
GROUND_WORDS = {
    "white": ("on white", "on a white background"),
    "cream": ("on cream", "on a cream background"),
    "pink": ("on pink", "on a pink background"),
    "mint": ("on mint", "on a mint background"),
    "night": ("at night", "in the dark"),
    "meadow": ("in a meadow", "on a meadow"),
    "beach": ("on a beach", "at the beach"),
    "sea": ("at sea", "on the sea"),
    "winter": ("in winter", "in the snow"),
}


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def said(noun: str) -> str:
    """The noun as one writes it: "palm tree"."""
    return noun.replace("-", " ")


def plural(noun: str) -> str:
    """The noun (or a synonym) for more than one; "sheep", "cherries", "palm trees"."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun in ALWAYS_PLURAL or noun.endswith("spectacles"):
        return noun
    word = said(noun)
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def noun_phrase(noun: str, adjectives: Sequence[str] = (), has_article: bool = True) -> str:
    """One thing: "a small cat", "small scissors" (a plural word takes no "a")."""
    word = SYNONYMS.get(noun, noun) if noun not in NOUNS else noun
    phrase = " ".join([*adjectives, said(word)])
    takes_article = has_article and noun not in ALWAYS_PLURAL and noun != "spectacles"
    return article(phrase) if takes_article else phrase


def spoken(rng: np.random.Generator, noun: str) -> str:
    """The noun, or its synonym one time in six."""
    return SYNONYMS[noun] if noun in SYNONYMS and rng.random() < 1 / 6 else noun


def place(rng: np.random.Generator, cell: Cell) -> str:
    """A cell in words: "in the top left corner", "on the right"."""
    name = PLACES[cell]
    if name == "middle":
        return choose(rng, ("in the middle", "in the center", "at the center"))
    if " " in name:
        return choose(rng, (f"at the {name}", f"in the {name} corner", f"in the {name}"))
    if name in ("left", "right"):
        return choose(rng, (f"on the {name}", f"at the {name}"))
    return choose(rng, (f"at the {name}", f"on the {name} side"))


def row_place(rng: np.random.Generator, row: int) -> str:
    """A row in words."""
    return choose(rng, ROW_WORDS[row])


def listed(phrases: Sequence[str]) -> str:
    """Phrases in a row: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
