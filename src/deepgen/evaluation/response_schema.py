"""Structured replies: the JSON schema of a judge's reply, and the JSON as the text that the parsers read.

Only our own prompts ask for JSON; official prompts have forms of their own. A server that ignores the schema
may put the JSON into a Markdown fence or among words, where it is found all the same, or answer in plain
text, which is read as without a schema. A reply with a part of the grades is no reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepgen.rewards.replies import objects_with

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

    def read(self, reply: str) -> str | None:
        """The reply as text; unchanged where no JSON with such keys is in it, None where that JSON lacks a
        grade or has one that the schema does not allow. The last whole object counts: models quote the form
        first.
        """
        found = objects_with(reply, self.fields)
        if not found:
            return reply
        for document in reversed(found):
            try:
                return self.to_text(
                    {key: _valid(self.fields[key], document[key]) for key in document} | self._rest(document)
                )
            except (KeyError, ValueError):
                continue
        return None

    def _rest(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The one field that may be missing; KeyError where another one is."""
        missing = [key for key in self.fields if key not in document]
        if any(key not in _REASONING for key in missing):
            raise KeyError(missing[0])
        return dict.fromkeys(missing, "")


def _valid(schema: Mapping[str, Any], value: Any) -> Any:
    """A value of a reply as its schema has it, a number also where it came as text; else ValueError."""
    kind = schema["type"]
    if kind == "array":
        if not isinstance(value, list) or not schema["minItems"] <= len(value) <= schema["maxItems"]:
            raise ValueError(f"{value!r} is no list of {schema['minItems']}")
        return [_valid(schema["items"], each) for each in value]
    if kind == "string":
        text = str(value).strip()
        if "enum" in schema and text.lower() not in schema["enum"]:
            raise ValueError(f"{text!r} is none of {schema['enum']}")
        return text.lower() if "enum" in schema else text
    return _whole_number(schema, value)


def _whole_number(schema: Mapping[str, Any], value: Any) -> int:
    is_text = isinstance(value, str) and len(value) < 8 and value.strip().isdecimal()
    if isinstance(value, bool) or not (isinstance(value, int | float) or is_text):
        raise ValueError(f"{value!r} is no number")
    number = float(value)
    allowed = schema.get("enum", range(schema.get("minimum", 0), schema.get("maximum", 0) + 1))
    if number not in allowed:
        raise ValueError(f"{value!r} is out of range")
    return int(number)


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
