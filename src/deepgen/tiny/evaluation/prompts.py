"""The prompts of the storybook benchmark: equally many of every kind, divided among the held-out levels.

A kind's number is over prompts that training never draws, so its share is taken evenly from its held-out
levels (see tiny/splits.py). A quarter as many come from prompts that training may draw, as a control. Every
prompt that has to be thought about is asked once more in its direct wording. No two prompts of a kind and
level are equal; where there are fewer different ones than asked for, all that were found are taken.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import get_args

import numpy as np

from deepgen.evaluation.benchmark import Item
from deepgen.tiny.claims import to_json
from deepgen.tiny.example import Ability, StorybookExample
from deepgen.tiny.render import render
from deepgen.tiny.splits import SAMPLERS, group_of, level_of, levels_with

TRAINED_SHARE = 4  # one trained prompt for so many that are held out
_MOST_DRAWS = 150  # of a kind for each prompt that is wanted, so that rare levels are found
_FEWEST_DRAWS = 800
# Variants of the benchmark are named so, in the order of the tables.
ABILITIES: dict[str, Ability] = {
    "generation": "generation",
    "text": "text",
    "editing": "edit",
    "reasoning": "reasoning",
    "reasoning-editing": "reasoning edit",
}
assert set(ABILITIES.values()) == set(get_args(Ability))


@dataclass(frozen=True, kw_only=True)
class StorybookPrompt:
    """One item: an example of the world, its level, and whether its direct wording is asked."""

    example: StorybookExample
    level: str
    is_direct: bool = False

    @property
    def text(self) -> str:
        """The prompt for the model."""
        return (self.example.direct or "") if self.is_direct else self.example.text

    @property
    def category(self) -> str:
        """What the items are tabled by."""
        return f"{self.example.kind}, direct" if self.is_direct else self.example.kind

    @property
    def key(self) -> str:
        """Equal for equal prompts of a kind: of the words and the picture they are about."""
        source = None if self.example.source is None else asdict(self.example.source)
        return hashlib.sha256(json.dumps([self.example.kind, self.text, source]).encode()).hexdigest()[:16]

    @property
    def id(self) -> str:
        """A name for files. It changes with what is asked or claimed, so old pictures are not reused."""
        claim = json.dumps([self.text, self.level, to_json(self.example.claim)])
        digest = hashlib.sha256(claim.encode()).hexdigest()[:12]
        return f"{self.category.replace(', ', '-').replace(' ', '-')}-{digest}"

    def to_item(self) -> Item:
        """The same under the contract of all benchmarks."""
        source = self.example.source
        return Item(
            id=self.id,
            category=self.category,
            prompt=self.text,
            references=() if source is None else (partial(render, source),),
            metadata={"storybook": self},
        )


def kinds_of(ability: Ability) -> tuple[str, ...]:
    """The kinds of an ability, in the order of the world."""
    group = {"generation": "caption", "text": "caption", "edit": "edit"}.get(ability, ability)
    kinds = SAMPLERS[group][0]
    if group != "caption":
        return tuple(kinds)
    return tuple(kind for kind in kinds if kind.startswith("text") == (ability == "text"))


@cache
def prompts_of(ability: Ability, num_prompts: int = 96, seed: int = 0) -> tuple[StorybookPrompt, ...]:
    """Of each kind `num_prompts` held-out prompts, a quarter as many trained ones, and direct wordings.

    With a larger `num_prompts` the same prompts come and further ones.
    """
    if num_prompts < 1:
        raise ValueError(f"num_prompts must be at least 1, got {num_prompts}")
    found = [prompt for kind in kinds_of(ability) for prompt in _prompts_of_kind(kind, num_prompts, seed)]
    direct = [
        replace(prompt, is_direct=True)
        for prompt in found
        if prompt.example.direct is not None and prompt.level != "trained"
    ]
    return (*found, *_once(direct))


def _once(prompts: list[StorybookPrompt]) -> list[StorybookPrompt]:
    """Without those whose words, picture and claim are those of an earlier one."""
    return list({prompt.id: prompt for prompt in prompts}.values())


def _prompts_of_kind(kind: str, num_prompts: int, seed: int) -> list[StorybookPrompt]:
    """Different prompts of a kind, level by level, held-out levels first."""
    quotas = _quotas(kind, num_prompts)
    sampler = SAMPLERS[group_of(kind)][1]
    rng = np.random.default_rng((seed, zlib.crc32(kind.encode())))
    chosen: dict[str, dict[str, StorybookPrompt]] = defaultdict(dict)
    for _ in range(max(_FEWEST_DRAWS, _MOST_DRAWS * num_prompts)):
        example = sampler(rng, kind)
        level = level_of(example)
        if len(chosen[level]) < quotas.get(level, 0):
            prompt = StorybookPrompt(example=example, level=level)
            chosen[level].setdefault(prompt.key, prompt)
            if all(len(chosen[name]) == quota for name, quota in quotas.items()):
                break
    return [prompt for level in quotas for prompt in chosen[level].values()]


def _quotas(kind: str, num_prompts: int) -> dict[str, int]:
    """How many prompts of each level; what does not divide evenly goes to the first levels."""
    held_out = [level for level in _levels(kind) if level != "trained"]
    quotas = {
        level: num_prompts // len(held_out) + (place < num_prompts % len(held_out))
        for place, level in enumerate(held_out)
    }
    return {**quotas, "trained": -(-num_prompts // TRAINED_SHARE)}


@cache
def _levels(kind: str) -> tuple[str, ...]:
    return tuple(levels_with(kind, num_tries=200))
