"""The wordings of every kind of prompt, from `wordings.json`; the last one of each is never trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

Group = Literal["captions", "edits", "reasoning", "reasoning edits"]


@cache
def load_wordings(group: Group) -> Mapping[str, tuple[str, ...]]:
    """Of each kind its wordings, with names in braces for the parts that vary."""
    text = (files("deepgen.tiny") / "wordings.json").read_text(encoding="utf-8")
    return {kind: tuple(wordings) for kind, wordings in json.loads(text)[group].items()}
