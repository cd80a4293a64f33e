"""Structured replies: the JSON schema of a judge's reply, and the JSON as the text that the parsers read.

Only our own prompts ask for JSON; official prompts have forms of their own. A server that ignores the schema
answers in plain text, which is read as without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_REASONING = {"reasoning": {"type": "string"}}


@dataclass(frozen=True, kw_only=True)
class ResponseSchema:
    """A reply as JSON.

    Attributes:
        fields: JSON schemas of its keys, all required.
        to_text: the reply as the text that the benchmark's parser reads.
    """

    fields: Mapping[str, Any]
    to_text: Callable[[Mapping[str, Any]], str]

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
        """Put after the question."""
        return (
            "\nGive the reply as one JSON object with these keys, in place of the form above: "
            f"{', '.join(self.fields)}."
        )

    def read(self, reply: str) -> str:
        """The reply as text; unchanged where it is no such JSON."""
        try:
            document = json.loads(reply)
            if isinstance(document, dict) and set(self.fields) <= set(document):
                return self.to_text(document)
        except (ValueError, TypeError, RecursionError):
            return reply
        return reply


def grades(*names: str, low: int, high: int) -> ResponseSchema:
    """Whole numbers by name, written as lines NAME: NUMBER after a line of reasoning."""
    number = {"type": "integer", "minimum": low, "maximum": high}
    return ResponseSchema(
        fields={**_REASONING, **dict.fromkeys(names, number)},
        to_text=lambda reply: "\n".join([_line(reply), *(f"{name}: {reply[name]}" for name in names)]),
    )


def one_grade(low: int, high: int) -> ResponseSchema:
    """One whole number, written as a final score."""
    return grades("Final Score", low=low, high=high)


def final_bit() -> ResponseSchema:
    """0 or 1, written as a line of its own."""
    return grades("Score", low=0, high=1)


def yes_or_no() -> ResponseSchema:
    """One word."""
    return ResponseSchema(
        fields={"answer": {"type": "string", "enum": ["yes", "no"]}},
        to_text=lambda reply: str(reply["answer"]),
    )


def two_scores(low: int, high: int) -> ResponseSchema:
    """A list of two numbers beside a sentence, written as that JSON."""
    number = {"type": "integer", "minimum": low, "maximum": high}
    score = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    return ResponseSchema(
        fields={**_REASONING, "score": score}, to_text=lambda reply: json.dumps(dict(reply))
    )


def bits(count: int) -> ResponseSchema:
    """A sentence and a bit for each of some points, written in tags."""
    size = {"minItems": count, "maxItems": count}
    return ResponseSchema(
        fields={
            "analysis": {"type": "array", "items": {"type": "string"}, **size},
            "score": {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, **size},
        },
        to_text=lambda reply: "".join(
            f"<{key}>{json.dumps(reply[key], ensure_ascii=False)}</{key}>" for key in ("analysis", "score")
        ),
    )


def _line(reply: Mapping[str, Any]) -> str:
    """The reasoning in one line without colons, which parsers look for."""
    return " ".join(str(reply["reasoning"]).replace(":", " -").split())
