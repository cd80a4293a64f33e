"""`deepgen eval`: draw a benchmark's prompts and score the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from deepgen.commands.loading import load_pipeline
from deepgen.commands.options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class Eval(ModelOptions):
    """Score a model on a benchmark."""

    benchmark: Positional[Literal["shapes"]]
    """Which benchmark; `shapes` is the small model's own world."""

    def run(self) -> int:
        """Exit code 0 once the scores are printed."""
        from deepgen.eval.benchmarks.shapes import evaluate

        pipe = load_pipeline(self)
        print(evaluate(pipe))
        return 0
