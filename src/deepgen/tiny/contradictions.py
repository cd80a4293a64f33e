"""Captions that no picture of the world can fulfil, since one part of them excludes another.

Each is drawn all the same; what is said here is what it may come out as.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from deepgen.tiny.language import RELATION_WORDS, SIZE_WORDS, STYLE_WORDS
from deepgen.tiny.mentions import NamedText
from deepgen.tiny.scene import GROUNDS

_EXCLUDED = re.compile(
    r"\b(?:no|not|without|except|neither|nor|never)(?: (?:an?|the|any|one|single|draw|show))*"
    r"((?: (?:small|little|tiny|large|big|glossy|flat))*) <(\d+)>"
)
_DESCRIBED = re.compile(r"((?:\w+,? (?:and |but )?)+)<(\d+)>")
_GROUND = re.compile(
    rf"\b(?:on|in|at) (?:an? |the )?({'|'.join(GROUNDS)}|dark|snow)\b|\ban? (meadow|beach)\b"
    rf"|\b({'|'.join(GROUNDS)}) background"
)
_SAME_GROUND = {"dark": "night", "snow": "winter"}
_OPPOSED = (SIZE_WORDS, STYLE_WORDS)
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_RELATIONS = {word: name for name, words in RELATION_WORDS.items() for word in words}
_RELATED = re.compile(
    rf"<(\d+)>(?: is| are)? ({'|'.join(sorted(_RELATIONS, key=len, reverse=True))}) (?:an? |the )?<(\d+)>"
)


def contradictions(named: NamedText) -> list[str]:
    """What excludes what, a line each."""
    return [*_excluded_and_wanted(named), *_opposed(named), *_two_grounds(named), *_two_ways(named)]


def excluded_only(named: NamedText) -> list[str]:
    """The things that a text excludes and does not ask for elsewhere, as it says them."""
    wanted = _wanted(named)
    return [named.mentions[i].word for i in _excluded(named) if named.mentions[i].nouns not in wanted]


def _excluded(named: NamedText) -> list[int]:
    """Mentions that are not to be drawn; "no small cat" excludes no cats."""
    return [int(match[2]) for match in _EXCLUDED.finditer(named.text) if not match[1]]


def _wanted(named: NamedText) -> set[tuple[str, ...]]:
    excluded = {int(match[2]) for match in _EXCLUDED.finditer(named.text)}
    return {mention.nouns for i, mention in enumerate(named.mentions) if i not in excluded}


def _excluded_and_wanted(named: NamedText) -> Iterator[str]:
    wanted = _wanted(named)
    for index in _excluded(named):
        mention = named.mentions[index]
        if mention.nouns in wanted:
            yield f'"{mention.word}" is both asked for and excluded; it may be drawn'


def _opposed(named: NamedText) -> Iterator[str]:
    """Both of two looks said of one thing: "a small big cat"."""
    for match in _DESCRIBED.finditer(named.text):
        words = re.findall(r"\w+", match[1])
        # What stands before an article belongs to another thing.
        last = max((i for i, word in enumerate(words) if word in ("a", "an", "the")), default=-1)
        for groups in _OPPOSED:
            own = words[last + 1 :]
            said = [next((word for word in own if word in group), "") for group in groups.values()]
            if all(said):
                thing = named.mentions[int(match[2])].word
                yield f'one "{thing}" cannot be {" and ".join(said)}; it is drawn as one of them'


def _two_grounds(named: NamedText) -> Iterator[str]:
    said = [next(filter(None, match.groups())) for match in _GROUND.finditer(named.text)]
    found = dict.fromkeys(_SAME_GROUND.get(name, name) for name in said)
    if len(found) > 1:
        yield f"{' and '.join(found)} are two grounds, and a picture has one"


def _two_ways(named: NamedText) -> Iterator[str]:
    """Opposite relations of two things: "a cat left of a dog, the cat right of the dog"."""
    said = {
        (named.mentions[int(match[1])].nouns, _RELATIONS[match[2]], named.mentions[int(match[3])].nouns)
        for match in _RELATED.finditer(named.text)
    }
    for first, relation, second in sorted(said):
        is_both_ways = first != second and (second, relation, first) in said
        if is_both_ways or (first, _OPPOSITE[relation], second) in said:
            yield f'the "{first[0]}" cannot be both {relation} and {_OPPOSITE[relation]} the "{second[0]}"'
            return
