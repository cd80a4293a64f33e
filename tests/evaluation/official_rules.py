"""Statements of how official scorers read a judge's reply, and replies of all kinds to try them on.

Written from shared/spec/benchmarks.md and, where that is silent, from what the official scripts do, without a
look at the parsers: plain loops where those use patterns. A statement gives what the official scorer counts,
or None where it asks again.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

PIECES = (
    *("Final Score", "final score", "Final Scores", "**", "*", ":", " ", "\n", ",", ".", "-", "and", "is"),
    *("Consistency", "Realism", "Aesthetic Quality", "realism", "Score", "score", "<think>", "</think>"),
    *("[", "]", "{", "}", '"score"', "score", "'", '"', "(", ")", "<score>", "</score>", "<analysis>"),
    *("</analysis>", "['a', 'b']", "[1, 0]", "1, 0", "yes", "no", "Yes", "NO", "maybe", "yesterday"),
    *("```json\n", "```", "||V^=^V||", "score:", '"score":', "reasoning:", "</think>\n\n", "null"),
    *("/", "0", "1", "2", "3", "5", "7", "10", "11", "4.5", "7/10", "००", "⁵", "I think", "\r\n", "\t"),
    *("\ufeff", "Ja", "是"),
)
FORMS = (
    "Consistency: {a}\nRealism: {b}\nAesthetic Quality: {c}",
    "**Consistency** {a}\nRealism:{b}\nAESTHETIC QUALITY : {c}",
    "{a}\n{b}\n{c}",
    "**Final Score:** **{a}**",
    "Final Score: {a}, {b}",
    "Final Scores {a} and {b}",
    '{{"score": [{a}, {b}], "reasoning": "x"}}',
    '{{"score": {a}, "reasoning": "x"}}',
    '||V^=^V||{{"score": [{a}, {b}]}}||V^=^V||',
    "{{score: [{a}, {b}], reasoning: x}}",
    "{{score: {a}, reasoning: x}}",
    "```json\n[{a}, {b}]\n```",
    '```json\n{{\n"score": [{a}, {b}]\n}}\n```',
    "Scores: [{a}, {b}].",
    "<analysis>['a', 'b']</analysis><score>[{a}, {b}]</score>",
    "<analysis>['a', 'b']</analysis><score>{a}, {b}</score>",
    "<think>Score: {b}</think>Score: {a}",
    "Score: {a}",
    "**Score** {a}",
    "{a}",
    "{a}.",
    "yes",
    "No.",
    "A: {a}\nB: {b}\nC: {c}",
)


def replies(count: int, seed: int) -> Iterator[str]:
    """Forms that are right, forms with pieces put in, and heaps of pieces."""
    chooser = random.Random(seed)
    for index in range(count):
        if index % 3 == 2:
            yield "".join(chooser.choice(PIECES) for _ in range(chooser.randrange(1, 14)))
            continue
        numbers = {name: chooser.choice(("0", "1", "2", "3", "5", "7", "10", "12")) for name in "abc"}
        text = chooser.choice(FORMS).format(**numbers)
        for _ in range(chooser.randrange(3) if index % 3 else 0):
            place = chooser.randrange(len(text) + 1)
            text = text[:place] + chooser.choice(PIECES) + text[place + chooser.randrange(2) :]
        yield text


@lru_cache(maxsize=2)
def many_replies(count: int, seed: int) -> tuple[str, ...]:
    """As `replies`, made once for all parsers."""
    return tuple(replies(count, seed))


# --- RISEBench and UniREditBench ----------------------------------------------------------------------------


def final_score(text: str) -> list[int] | None:
    """All whole numbers behind the first "Final Score" that has any, else behind the first "Final Scores".

    The name in any case, two stars at most behind it, one colon perhaps, then digits among stars, commas and
    blanks.
    """
    lowered = text.lower()
    for name in ("final score", "final scores"):
        start = 0
        while (start := lowered.find(name, start)) >= 0:
            rest = text[start + len(name) :]
            start += 1
            for _ in range(2):
                rest = rest[1:] if rest.startswith("*") else rest
            rest = rest[1:] if rest.startswith(":") else rest
            kept = ""
            for letter in rest:
                if not (letter.isdecimal() or letter in "*," or letter.isspace()):
                    break
                kept += letter if letter.isdecimal() else " "
            if kept.split():
                return [int(number) for number in kept.split()]
    return None


def first_number(text: str) -> int | None:
    """What UniREditBench takes of them, and RISEBench where there is one."""
    numbers = final_score(text)
    return None if numbers is None else numbers[0]


def logical(text: str) -> int | None:
    """The answer 0 or 1 as grade 1 or 5; whatever is above 1 counts as 1."""
    number = first_number(text)
    return None if number is None else 5 if number >= 1 else 1


# --- WISE ---------------------------------------------------------------------------------------------------


def wise_legacy(text: str) -> list[int] | None:
    """The last digit after each name, with two stars and a colon between; else bare lines."""
    found: dict[str, int] = {}
    lowered = text.lower()
    for name in ("consistency", "realism", "aesthetic quality"):
        start = 0
        while (start := lowered.find(name, start)) >= 0:
            start += len(name)
            rest = after_bold_and_colon(text[start:])
            if rest[:1].isdecimal():
                found[name] = int(rest[0])
    if not found:
        bare = [int(line) for line in (line.strip() for line in text.splitlines()) if line in ("0", "1", "2")]
        return bare[:3] if len(bare) > 2 else None
    return list(found.values()) if len(found) == 3 else None


def after_bold_and_colon(text: str) -> str:
    """Without two stars at most, blanks, a colon and blanks."""
    for _ in range(2):
        text = text[1:] if text.startswith("*") else text
    text = text.lstrip()
    return text[1:].lstrip() if text.startswith(":") else text


def wise_verified(text: str) -> int | None:
    """Without what stands between think tags: the first 0 or 1 behind the word, which may be bold and have a
    colon, not followed by a digit; else the one line that is just 0 or 1.
    """
    while (start := text.find("<think>")) >= 0 and (end := text.find("</think>", start)) >= 0:
        text = text[:start] + text[end + len("</think>") :]
    text = text.replace("</think>", "")
    lowered, start = text.lower(), 0
    while (start := lowered.find("score", start)) >= 0:
        start += len("score")
        rest = after_bold_and_colon(text[start:])
        if rest[:1] in ("0", "1") and not rest[1:2].isdecimal():
            return int(rest[0])
    lines = [line for line in (line.strip() for line in text.splitlines()) if line in ("0", "1")]
    return int(lines[0]) if len(lines) == 1 else None


# --- GEdit-Bench --------------------------------------------------------------------------------------------


def gedit(text: str) -> list[float] | None:
    """JSON between two delimiters, or from the first brace to the last; a number is a list of one. Without
    braces what stands from the first bracket to the last, a list of two whole numbers, or a bare whole number
    from 0 to 10. What is no JSON is repaired once, as by VIEScore (Ku et al., 2024), which GEdit-Bench uses.
    """
    mark = "||V^=^V||"
    if text.count(mark) == 2:
        inner = text[text.find(mark) + len(mark) : text.rfind(mark)]
    elif "{" in text and "}" in text:
        inner = text[text.find("{") : text.rfind("}") + 1]
    else:
        return _gedit_list(text[text.find("[") : text.rfind("]") + 1]) or _gedit_number(text)
    inner = inner.strip().replace("\n", "")
    try:
        score = json.loads(inner)["score"]
        return _numbers(score if isinstance(score, list) else [score])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        return _numbers(json.loads(_repaired(inner))["score"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _numbers(values: Any) -> list[float] | None:
    """Scores that can be reckoned with."""
    if not isinstance(values, list) or not values:
        return None
    is_right = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if is_right else None


def _gedit_list(text: str) -> list[float] | None:
    parts = text[1:-1].split(",")
    if not (text.startswith("[") and text.endswith("]") and len(parts) == 2):
        return None
    first, second = parts[0], parts[1].removeprefix(" ")
    if not all(part.isdecimal() and part == str(int(part)) for part in (first, second)):
        return None
    return [float(first), float(second)]


def _gedit_number(text: str) -> list[float] | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return [float(number)] if 0 <= number <= 10 else None


def _repaired(text: str) -> str:
    """Words before a colon get quotes; then each value, up to the next comma or closing brace, becomes a list
    of one where it is a number, and a text otherwise.
    """
    quoted, word = "", ""
    for letter in text:
        if letter.isalnum() or letter == "_":
            word += letter
            continue
        quoted += f'"{word}"' if letter == ":" and word else word
        quoted, word = quoted + letter, ""
    quoted += word
    made, place = "", 0
    while (start := quoted.find('"', place)) >= 0 and (end := quoted.find('":', start + 1)) >= 0:
        stops = [at for at in (quoted.find(",", end + 2), quoted.find("}", end + 2)) if at >= 0]
        if not stops:
            break
        value = quoted[end + 2 : min(stops)].strip()
        whole, _, digits = value.removeprefix("-").partition(".")
        is_number = whole.isdecimal() and (digits.isdecimal() if "." in value else True)
        is_word = value.lower() in ("true", "false", "null")
        kept = f"[{value}]" if is_number else value if is_word else f'"{value}"'
        made += f"{quoted[place : end + 1]}: {kept}{quoted[min(stops)]}"
        place = min(stops) + 1
    return made + quoted[place:]


# --- the others ---------------------------------------------------------------------------------------------


def unigenbench(text: str, needs_length: bool = True) -> list[int] | None:
    """The first tag of each name, a Python list or tuple of two; while DeepGen's RL ran, an analysis of any
    length.
    """
    values = []
    for tag in ("analysis", "score"):
        _, opened, rest = text.partition(f"<{tag}>")
        inner, closed, _ = rest.partition(f"</{tag}>")
        if not opened or not closed:
            return None
        try:
            value = ast.literal_eval(inner.strip())
        except (ValueError, SyntaxError, TypeError):
            return None
        if not isinstance(value, (list, tuple)):
            return None
        values.append(value)
    if len(values[1]) != 2 or (needs_length and len(values[0]) != 2):
        return None
    return [1 if score == 1 else 0 for score in values[1]]


def corebench(text: str, lowers: bool = True) -> int | None:
    """The words of what was said after thinking and a blank line; in small letters on the path for Gemini."""
    said = text.split("</think>\n\n")[-1]
    said = "" if "</think>" in said else said
    words = "".join(letter if letter.isalnum() or letter == "_" else " " for letter in said).split()
    words = [word.lower() if lowers else word for word in words]
    return 1 if "yes" in words else 0 if "no" in words else None


def imgedit(text: str) -> float | None:
    """Lines that split at a colon and a blank into two, the second all digits: their mean."""
    grades = []
    for line in text.splitlines():
        pieces = line.strip().split(": ")
        if len(pieces) == 2 and pieces[1] and all(letter.isdecimal() for letter in pieces[1]):
            grades.append(int(pieces[1]))
    return round(sum(grades) / len(grades), 2) if grades else None


def dpg(text: str) -> bool:
    """mPLUG's answer: a yes where it is just that word."""
    return text == "yes"


