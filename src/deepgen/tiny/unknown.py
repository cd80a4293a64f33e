"""Words of a prompt that the world does not know, and the noun nearest to each.

For warnings only: a prompt with an unknown word is still drawn. A word is known when the captions, edits or
riddles of the world use it, or when it is a plural or synonym of a noun. Words in quotes and in capitals are
letters to be written, never nouns.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from functools import cache

from deepgen.tiny import captions, language
from deepgen.tiny.facts import load_facts
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.scene import GROUNDS, MOST_LETTERS, PLACES
from deepgen.tiny.wordings import all_wordings

# Usual words of prompts that are no nouns and that the templates happen not to use.
_COMMON = """
i me my you your we our he she they them this these those some any no not only please could would can
should will want like need very more less than then also just too into onto from by for at in on of with
without and or but if so as be is are was were am do does did has have had make makes made draw paint
generate create show give picture image photo drawing illustration scene background middle center centre
side corner row column there here where what which who it its a an the one two three four five six seven
eight nine ten other another each every all both few many several nothing everything near behind front
between around inside beside next red green blue yellow orange pink white black brown purple grey gray
big small large little tiny huge cute nice beautiful happy sad old new that to up down left right top
bottom above below over under word words text letter letters sign says say saying reading written animal
animals fruit fruits vegetable vegetables food plant plants vehicle vehicles thing things object objects
color colour style glossy flat hello hi thanks ein eine einen der die das und zwei drei un une le la les
el los las una dos deux tres trois et
"""
# As above, but not of `known_words`, from which the tokenizer takes its tokens: these are read in pieces.
_MORE_WORDS = """
along across through against about after before while again away back off out bigger smaller biggest smallest
keep leave stay let dozen hundred thousand really always very
"""
_ALSO_KNOWN = frozenset(_MORE_WORDS.split())
# Nouns people ask for whose nearest thing of the world is not the nearest in letters. Other languages too.
_NEAR = {
    "kitten": "cat", "kitty": "cat", "puppy": "dog", "wolf": "dog", "fox": "dog", "pony": "horse",
            "donkey": "horse",
    "zebra": "horse", "giraffe": "horse", "mouse": "rabbit", "hamster": "rabbit", "camel": "horse",
            "bull": "cow", "goat": "sheep", "lamb": "sheep", "ape": "monkey", "gorilla": "monkey",
    "leopard": "tiger", "hen": "chicken", "rooster": "chicken", "bird": "chicken", "goose": "duck",
            "eagle": "owl",
    "parrot": "owl", "shark": "fish", "dolphin": "whale", "lobster": "crab", "dragon": "snake",
            "dinosaur": "turtle",
    "worm": "snake", "spider": "ladybug", "beetle": "ladybug", "ant": "ladybug", "wasp": "bee",
            "pear": "apple",
    "orange": "peach", "cherry": "cherries", "grape": "grapes", "potato": "carrot", "tomato": "apple",
    "truck": "bus", "van": "bus", "motorcycle": "bicycle", "helicopter": "airplane", "house": "gift",
    "flower": "tulip", "lamp": "candle", "guitarist": "guitar", "violin": "guitar", "piano": "drum",
            "pen": "pencil",
    "watch": "clock", "lock": "key", "axe": "hammer", "box": "gift", "shirt": "hat", "cap": "hat",
            "snow": "snowflake",
    "katze": "cat", "hund": "dog", "hunde": "dog", "katzen": "cat", "gatos": "cat", "gato": "cat",
            "perro": "dog", "chat": "cat", "chien": "dog", "pferd": "horse",
    "caballo": "horse", "cheval": "horse", "vogel": "chicken", "baum": "tree", "arbre": "tree",
            "arbol": "tree",
    "sonne": "sun", "sol": "sun", "soleil": "sun", "mond": "moon", "luna": "moon", "lune": "moon",
            "apfel": "apple",
    "manzana": "apple", "pomme": "apple", "haus": "gift", "auto": "car", "coche": "car", "voiture": "car",
}  # fmt: skip


def unknown_nouns(text: str) -> list[tuple[str, str]]:
    """The words of a prompt that the world does not know, each with the nearest noun, in order, once each.

    A misspelled noun is listed with the noun it is nearest to in letters; so is a word of another language or
    script, with the noun it means where that is known.
    """
    found: dict[str, str] = {}
    unquoted = re.sub(rf"[\"“”].*?[\"“”]|\b[A-Z]{{1,{MOST_LETTERS}}}\b", " ", text)
    for word in re.findall(r"[^\W\d_]+", unquoted.lower()):
        if not is_known(word):
            found.setdefault(word, nearest_noun(word))
    return list(found.items())


def is_known(word: str) -> bool:
    """Whether the world knows a word in lower case, in the singular or plural."""
    known = known_words() | _ALSO_KNOWN
    return word in known or any(form in known for form in _singulars(word))


def nearest_noun(word: str) -> str:
    """The noun nearest to a word: by meaning where that is listed, else by letters."""
    plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode() or word
    for form in (plain, *_singulars(plain)):
        if _NEAR.get(form) in NOUNS:
            return _NEAR[form]
    return max(NOUNS, key=lambda noun: difflib.SequenceMatcher(None, plain, language.said(noun)).ratio())


def _singulars(word: str) -> list[str]:
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    return [
        word[: -len(end)] + new for end, new in endings if word.endswith(end) and len(word) > len(end) + 1
    ]


@cache
def known_words() -> frozenset[str]:
    """Every word of the world in lower case: of captions, edits, riddles and their answers."""
    facts = load_facts()
    texts: list[str] = [*GROUNDS, *PLACES.values(), *facts.categories, *facts.category_plurals.values()]
    for noun in NOUNS:
        texts += [language.said(noun), language.plural(noun), language.SYNONYMS.get(noun, "")]
    texts += [*all_wordings(), *captions.more_texts()]
    texts += [wording for wordings in facts.wordings.values() for wording in wordings]
    texts += [fact.value for fact in facts.facts]
    words = {
        word for text in texts for word in re.findall(r"[^\W\d_]+", re.sub(r"\{\w+\}", " ", text.lower()))
    }
    return frozenset(words.union(_COMMON.split()))
