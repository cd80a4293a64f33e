"""Summary of the storybook benchmark: by ability, by kind and by level, with controls and reasons.

Shares are of pictures; intervals are bootstrapped over distinct claims, because pictures of one claim, from
several seeds or in several wordings, are not independent. Numbers of kinds and abilities are over prompts
that training never draws. Beside them stand trained prompts, the direct wording of what has to be thought
about, and what a look-up of the nearest training prompt answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepgen.evaluation.statistics import share_interval
from deepgen.tiny.evaluation.chains import ChainReport
from deepgen.tiny.evaluation.prompts import ABILITIES, StorybookPrompt, kinds_of
from deepgen.tiny.splits import LEVELS, nearest_prompt_answers, sample

Row = Mapping[str, Any]  # of a verdict, as tiny/evaluation/benchmark.py writes it
HELD_OUT = tuple(level for level in LEVELS if level != "trained")
LOOKUP_PROMPTS = 300  # training prompts of each kind that the look-up knows
_NUM_FAULTS = 3
_LOOKED_UP = ("generation", "text", "reasoning")  # abilities whose answer does not hang on a picture


@dataclass(frozen=True, kw_only=True)
class RightShare:
    """Right pictures, with the bootstrap interval at 95 % over distinct claims, in [0, 1]."""

    share: float
    num_prompts: int
    num_claims: int
    num_images: int
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "share": round(self.share, 4),
            "interval": [round(bound, 4) for bound in self.interval],
            "num_prompts": self.num_prompts,
            "num_claims": self.num_claims,
            "num_images": self.num_images,
        }


@dataclass(frozen=True, kw_only=True)
class StorybookPart:
    """A kind or an ability.

    Attributes:
        name, ability: of it.
        held_out: on prompts that training never draws; of an ability the mean of its kinds.
        levels: the same, each held-out level apart.
        trained: on prompts that training may draw.
        direct: on the direct wordings of the held-out prompts; None where there are none.
        lookup, lookup_levels: what the picture of the nearest training prompt reaches on the held-out
            prompts; None for edits.
        kept, psnr: of edits, see `StorybookScore`, means over the held-out prompts.
        faults: the commonest kinds of reasons, with how many wrong pictures each.
    """

    name: str
    ability: str
    held_out: RightShare
    levels: Mapping[str, RightShare]
    trained: RightShare | None = None
    direct: RightShare | None = None
    lookup: float | None = None
    lookup_levels: Mapping[str, float]
    kept: float | None = None
    psnr: float | None = None
    faults: tuple[tuple[str, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {
            "ability": self.ability,
            **self.held_out.to_dict(),
            "levels": {level: share.to_dict() for level, share in self.levels.items()},
            "trained": None if self.trained is None else self.trained.to_dict(),
            "direct": None if self.direct is None else self.direct.to_dict(),
            "lookup": _rounded(self.lookup),
            "lookup_levels": {level: _rounded(value) for level, value in self.lookup_levels.items()},
            "kept": _rounded(self.kept),
            "psnr": _rounded(self.psnr),
        }
        return {**found, "faults": [list(fault) for fault in self.faults]}


@dataclass(frozen=True, kw_only=True)
class StorybookReport:
    """The whole table and how it was made."""

    model: str
    seed: int
    num_seeds: int
    num_prompts: int
    num_steps: int | None
    abilities: tuple[StorybookPart, ...]
    kinds: tuple[StorybookPart, ...]
    chains: ChainReport | None
    seconds_per_image: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "benchmark": "storybook",
            "model": self.model,
            "seed": self.seed,
            "num_seeds": self.num_seeds,
            "num_prompts_per_kind": self.num_prompts,
            "num_steps": self.num_steps,
            "seconds_per_image": _rounded(self.seconds_per_image),
            "abilities": {part.name: part.to_dict() for part in self.abilities},
            "kinds": {part.name: part.to_dict() for part in self.kinds},
            "twelve edits": None if self.chains is None else self.chains.to_dict(),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summarize_kinds(ability: str, rows: Sequence[Row], lookups: Mapping[str, bool]) -> list[StorybookPart]:
    """The kinds of an ability (a variant's name); `lookups` says by prompt whether the look-up is right."""
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kind[row["kind"]].append(row)
    return [
        _part(kind, ability, by_kind[kind], lookups)
        for kind in kinds_of(ABILITIES[ability])
        if any(_is_held_out(row) for row in by_kind[kind])
    ]


def summarize_ability(
    ability: str, rows: Sequence[Row], kinds: Sequence[StorybookPart], lookups: Mapping[str, bool]
) -> StorybookPart:
    """An ability: the mean of its kinds, with everything else over all of its pictures."""
    part = _part(ability, ability, rows, lookups)
    mean = float(np.mean([kind.held_out.share for kind in kinds]))
    held_out = [row for row in rows if _is_held_out(row)]
    groups = [_by_claim([row for row in held_out if row["kind"] == kind.name]) for kind in kinds]
    share = replace(part.held_out, share=mean, interval=share_interval(*groups))
    return replace(part, held_out=share)


def _is_held_out(row: Row) -> bool:
    return not row["is_direct"] and row["level"] != "trained"


def _part(name: str, ability: str, rows: Sequence[Row], lookups: Mapping[str, bool]) -> StorybookPart:
    held_out = [row for row in rows if _is_held_out(row)]
    by_level = {level: [row for row in held_out if row["level"] == level] for level in HELD_OUT}
    faults = Counter(row["fault"] for row in held_out if not row["is_right"])
    share = _share(held_out)
    assert share is not None  # callers ask for what has held-out prompts
    return StorybookPart(
        name=name,
        ability=ability,
        held_out=share,
        levels={level: found for level, part in by_level.items() if (found := _share(part)) is not None},
        trained=_share([row for row in rows if not row["is_direct"] and row["level"] == "trained"]),
        direct=_share([row for row in rows if row["is_direct"]]),
        lookup=_looked_up(held_out, lookups),
        lookup_levels={
            level: found
            for level, part in by_level.items()
            if (found := _looked_up(part, lookups)) is not None
        },
        kept=_mean(row["kept"] for row in held_out),
        psnr=_mean(row["psnr"] for row in held_out),
        faults=tuple(faults.most_common(_NUM_FAULTS)),
    )


def _share(rows: Sequence[Row]) -> RightShare | None:
    if not rows:
        return None
    claims = _by_claim(rows)
    return RightShare(
        share=float(np.mean([row["is_right"] for row in rows])),
        num_prompts=len({(row["kind"], row["prompt"]) for row in rows}),
        num_claims=len(claims),
        num_images=len(rows),
        interval=share_interval(claims),
    )


def _by_claim(rows: Sequence[Row]) -> dict[Hashable, list[float]]:
    """The verdicts on each distinct claim; of rows of before there were claims, on each prompt."""
    claims: dict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        claims[row["kind"], row.get("claim", row["prompt"])].append(float(row["is_right"]))
    return claims


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _looked_up(rows: Sequence[Row], lookups: Mapping[str, bool]) -> float | None:
    right = {row["prompt"]: lookups[row["prompt"]] for row in rows if row["prompt"] in lookups}
    return float(np.mean(list(right.values()))) if right else None


def look_up(asked: Mapping[str, Sequence[StorybookPrompt]], num_training: int = LOOKUP_PROMPTS,
            seed: int = 0) -> dict[str, bool]:  # fmt: skip
    """By the key of each held-out prompt, whether the picture of the nearest training prompt is right.

    Args:
        asked: prompts by ability (a variant's name); those of edits are left out.
        num_training: training prompts of each kind of the three abilities that draw from words.
        seed: of the training prompts.
    """
    rng = np.random.default_rng((seed, 1))  # not the prompts' own
    training = [
        sample(rng, kind, "trained")
        for ability in _LOOKED_UP
        for kind in kinds_of(ABILITIES[ability])
        for _ in range(num_training)
    ]
    prompts = [
        prompt
        for ability in _LOOKED_UP
        for prompt in asked.get(ability, ())
        if prompt.level != "trained" and not prompt.is_direct
    ]
    if not prompts:
        return {}
    answers = nearest_prompt_answers(training, [prompt.example for prompt in prompts])
    return {prompt.key: right for prompt, right in zip(prompts, answers, strict=True)}