def own_yes_no(text: str) -> float | None:
    """docs/evaluation.md, rule yes-no of a benchmark of one's own: one of the words, and not both."""
    said = text.rpartition("</think>")[2]
    if "<think>" in said:
        return None
    words = "".join(letter if letter.isalnum() or letter == "_" else " " for letter in said.lower()).split()
    return None if ("yes" in words) == ("no" in words) else float("yes" in words)


def own_grade(text: str) -> float | None:
    """docs/evaluation.md, rule grade: the last number behind the word score, with signs at most between them,
    where it is on the scale from 1 to 5.
    """
    said = text.rpartition("</think>")[2]
    if "<think>" in said:
        return None
    start, grade = 0, None
    while (at := said.lower().find("score", start)) >= 0:
        start = at + len("score")
        if is_letter(said[at - 1 : at]) or is_letter(said[start : start + 1]):
            continue
        end = start
        while end < len(said) and not is_letter(said[end]):
            end += 1
        number = number_at(said[end:])
        if number:
            grade = float(number) * (-1 if said[end - 1] == "-" and end > start else 1)
            start = end + len(number)
    return grade if grade is not None and 1 <= grade <= 5 else None


def is_letter(text: str) -> bool:
    """Of a word: letters, digits, the underscore."""
    return text.isalnum() or text == "_"


def number_at(text: str) -> str:
    """The digits a text begins with, and their decimals."""
    length = next((i for i, letter in enumerate(text) if not letter.isdecimal()), len(text))
    has_decimals = length > 0 and text[length : length + 1] == "."
    decimals = number_at(text[length + 1 :]).partition(".")[0] if has_decimals else ""
    return f"{text[:length]}.{decimals}" if decimals else text[:length]
