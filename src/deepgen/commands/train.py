"""`deepgen train`: run a recipe, draw its curves, hold it against its start, export what it made."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train with a named recipe; `train export RUN` writes what a run made, `train plot RUN` draws its
    curves, `train gate RUN` says what reinforcement learning cost other abilities.
    """

    recipe: Positional[Annotated[str, arg(metavar="RECIPE|export|plot|gate")]]
    """The recipe's name; a wrong one lists those there are."""
    run_dir: Positional[Annotated[Path | None, arg(metavar="RUN")]] = None
    """For export, plot and gate: the folder of the run."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FOLDER")] = None
    """Where checkpoints and logs go (default runs/RECIPE), or the export (default RUN/export)."""
    resume: bool = False
    """Go on from the newest checkpoint in the output folder."""
    data: Annotated[Path | None, arg(metavar="FOLDER|FILE")] = None
    """What to train on: a folder of pictures with captions, or a mixture file."""
    prompts: Annotated[Path | None, arg(metavar="FILE")] = None
    """For reinforcement learning: a mix of prompts (.yaml), or a .txt, .jsonl or .parquet file."""
    rewards: Annotated[tuple[str, ...], arg(metavar="NAME=WEIGHT")] = ()
    """For reinforcement learning on a file that is no mix: what its pictures are worth."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """What to start from; default the recipe's. `none`: base models, --set vlm=... transformer=... vae=..."""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="FIELD=VALUE")] = ()
    """Change fields of the recipe, such as optim.lr=1e-4; several at once, or with the option repeated."""
    dry_run: bool = False
    """Two steps from data to checkpoint, in OUTPUT/dry-run, to see that everything is there."""
    plan: bool = False
    """Print what the run would need - memory, arithmetic, hours, cost - and start nothing."""
    card: Annotated[str, arg(metavar="NAME")] = "h100"
    """For --plan: the accelerator, or cpu; a wrong name lists those there are."""
    cards: int = 1
    """For --plan: how many of them."""
    price: Annotated[float | None, arg(metavar="FLOAT")] = None
    """For --plan: of one card and hour."""
    weights: Literal["ema", "raw"] = "ema"
    """For export: the moving averages, where the run kept them, or the last step's weights."""
    strength: float = 1.0
    """For export: how far from the model the run began with (0) to what it became (1); less forgets less."""
    lora_file: bool = False
    """For export: a file for --lora instead of a whole model."""
    native: bool = False
    """For export: the original's layout, with the VLM's LoRA and without VLM and VAE."""
    largest_fall: float = 2.0
    """For gate: how many points a set of the run's evaluation may lose; exit code 1 where one lost more."""

    def run(self) -> int:
        """Exit code 0 when the run has reached its last step, or the export or plot is written."""
        others = {"export": self._export, "plot": self._plot, "gate": self._gate}
        if self.recipe in others:
            return others[self.recipe]()
        if self.run_dir is not None:
            raise ValueError(
                f"{self.run_dir} is one word too many; `deepgen train RECIPE` takes its folder with --output"
            )
        overrides = _overrides(self.set)
        if self.data is not None:
            overrides["data"] = str(self.data)
        if self.prompts is not None:
            overrides["prompts"] = str(self.prompts)
        if self.rewards:
            overrides["rewards"] = ",".join(self.rewards)
        if self.model is not None:
            overrides["model"] = self.model
        if self.plan:
            from deepgen.recipes import plan_run

            print(plan_run(self.recipe, overrides, self.card, self.cards, self.price))
            return 0
        from deepgen.recipes import run

        output = self.output or Path("runs") / self.recipe
        if self.dry_run:
            output = output / "dry-run"
            overrides.update(num_steps="2", log_every="1", save_every="2")
        run(self.recipe, output_dir=output, resume=self.resume, overrides=overrides)
        print(output)
        return 0

    def _export(self) -> int:
        from deepgen.recipes import export

        run_dir = self._named_run()
        output = self.output or run_dir / "export"
        if self.lora_file and self.native:
            raise ValueError(
                "an export is a LoRA file or in the original's layout; drop one of the two options"
            )
        what = "lora" if self.lora_file else "native" if self.native else "folder"
        export(run_dir, output, what=what, weights=self.weights, strength=self.strength)
        print(output)
        return 0

    def _plot(self) -> int:
        from deepgen.train.plot import plot_run

        print(plot_run(self._named_run()))
        return 0

    def _gate(self) -> int:
        from deepgen.rl.gate import changes_of, fallen, table

        if self.largest_fall < 0:
            raise ValueError(f"--largest-fall must be at least 0, got {self.largest_fall:g}")
        changes = changes_of(self._named_run())
        print(table(changes))
        lost = fallen(changes, self.largest_fall)
        if lost:
            names = ", ".join(f"{change.name} by {-change.points:.1f}" for change in lost)
            print(f"deepgen: fell by more than {self.largest_fall:g} points: {names}", file=sys.stderr)
        return 1 if lost else 0

    def _named_run(self) -> Path:
        if self.run_dir is None:
            raise ValueError(f"which run? give its folder: deepgen train {self.recipe} runs/NAME")
        return self.run_dir


def _overrides(groups: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    """`field=value` pairs as a dictionary."""
    assignments = [assignment for group in groups for assignment in group]
    wrong = [assignment for assignment in assignments if "=" not in assignment]
    if wrong:
        raise ValueError(f"--set {wrong[0]!r} is not FIELD=VALUE; try --set steps=100")
    return dict(assignment.split("=", 1) for assignment in assignments)
