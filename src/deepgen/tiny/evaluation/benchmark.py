"""The storybook benchmark: prompts of the embedded model's world, scored exactly from pixels.

A variant an ability. Prompts are of all kinds of the world and, but for a control, held out from training
(see tiny/evaluation/prompts.py); a picture is right when everything that is asked for holds and nothing extra
is there. `deepgen eval storybook` runs all variants and writes the table by ability, kind and level.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import deepgen.tiny
from deepgen.checkpoints.file_hash import hash_file
from deepgen.evaluation.benchmark import Benchmark, Item, ItemScore, Protocol, Settings
from deepgen.evaluation.scorers import Scorers
from deepgen.tiny.claims import Claim, EditClaim, to_json
from deepgen.tiny.evaluation.prompts import ABILITIES, prompts_of
from deepgen.tiny.evaluation.scores import score_image
from deepgen.tiny.render import CANVAS

_JUDGES = ("read.py", "claims.py", "scene.py")  # what a verdict is made with


@dataclass(frozen=True, kw_only=True)
class StorybookBenchmark(Benchmark):
    """One ability of the five. `num_prompts` are held-out prompts of each kind."""

    num_prompts: int = 96

    name = "storybook"
    variants = tuple(ABILITIES)
    settings = Settings(num_inference_steps=None, guidance_scale=None, height=CANVAS, width=CANVAS, seed=0)

    @property
    def is_edit(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the variant."""
        return self.variant in ("editing", "reasoning-editing")

    def read_items(self, data_dir: Path) -> tuple[list[Item], list[str]]:
        """No file is read."""
        return [prompt.to_item() for prompt in prompts_of(ABILITIES[self.variant], self.num_prompts)], []

    def image_path(self, item: Item, sample: int) -> str:
        """images/riddle-0123456789ab-0.png."""
        return f"images/{item.id}-{sample}.png"

    def scorer_version(self, scorers: Scorers) -> str:
        """Verdicts of another reader are not reused."""
        folder = Path(deepgen.tiny.__file__).parent
        return " ".join([super().scorer_version(scorers), *(hash_file(folder / n)[:8] for n in _JUDGES)])

    def score(self, item: Item, images: Sequence[Image.Image], scorers: Scorers) -> ItemScore:
        """Exact, from pixels."""
        prompt = item.metadata["storybook"]
        verdicts = [score_image(prompt.example.claim, image) for image in images]
        facts = {
            "kind": prompt.example.kind,
            "level": prompt.level,
            "is_direct": prompt.is_direct,
            "prompt": prompt.key,
            "claim": claim_key(prompt.example.claim),
        }
        return ItemScore(
            item=item.id,
            category=item.category,
            value=float(np.mean([verdict.is_right for verdict in verdicts])),
            rows=tuple({**facts, **asdict(verdict)} for verdict in verdicts),
            words="; ".join("right" if verdict.is_right else verdict.reason for verdict in verdicts),
            num_expected=len(verdicts),
            num_scored=len(verdicts),
        )

    def aggregate(self, scores: Sequence[ItemScore], protocol: Protocol) -> dict[str, float]:
        """Shares of right pictures: of each kind on held-out prompts, their mean, levels and controls."""
        right: dict[str, list[bool]] = defaultdict(list)
        kinds: list[str] = []
        kept: list[float] = []
        for row in (row for each in scores for row in each.rows):
            if row["is_direct"]:
                right["control: asked directly"].append(row["is_right"])
            elif row["level"] == "trained":
                right["control: trained prompts"].append(row["is_right"])
            else:
                kinds.append(row["kind"])
                right[row["kind"]].append(row["is_right"])
                right[f"level: {row['level']}"].append(row["is_right"])
                kept += [] if row["kept"] is None else [row["kept"]]
        if not kinds:
            raise ValueError("storybook: no held-out prompt has a verdict; raise the limit")
        shares = {name: sum(values) / len(values) for name, values in right.items()}
        names = list(dict.fromkeys(kinds))
        table = {"overall": float(np.mean([shares[name] for name in names]))}
        table |= {name: shares[name] for name in names}
        table |= {name: shares[name] for name in sorted(shares) if name not in table}
        return table | ({"cells kept": float(np.mean(kept))} if kept else {})


def claim_key(claim: Claim | EditClaim) -> str:
    """Equal where the same has to hold in a picture, in whatever words it is asked."""
    return hashlib.sha256(json.dumps(to_json(claim), sort_keys=True).encode()).hexdigest()[:16]


benchmark = StorybookBenchmark
