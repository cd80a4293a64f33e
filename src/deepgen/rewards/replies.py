"""What a language model really replied: thinking aloud is not an answer, and JSON may stand among words.

Rewards and benchmarks read replies through this one file before a rule of their own looks at the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

_END = re.compile(r"</think(?:ing)?>", flags=re.IGNORECASE)
_START = re.compile(r"<think(?:ing)?>", flags=re.IGNORECASE)
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside of texts are forgiven


def after_thinking(reply: str) -> str | None:
    """The reply without what the model thought aloud, or None where the thinking was cut off before its end.

    What stands after the last closing tag counts: chat templates often open the thinking themselves, so the
    opening tag may be missing. A reply without tags is returned as it is.
    """
    ends = list(_END.finditer(reply))
    if ends:
        said = reply[ends[-1].end() :]
        return None if _START.search(said) or not said.strip() else said
    return None if _START.search(reply) else reply


def json_objects(text: str) -> list[dict[str, Any]]:
    """Every JSON object in a text, in its order: bare, in a Markdown fence, or among words.

    Objects inside of an object that was read are part of it and not listed. What is no JSON is passed over.
    """
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found


def objects_with(text: str, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Those JSON objects of a text that have at least one of the keys, in whatever letter case, with the
    values of just those keys, named as asked for.
    """
    wanted = {key.casefold(): key for key in keys}
    named = [
        {wanted[key.casefold()]: value for key, value in each.items() if key.casefold() in wanted}
        for each in json_objects(text)
    ]
    return [each for each in named if each]
