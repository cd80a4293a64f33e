"""Validation of prompt texts for command line, server and pipeline, and the warning about a cut one.

An empty prompt that was given on purpose draws, as it does in the original: the model was also trained
without a description. A prompt that is missing is a mistake and is refused. Loads no library, so
that a command line can ask before it loads any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

_SHOWN = 60  # characters of what was left out


class PromptCutWarning(UserWarning):
    """A prompt was longer than what is read."""


def check_prompt(prompt: object, name: str = "the prompt") -> str:
    """The prompt as it came, empty or not.

    Raises:
        ValueError: there is none, or it is no text.
    """
    if prompt is None:
        raise ValueError(
            f'{name} is missing; say what to draw, or how to change the picture ("" draws from no words)'
        )
    if not isinstance(prompt, str):
        raise ValueError(f"{name} is {type(prompt).__name__}, expected a string")
    return prompt


@dataclass(frozen=True, kw_only=True)
class PromptCut:
    """A prompt of which only the beginning was read.

    Attributes:
        name: of the argument, with a number where there are several.
        num_tokens: of the whole, without its template; at least so many where `is_lower_bound`.
        num_kept: tokens that were read.
        limit: what was too small: the setting `max_prompt_tokens`, or the VLM's `context`.
        limit_tokens: how many tokens of prompt it leaves room for.
        kept: the text that was read.
        left_out: the text that was not.
    """

    name: str
    num_tokens: int
    num_kept: int
    limit: Literal["max_prompt_tokens", "context"]
    limit_tokens: int
    kept: str
    left_out: str
    is_lower_bound: bool = False

    def __str__(self) -> str:
        """One line for people."""
        many = f"{'over ' if self.is_lower_bound else ''}{self.num_tokens:,}"
        room = {
            "max_prompt_tokens": f"max_prompt_tokens is {self.limit_tokens:,}",
            "context": f"the VLM's context has room for {self.limit_tokens:,} beside its other tokens",
        }[self.limit]
        shown = " ".join(self.left_out[:_SHOWN].split())
        more = "..." if len(self.left_out) > _SHOWN else ""
        return (
            f"{self.name} has {many} tokens and {room}: only its first {self.num_kept:,} tokens "
            f"({len(self.kept):,} of {len(self.kept) + len(self.left_out):,} characters) were read; "
            f'left out: "{shown}{more}"'
        )

    def to_dict(self) -> dict[str, Any]:
        """For programs; the texts are left to the message."""
        return {
            "parameter": self.name,
            "num_tokens": self.num_tokens,
            "num_tokens_read": self.num_kept,
            "num_characters_read": len(self.kept),
            "limit": self.limit,
            "message": str(self),
        }
