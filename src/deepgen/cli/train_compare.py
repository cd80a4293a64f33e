"""`deepgen train compare`: what a run changed, in pictures of the same prompts before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from deepgen.cli.outputs import check_folder


@dataclass(frozen=True, kw_only=True)
class TrainCompare:
    """Draw the same prompts with the model a run began with and with what it became, on one sheet."""

    run_dir: Positional[Annotated[Path, arg(metavar="RUN")]]
    """The folder of the run."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE.png")] = None
    """The picture to write; default RUN/before_after.png."""
    prompt: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """A prompt of your own; repeat for several."""
    captions: Annotated[int | None, arg(metavar="INT")] = None
    """How many captions of the run's data; default the recipe's before_after.num_captions, or 4."""
    seed: int = 0
    """Of the first prompt; the next has the next."""
    preset: Literal["exact", "balanced", "fast", "turbo"] = "balanced"
    """How it is drawn, as in `generate`."""
    weights: Literal["ema", "raw"] = "ema"
    """As in `train export`."""
    strength: float = 1.0
    """As in `train export`."""

    def run(self) -> int:
        """Exit code 0 when the sheet is written."""
        if self.output is not None:
            if self.output.suffix.lower() != ".png":
                raise ValueError(f"--output {self.output}: the sheet is written as .png")
            check_folder(self.output.parent)
        from deepgen.recipes import compare_run

        changes = {"seed": str(self.seed), "preset": self.preset}
        if self.captions is not None:
            changes["num_captions"] = str(self.captions)
        print(
            compare_run(
                self.run_dir,
                self.output,
                prompts=self.prompt,
                changes=changes,
                weights=self.weights,
                strength=self.strength,
            )
        )
        return 0
