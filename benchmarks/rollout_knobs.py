"""What the knobs of a rollout do to what is drawn, before anything is trained.

    python benchmarks/rollout_knobs.py MODEL [--kind relation] [--output FILE]

Every setting draws the same prompts of one kind of the shapes. The table says how many pictures are right,
how many groups are flat (all right or all wrong: nothing to learn from), how wide a group is spread,
and what a rollout costs in passes of an image through the DiT. Writes Markdown.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional, arg

from deepgen.recipes.rl import rl_shapes
from deepgen.sampling.windows import WindowConfig
from deepgen.training.parallel import Processes

MIX = """\
rewards: {{right: {{scorer: shapes, credit: {credit}}}}}
datasets:
  - {{name: one kind, shapes: {task}, kinds: [{kind}], rows: 1000, rewards: {{right: 1}}}}
"""


def _window(start: int, size: int) -> dict[str, Any]:
    return {"window": WindowConfig(kind="fixed", start=start, size=size)}


SETTINGS: dict[str, dict[str, Any]] = {
    "rl-shapes: cps, eta 0.8, steps 1-3 of 8, shared noise": {},
    "noise of each image its own": {"shares_noise": False},
    "eta 0.4": {"eta": 0.4},
    "eta 1": {"eta": 1.0},
    "flow, eta 0.7": {"sampler": "flow", "eta": 0.7},
    "dance, eta 0.3": {"sampler": "dance", "eta": 0.3},
    "step 1 alone": _window(0, 1),
    "steps 3-5": _window(2, 3),
    "steps 5-7": _window(4, 3),
    "all steps stochastic": {"window": WindowConfig(kind="full")},
    "guidance 1.75": {"guidance_scale": 1.75},
    "16 steps, 1-6 stochastic": {"num_inference_steps": 16, **_window(0, 6)},
    "partial credit": {"credit": "partial"},
}


@dataclass(frozen=True, kw_only=True)
class RolloutKnobs:
    """Draw a rollout with each setting."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]]
    kind: str = "relation"
    task: str = "generate"
    prompts: int = 32
    output: Path | None = None

    def run(self) -> None:
        """The table, on the screen and in `output`."""
        lines = ["| rollout | right | flat groups | spread | DiT passes |", "|---|---:|---:|---:|---:|"]
        print("\n".join(lines), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for name, changes in SETTINGS.items():
                lines.append(self._row(name, dict(changes), Path(folder)))
                print(lines[-1], flush=True)
        if self.output is not None:
            self.output.write_text("\n".join(lines) + "\n")

    def _row(self, name: str, changes: dict[str, Any], folder: Path) -> str:
        mix = folder / "prompts.yaml"
        credit = changes.pop("credit", "exact")
        mix.write_text(MIX.format(credit=credit, task=self.task, kind=self.kind))
        config = replace(
            rl_shapes(),
            model=self.model,
            prompts=mix,
            prompts_per_rollout=self.prompts,
            sheet_every=0,
            device="cpu",
            num_threads=1,
            **changes,
        )
        torch.set_num_threads(1)
        stage = config.build(Processes("cpu"))
        experience = stage.explore(0)
        rewards = experience.judged.scores.rewards[:, 0].reshape(self.prompts, config.group_size)
        trained = len(stage.rollout_sampler.window(0).trained)
        branches = 2 if config.guidance_scale > 1 else 1
        passes = config.num_inference_steps + 3 * trained
        return (
            f"| {name} | {rewards.mean():.2f} | {(rewards.std(1) == 0).mean():.0%} "
            f"| {rewards.std(1).mean():.2f} | {passes * branches} |"
        )


if __name__ == "__main__":
    tyro.cli(RolloutKnobs).run()
