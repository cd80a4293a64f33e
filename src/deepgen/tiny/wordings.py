"""The wordings of every kind of prompt, from `wordings.json`; the last one of each is never trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

Group = Literal["captions", "edits", "reasoning", "reasoning edits"]


def load_wordings(group: Group) -> Mapping[str, tuple[str, ...]]:
    """Of each kind its wordings, with names in braces for the parts that vary."""
    return {kind: tuple(wordings) for kind, wordings in _groups()[group].items()}


def all_wordings() -> list[str]:
    """Every wording, for those who need to know which words are used."""
    return [text for group in get_args(Group) for texts in load_wordings(group).values() for text in texts]


@cache
def _groups() -> dict[str, dict[str, list[str]]]:
    return json.loads((files("deepgen.tiny") / "wordings.json").read_text(encoding="utf-8"))
