"""`deepgen eval`: draw a benchmark's prompts and score the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from deepgen.commands.loading import load_pipeline
from deepgen.commands.options import ModelOptions
from deepgen.commands.outputs import check_folder


@dataclass(frozen=True, kw_only=True)
class Eval(ModelOptions):
    """Score a model on a benchmark."""

    benchmark: Positional[Literal["shapes"]]
    """Which benchmark; `shapes` is the small model's own world."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("outputs/eval")
    """Where scores and pictures go."""
    limit: int = 48
    """Items of each kind."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Solver steps; default the model's own."""
    seed: int = 0
    """Of the items and of the noise."""

    def run(self) -> int:
        """Exit code 0 once the scores are printed."""
        from deepgen.eval.benchmarks.shapes import evaluate

        check_folder(self.output)
        pipe = load_pipeline(self)
        pipe.set_progress_bar_config(disable=True)
        report = evaluate(
            pipe, limit_per_kind=self.limit, num_steps=self.steps, seed=self.seed, output_dir=self.output
        )
        print(report)
        return 0
