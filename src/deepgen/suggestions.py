"""The nearest known word to a misspelt one, as the end of an error's message."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The nearest of the known words, or None where none is near."""
    bare = {name.lstrip("-"): name for name in known}  # dashes alike would make any two options alike
    near = get_close_matches(word.lstrip("-"), bare, n=1, cutoff=0.65)
    return bare[near[0]] if near else None


def suggestion(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` for the nearest of the known words, or nothing where none is near."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def suggestion_or_all(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or the known words where none is near."""
    return suggestion(word, known) or f"; known: {', '.join(known)}"
