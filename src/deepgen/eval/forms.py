"""Structured replies: a JSON schema a judge is held to, and the JSON told in the words the parsers read.

Only our own wording asks for JSON; official prompts have forms of their own. A server that ignores the schema
answers in words, which are read as ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_REASONING = {"reasoning": {"type": "string"}}


@dataclass(frozen=True, kw_only=True)
class Form:
    """A reply as JSON.

    Attributes:
        fields: JSON schemas of its keys, all required.
        tell: the reply in the words the benchmark's parser reads.
    """

    fields: Mapping[str, Any]
    tell: Callable[[Mapping[str, Any]], str]

    @property
    def schema(self) -> dict[str, Any]:
        """Of the whole object."""
        return {
            "type": "object",
            "properties": dict(self.fields),
            "required": list(self.fields),
            "additionalProperties": False,
        }

    @property
    def request(self) -> str:
        """Said after the question."""
        return (
            "\nGive the reply as one JSON object with these keys, in place of the form above: "
            f"{', '.join(self.fields)}."
        )

    def read(self, reply: str) -> str:
        """The reply in words; as it is where it is no such JSON."""
        try:
            document = json.loads(reply)
            if isinstance(document, dict) and set(self.fields) <= set(document):
                return self.tell(document)
        except (ValueError, TypeError, RecursionError):
            return reply
        return reply


def grades(*names: str, low: int, high: int) -> Form:
    """Whole numbers by name, told as lines NAME: NUMBER after a line of reasoning."""
    number = {"type": "integer", "minimum": low, "maximum": high}
    return Form(
        fields={**_REASONING, **dict.fromkeys(names, number)},
        tell=lambda reply: "\n".join([_line(reply), *(f"{name}: {reply[name]}" for name in names)]),
    )


def one_grade(low: int, high: int) -> Form:
    """One whole number, told as a final score."""
    return grades("Final Score", low=low, high=high)


def final_bit() -> Form:
    """0 or 1, told as a line of its own."""
    return grades("Score", low=0, high=1)


def yes_or_no() -> Form:
    """One word."""
    return Form(
        fields={"answer": {"type": "string", "enum": ["yes", "no"]}}, tell=lambda reply: str(reply["answer"])
    )


def two_scores(low: int, high: int) -> Form:
    """A list of two numbers beside a sentence, told as that JSON."""
    number = {"type": "integer", "minimum": low, "maximum": high}
    score = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    return Form(fields={**_REASONING, "score": score}, tell=lambda reply: json.dumps(dict(reply)))


def bits(count: int) -> Form:
    """A sentence and a bit for each of some points, told in tags."""
    size = {"minItems": count, "maxItems": count}
    return Form(
        fields={
            "analysis": {"type": "array", "items": {"type": "string"}, **size},
            "score": {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, **size},
        },
        tell=lambda reply: "".join(
            f"<{key}>{json.dumps(reply[key], ensure_ascii=False)}</{key}>" for key in ("analysis", "score")
        ),
    )


def _line(reply: Mapping[str, Any]) -> str:
    """The reasoning in one line without colons, which parsers look for."""
    return " ".join(str(reply["reasoning"]).replace(":", " -").split())
