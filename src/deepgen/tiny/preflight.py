"""Warnings about parts of a prompt that the world cannot draw, before anything is drawn.

A prompt is never refused: the nearest thing is drawn, and the command line, the server and its page show the
warnings of `check_prompt`. `check_captions` checks training data in the same way, so that a fine-tune starts
with a list of the new nouns.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from deepgen.tiny import language
from deepgen.tiny.check_edit import edit_faults
from deepgen.tiny.contradictions import contradictions, excluded_only
from deepgen.tiny.mentions import name_things
from deepgen.tiny.read import read
from deepgen.tiny.render import CANVAS
from deepgen.tiny.scene import MOST_LETTERS, MOST_THINGS, Scene
from deepgen.tiny.unknown import is_known, nearest_noun, unknown_nouns

Kind = Literal[
    "empty",
    "language",
    "unknown noun",
    "too many things",
    "long word",
    "too many words",
    "contradiction",
    "exclusion",
    "not there",
    "full cell",
    "nothing to change",
]
_NUMBERS = (*language.NUMBER_WORDS.values(), "five", "six", "seven", "eight", "nine", "ten")
_MORE_NUMBERS = {"dozen": 12, "hundred": 100, "thousand": 1000}
_FEWEST_WORDS = 4  # of a prompt, to tell its language by unknown words alone
_FOREIGN_WORDS = (
    "der die das dem den ein eine einen und zwei drei vier auf mit un une le les deux trois et avec sur",
    "el los las una dos tres con sobre",
)
_FOREIGN = frozenset(word for line in _FOREIGN_WORDS for word in line.split())
# Where a prompt reckons or lists what is not to be drawn, its nouns are not counted.
_RECKONING = re.compile(
    r"next|comes|\bor\b|many|more|less|half|twice|double|times|plus|minus|divided|\+|number"
    r"|bigger|smaller|which|between|you see|then what|legs"
)
_RIDDLE = re.compile(r"(<\d+>) (?:that|which|whose|of)\b.*")  # what describes a thing names no other
_TEXT_KEYS = ("caption", "prompt", "text", "instruction")  # of a row of a .jsonl file; the first there is


@dataclass(frozen=True, kw_only=True)
class PromptWarning:
    """One thing about a prompt that the world cannot follow.

    Attributes:
        kind: which sort, for programs.
        message: for people, in one line.
        word: of an unknown noun, the word; else "".
        nearest: the noun nearest to it; else "".
    """

    kind: Kind
    message: str
    word: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        """The message."""
        return self.message


def check_prompt(text: str, is_edit: bool = False, images: Sequence[Image.Image] = ()) -> list[PromptWarning]:
    """Everything the storybook world cannot follow of a prompt, or of an instruction; empty where it can.

    Args:
        text: the prompt.
        is_edit: whether it is an instruction.
        images: what the instruction is about. One picture of the world is read, and the instruction compared
            with it; others, and pictures that are not understood whole, are not looked at.
    """
    is_edit = is_edit or bool(images)
    if not text.strip():
        what = "the picture is changed by no words" if is_edit else "a picture is drawn from no words"
        return [PromptWarning(kind="empty", message=f"the prompt is empty, so {what}")]
    found = _word_warnings(text)
    if (count := count_things(text, is_edit)) > MOST_THINGS:
        found.append(
            PromptWarning(
                kind="too many things",
                message=f"at most {MOST_THINGS} things fit in a picture of this world, and about {count} are "
                "asked for; some will be left out",
            )
        )
    found += [
        PromptWarning(
            kind="long word",
            message=f'words of this world have 1 to {MOST_LETTERS} letters A to Z, so "{word}" cannot be '
            "written as it stands",
        )
        for word in dict.fromkeys(_written(text))
        if not (word.isascii() and word.isalpha() and len(word) <= MOST_LETTERS)
    ]
    return found + (_edit_warnings(text, images) if is_edit else _caption_warnings(text))


def _word_warnings(text: str) -> list[PromptWarning]:
    """Of words that the world does not know."""
    found = []
    if _is_foreign(text):
        found.append(
            PromptWarning(
                kind="language",
                message="this model reads simple English; what it draws for other words is a guess",
            )
        )
    return found + [
        PromptWarning(
            kind="unknown noun",
            message=f'this model\'s world has no "{word}"; the nearest thing it knows is "{nearest}"',
            word=word,
            nearest=nearest,
        )
        for word, nearest in unknown_nouns(text)
    ]


def _caption_warnings(text: str) -> list[PromptWarning]:
    """Of what no picture can fulfil."""
    named = name_things(text)
    found = [
        PromptWarning(kind="contradiction", message=f"the prompt contradicts itself: {what}")
        for what in contradictions(named)
    ]
    found += [
        PromptWarning(
            kind="exclusion",
            message=f'this model was only taught what is to be there, so "{word}" may be drawn; leave it out '
            "of the prompt",
        )
        for word in excluded_only(named)
    ]
    if len(words := dict.fromkeys(named.letters)) > 1 and not _RECKONING.search(named.text):
        found.append(
            PromptWarning(
                kind="too many words",
                message=f"a picture of this world has one word, and {', '.join(words)} are asked for; one of "
                "them or a mixture will be written",
            )
        )
    return found


def _edit_warnings(text: str, images: Sequence[Image.Image]) -> list[PromptWarning]:
    """Of what cannot be done to this picture."""
    return [
        PromptWarning(kind=kind, message=f"{what}, so the picture should stay as it is")
        for kind, what in edit_faults(text, _source(images))
    ]


def _source(images: Sequence[Image.Image]) -> Scene | None:
    """The scene of a single picture of the world that is understood whole."""
    if len(images) != 1 or images[0].size != (CANVAS, CANVAS):
        return None
    return read(images[0]).scene


def count_things(text: str, is_edit: bool = False) -> int:
    """About how many things a prompt asks for: every noun, times the number before it.

    0 for a prompt that reckons ("one more cat than two"). Of an instruction only a number before a noun
    counts, since its other nouns are in the picture already.
    """
    named = name_things(text).text
    if _RECKONING.search(named):
        return 0
    total, number = 0, None
    for word in re.findall(r"<\d+>|[a-z-]+|\d+", _RIDDLE.sub(r"\1", named)):
        if (value := _number(word)) is not None:
            number = value
        elif word.startswith("<") or (number is not None and not is_known(word)):
            total += (number or 0) if is_edit else (1 if number is None else number)
            number = None
    return total


def check_captions(captions: Iterable[str]) -> list[tuple[str, str, int]]:
    """(unknown word, nearest noun, captions with it) over training captions, the most frequent first."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in unknown_nouns(caption))
    return [(word, nearest_noun(word), count) for word, count in counts.most_common()]


