"""One item of the storybook world: its text, its claim, and a scene that satisfies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepgen.moved import renamed
from deepgen.tiny.claims import Claim, EditClaim
from deepgen.tiny.scene import Scene

Ability = Literal["generation", "text", "edit", "reasoning", "reasoning edit"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an example comes from, which decides whether it is held out (see splits.py).

    `combinations` are (template, fact, argument), none where there is nothing to combine; `categories` are
    those of the things it is about, empty where no crossing is held out; `words` are the words to be drawn.
    """

    template: str
    combinations: tuple[tuple[str, str, str], ...] = ()
    categories: tuple[str, ...] = ()
    is_last_wording: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StorybookExample:
    """A prompt or instruction with its claim.

    `direct` says the same without anything to think about. `as_if` is the same instruction on a picture in
    which it can be followed, of one that cannot be.
    """

    ability: Ability
    kind: str
    text: str
    claim: Claim | EditClaim
    target: Scene
    origin: Origin
    source: Scene | None = None
    direct: str | None = None
    as_if: StorybookExample | None = None


__getattr__ = renamed(__name__, {"Example": "deepgen.tiny.example.StorybookExample"})
