"""Where a text names things of the world: every noun, plural, synonym and category in it, by its place.

Words in quotes and capitals are letters to be written, never nouns; they become `*`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from deepgen.tiny import language
from deepgen.tiny.facts import load_facts
from deepgen.tiny.nouns import NOUNS

# In quotes, of several capitals, or one capital where a word is spoken of.
_LETTERS = re.compile(
    r"[\"“]([^\"”]*)[\"”]|\b([A-Z]{2,})\b"
    r"|(?:(?<=rite )|(?<=word )|(?<=say )|(?<=says )|(?<=text ))([A-Z])\b"
)


@dataclass(frozen=True, kw_only=True)
class Mention:
    """The word for a thing as it stands in the text, and the nouns it may mean (of a category several)."""

    word: str
    nouns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NamedText:
    """A text in lower case whose mentions are `<0>`, `<1>`, … and whose words to write are `*`."""

    text: str
    mentions: tuple[Mention, ...]
    letters: tuple[str, ...]


def name_things(text: str) -> NamedText:
    """The text with what it names put apart."""
    letters = tuple("".join(said).strip().upper() for said in _LETTERS.findall(text))
    if letters and text == text.upper():  # a whole prompt in capitals is no word to write
        letters, plain = (), text.lower()
    else:
        plain = _LETTERS.sub("*", text).lower()
    mentions: list[Mention] = []

    def put_apart(match: re.Match[str]) -> str:
        mentions.append(Mention(word=match.group(), nouns=_meanings()[match.group()]))
        return f"<{len(mentions) - 1}>"

    named = _pattern().sub(put_apart, " ".join(plain.replace("-", " ").split()))
    return NamedText(text=named, mentions=tuple(mentions), letters=letters)


@cache
def _meanings() -> dict[str, tuple[str, ...]]:
    """Every word for a thing, in the singular and plural, with the nouns it may mean."""
    facts = load_facts()
    found: dict[str, tuple[str, ...]] = {}
    for name, members in facts.categories.items():
        found[name] = found[facts.category_plurals[name]] = members
    for noun in NOUNS:
        for name in {noun, language.SYNONYMS.get(noun, noun)}:
            found[language.said(name)] = found[language.plural(name)] = (noun,)
    return found


@cache
def _pattern() -> re.Pattern[str]:
    """Any of them, the longest first."""
    words = sorted(_meanings(), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")
