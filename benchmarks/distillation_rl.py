"""Reinforcement learning of a distilled model beside that of its teacher, from one set-up.

    python benchmarks/distillation_rl.py OUTPUT --student STUDENT

Both learn the same weak kinds of captions, with the same prompts, groups, rewards, adapter and learning
rate; each is drawn in the rollout as a user draws it: the teacher with its guidance in its own number of
steps, the student in four steps without. "teacher in 8 steps" has cheaper rollouts, as recipe rl-shapes
has, and is scored as the teacher is. The cost is counted in passes of one branch of one image through
the DiT: one for each solver step and branch, three for each trained step and branch (forward, and a
backward of twice the work). Before and after, held-out prompts of these kinds are drawn and scored exactly.
Writes OUTPUT.json; what is there is not repeated. STUDENT is the exported folder of a `distill` run.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tyro.conf import Positional, arg

from deepgen.evaluation.benchmarks.shapes import prompts, score
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes.rl import rl_shapes
from deepgen.rl.recipe import RLConfig
from deepgen.sampling.windows import WindowConfig
from deepgen.training.adapters import LoraSettings
from deepgen.training.export import Trained
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig

TRAINED = {"teacher": 3, "teacher in 8 steps": 3, "student": 2}  # steps of a rollout, from the first on
PASSES_OF_A_TRAINED_STEP = 3
MIX = """\
rewards: {{right: {{scorer: shapes, credit: partial}}}}
datasets:
  - {{name: weak, shapes: generate, kinds: [{kinds}], rows: 1000, rewards: {{right: 1}}}}
"""

Way = Literal["teacher", "teacher in 8 steps", "student"]
_STEPS = {"teacher": 24, "teacher in 8 steps": 8, "student": 4}  # of a rollout


@dataclass(frozen=True, kw_only=True)
class DistillationRL:
    """Run what is missing, and write the table."""

    output: Positional[Annotated[Path, arg(metavar="OUTPUT")]]
    student: Path
    model: str = "shapes"
    ways: tuple[Way, ...] = ("student", "teacher in 8 steps", "teacher")
    kinds: tuple[str, ...] = ("two", "relation", "counting")
    seeds: tuple[int, ...] = (0,)
    steps: int = 50
    """Rollouts of each."""
    prompts: int = 12
    group_size: int = 8
    lr: float = 1e-3
    limit: int = 96
    """Held-out items of each kind."""

    def run(self) -> None:
        """Train, score, print."""
        torch.set_num_threads(1)
        file = self.output.with_suffix(".json")
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        for seed in self.seeds:
            for way in self.ways:
                if f"{way} {seed}" not in found:
                    found[f"{way} {seed}"] = self._measured(way, seed)
                    file.write_text(json.dumps(found, indent=1) + "\n")
        print(table(found))

    def _measured(self, way: Way, seed: int) -> dict[str, Any]:
        run_dir = self.output.with_name(f"{self.output.name}_{way.replace(' ', '_')}_{seed}")
        config = self.config(way, seed)
        train(config, run_dir, resume="auto")
        lines = map(json.loads, (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines())
        log = [line for line in lines if "dit_passes" in line]
        drawn = sum(row["dit_passes"] for row in log)
        images = self.prompts * self.group_size * len(log)
        branches = 1 if way == "student" else 2
        passes = drawn + images * TRAINED[way] * PASSES_OF_A_TRAINED_STEP * branches
        before = DeepGenPipeline.from_pretrained(config.model or "")
        after = Trained(config, run_dir).load()
        return {
            "passes": passes,
            "passes_per_image": passes / images,
            "rewards": [row["reward"] for row in log],
            "before": self._right(before, way),
            "after": self._right(after, way),
        }

    def config(self, way: Way, seed: int) -> RLConfig:
        """Of one run."""
        mix = self.output.with_name("distillation_rl_prompts.yaml")
        mix.write_text(MIX.format(kinds=", ".join(self.kinds)))
        own = {"model": str(self.student), "guidance_scale": 1.0}
        if way != "student":
            own = {"model": self.model, "guidance_scale": None}
        return replace(
            rl_shapes(),
            **own,
            num_inference_steps=_STEPS[way],
            seed=seed,
            prompts=mix,
            num_steps=self.steps,
            save_every=4,
            prompts_per_rollout=self.prompts,
            group_size=self.group_size,
            window=WindowConfig(kind="fixed", size=TRAINED[way]),
            transformer_lora=LoraSettings(rank=32, alpha=64, dropout=0.0),
            optim=OptimConfig(lr=self.lr, muon_lr=None, warmup_steps=5, decay_share=0.3, betas=(0.9, 0.99)),
            sheet_every=0,
            num_threads=1,
        )

    def _right(self, pipe: DeepGenPipeline, way: Way) -> float:
        """Share of right pictures of the weak kinds, drawn as a user does."""
        pipe.set_progress_bar_config(disable=True)
        options = {"preset": "turbo"} if way == "student" else {}
        items = [item for item in prompts(self.limit) if item.kind in self.kinds]
        verdicts: list[bool] = []
        for begin in range(0, len(items), 24):
            some = items[begin : begin + 24]
            seeds = list(range(begin, begin + len(some)))
            drawn = pipe([item.text for item in some], seed=seeds, **options).images
            verdicts += [score(item, image).is_right for item, image in zip(some, drawn, strict=True)]
        return statistics.fmean(verdicts)


def table(found: dict[str, Any]) -> str:
    """Markdown, a line for each run."""
    lines = [
        "| run, seed | rollouts | passes an image | passes | right before | after | points, 10,000 passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        gain = 100 * (one["after"] - one["before"])
        lines.append(
            f"| {name} | {len(one['rewards'])} | {one['passes_per_image']:.0f} | {one['passes']:,.0f} | "
            f"{one['before']:.3f} | {one['after']:.3f} | {10_000 * gain / one['passes']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(DistillationRL).run()