def folder_captions(folder: Path) -> Iterator[str]:
    """The captions in a folder: of .txt files beside pictures, and of rows of .jsonl files.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a .jsonl file has a row that is no JSON object.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of captions")
    for path in sorted(folder.rglob("*.txt")):
        yield path.read_text(encoding="utf-8").strip()
    for path in sorted(folder.rglob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                yield from _texts(line, f"{path}, line {number}")


def _texts(line: str, where: str) -> Iterator[str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} holds a {type(row).__name__}, expected an object with a caption")
    value = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)), None)
    if value is not None:
        yield value


def _is_foreign(text: str) -> bool:
    """Whether most of the words are unknown, or letters are of another script."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"[\"“].*?[\"”]|\b[A-Z]+\b", " ", text).lower())
    if any(letter > "\u024f" for word in words for letter in word):  # beyond the Latin letters
        return True
    num_unknown = sum(not is_known(word) for word in words)
    if num_unknown and any(word in _FOREIGN for word in words):
        return True
    return len(words) >= _FEWEST_WORDS and 2 * num_unknown > len(words)


def _written(text: str) -> list[str]:
    """What a prompt wants written: in quotes, or in capitals."""
    quoted = re.findall(r"[\"“](.*?)[\"”]", text)
    rest = re.sub(r"[\"“].*?[\"”]", " ", text)
    is_shouted = rest == rest.upper() and len(rest.split()) > 1  # a whole prompt in capitals is no word
    capitals = [] if is_shouted else re.findall(r"\b[A-Z]{2,}\b", rest)
    return [word.strip().upper() for word in (*quoted, *capitals) if word.strip()]


def _number(word: str) -> int | None:
    if word.isdigit():
        return int(word)
    return _NUMBERS.index(word) if word in _NUMBERS else _MORE_NUMBERS.get(word)
