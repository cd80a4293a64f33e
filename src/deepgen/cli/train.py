"""`deepgen train`: look at a run's data, run a recipe, plan it, plot its curves, compare it with its start,
export its model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitSubcommandPrefixes, Positional, UseAppendAction, arg, subcommand

from deepgen.cli.options import PluginOptions
from deepgen.cli.outputs import check_file_name, check_folder, print_report
from deepgen.cli.recipe_fields import given_fields, recipe_in, recipe_names, with_fields
from deepgen.cli.train_compare import TrainCompare
from deepgen.processes import launched
from deepgen.suggestions import suggestion, suggestion_or_all
from deepgen.user_files import split_place


@dataclass(frozen=True, kw_only=True)
class _Recipe(PluginOptions):
    """What names a recipe and changes it."""

    recipe: Positional[Annotated[str, arg(metavar="RECIPE")]]
    """Its name; a wrong one lists those there are. With it, --help shows its fields. Or PATH.py:NAME."""
    data: Annotated[Path | None, arg(metavar="FOLDER|FILE")] = None
    """What to train on: a folder of pictures with captions, a mixture file, or PATH.py:NAME, a source."""
    prompts: Annotated[Path | None, arg(metavar="FILE")] = None
    """For reinforcement learning and distillation: a mix of prompts (.yaml), or a .txt, .jsonl or .parquet
    file."""
    rewards: Annotated[tuple[str, ...], arg(metavar="NAME=WEIGHT")] = ()
    """For reinforcement learning on a file that is no mix: what its pictures are worth. NAME may be the
    place of your own, as mine.py:redness."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """What to start from; default the recipe's. `none`: base models, --vlm ... --transformer ... --vae ..."""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="FIELD=VALUE")] = ()
    """Change fields of the recipe, several at once or repeated; optim.lr=1e-4 is `--optim.lr 1e-4`."""

    def overrides(self) -> dict[str, str]:
        """Dotted field of the recipe -> its new value as text."""
        changes = _overrides(self.set)
        for name, value in given_fields(self, own=_OWN).items():
            if changes.setdefault(name, value) != value:
                raise ValueError(
                    f"{name} is given twice: --{name} {value} and --set {name}={changes[name]}; drop one"
                )
        if self.data is not None:
            changes["data"] = str(self.data)
        if self.prompts is not None:
            changes["prompts"] = str(self.prompts)
        if self.rewards:
            changes["rewards"] = ",".join(self.rewards)
        if self.model is not None:
            changes["model"] = self.model
        return changes


@dataclass(frozen=True, kw_only=True)
class TrainRun(_Recipe):
    """Train with a named recipe; `deepgen train RECIPE` is the same."""

    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FOLDER")] = None
    """Where checkpoints and logs go; default runs/RECIPE."""
    resume: Annotated[Literal["newest", "auto"] | None, arg(metavar="[auto]")] = None
    """Go on from the newest checkpoint in the output folder; `--resume auto` takes the newest whole one."""
    accept_changes: bool = False
    """Resume although data, prompts, rewards or fields changed in a way that changes what a step means."""
    dry_run: bool = False
    """Two steps from data to checkpoint, in OUTPUT/dry-run, to see that everything is there."""

    def run(self) -> int:
        """Exit code 0 when the run has reached its last step."""
        overrides = self.overrides()
        from deepgen.recipes import run

        output = self.output or Path("runs") / _short(self.recipe)
        if self.dry_run:
            output = output / "dry-run"
            overrides.update(num_steps="2", log_every="1", save_every="2")
        run(
            self.recipe,
            output_dir=output,
            resume="auto" if self.resume == "auto" else self.resume is not None,
            overrides=overrides,
            accept_changes=self.accept_changes,
        )
        if launched().rank == 0:
            print(output)
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainPlan(_Recipe):
    """Print what a run would need - memory, arithmetic, hours, cost - and start nothing."""

    card: Annotated[str, arg(metavar="NAME")] = "h100"
    """The accelerator, or cpu; a wrong name lists those there are."""
    cards: int = 1
    """How many of them."""
    price: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Of one card and hour."""

    def run(self) -> int:
        """Exit code 0."""
        overrides = self.overrides()
        from deepgen.recipes import plan_run

        print(plan_run(self.recipe, overrides, self.card, self.cards, self.price))
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainPreflight(_Recipe):
    """Look for seconds at the data of a run: words, sizes, duplicates, and what the VAE loses."""

    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE.png")] = None
    """A sheet of pictures as they are trained on, each above what the VAE makes of it."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 when there is nothing to warn of, 1 otherwise."""
        overrides = self.overrides()
        if self.output is not None:
            check_file_name(self.output)
            check_folder(self.output.parent)
        from deepgen.recipes import preflight_run

        found = preflight_run(self.recipe, overrides, self.output)
        print_report(found, as_json=self.json)
        return 1 if found.warnings else 0


# The options of these commands, in distinction from a recipe's fields.
_OWN = tuple({field.name for command in (TrainRun, TrainPlan, TrainPreflight) for field in fields(command)})


@dataclass(frozen=True, kw_only=True)
class TrainExport(PluginOptions):
    """Write what a run made: a whole model, a LoRA file, or the original's layout."""

    run_dir: Positional[Annotated[Path, arg(metavar="RUN")]]
    """The folder of the run."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FOLDER")] = None
    """Where it goes; default RUN/export."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving averages, where the run kept them, or the last step's weights."""
    strength: float = 1.0
    """Interpolation between the model at the start (0) and the trained one (1); smaller forgets less."""
    lora_file: bool = False
    """A file for --lora instead of a whole model."""
    native: bool = False
    """The original's layout, with the VLM's LoRA and without VLM and VAE."""

    def run(self) -> int:
        """Exit code 0 when it is written."""
        if self.lora_file and self.native:
            raise ValueError(
                "an export is a LoRA file or in the original's layout; drop one of the two options"
            )
        from deepgen.recipes import export

        output = self.output or self.run_dir / "export"
        what = "lora" if self.lora_file else "native" if self.native else "folder"
        export(self.run_dir, output, what=what, weights=self.weights, strength=self.strength)
        print(output)
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainPlot:
    """Draw the curves of a run."""

    run_dir: Positional[Annotated[Path, arg(metavar="RUN")]]
    """The folder of the run."""

    def run(self) -> int:
        """Exit code 0 when they are drawn."""
        from deepgen.training.plot import plot_run

        print(plot_run(self.run_dir))
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainGate:
    """Say what reinforcement learning cost other abilities: the run's last evaluation against its first."""

    run_dir: Positional[Annotated[Path, arg(metavar="RUN")]]
    """The folder of the run."""
    largest_fall: float = 2.0
    """How many points a set of the run's evaluation may lose."""

    def run(self) -> int:
        """Exit code 1 where a set lost more."""
        from deepgen.rl.gate import changes_of, fallen, table

        if self.largest_fall < 0:
            raise ValueError(f"--largest-fall must be at least 0, got {self.largest_fall:g}")
        changes = changes_of(self.run_dir)
        print(table(changes))
        lost = fallen(changes, self.largest_fall)
        if lost:
            names = ", ".join(f"{change.name} by {-change.points:.1f}" for change in lost)
            print(f"deepgen: fell by more than {self.largest_fall:g} points: {names}", file=sys.stderr)
        return 1 if lost else 0


_COMMANDS: dict[str, type] = {
    "run": TrainRun,
    "plan": TrainPlan,
    "preflight": TrainPreflight,
    "export": TrainExport,
    "plot": TrainPlot,
    "compare": TrainCompare,
    "gate": TrainGate,
}


@dataclass(frozen=True)
class Train:
    """Train with a named recipe (`train run RECIPE`), and look after what a run made."""

    command: OmitSubcommandPrefixes[
        Annotated[TrainRun, subcommand("run")]
        | Annotated[TrainPlan, subcommand("plan")]
        | Annotated[TrainPreflight, subcommand("preflight")]
        | Annotated[TrainExport, subcommand("export")]
        | Annotated[TrainPlot, subcommand("plot")]
        | Annotated[TrainCompare, subcommand("compare")]
        | Annotated[TrainGate, subcommand("gate")]
    ]

    def run(self) -> int:
        """Exit code of the command under it."""
        return self.command.run()


def with_command(words: Sequence[str]) -> list[str]:
    """The words after `deepgen train`, beginning with its command.

    `RECIPE ...` is `run RECIPE ...`, and with `--plan` it is `plan RECIPE ...`: so it was before there were
    commands.
    """
    words = _with_resume(words)
    if not words or words[0] in (*_COMMANDS, "-h", "--help"):
        return words
    if "--plan" in words:
        return ["plan", *(word for word in words if word != "--plan")]
    return ["run", *words]


def _with_resume(words: Sequence[str]) -> list[str]:
    """`--resume` alone means the newest checkpoint; the parser wants that said."""
    said: list[str] = []
    for place, word in enumerate(words):
        said.append(word)
        if word == "--resume" and words[place + 1 : place + 2] not in (["auto"], ["newest"]):
            said.append("newest")
    return said


def for_recipe(words: Sequence[str]) -> type:
    """`Train`, with the fields of the recipe that is named as options of `run`, `plan` and `preflight`.

    Raises:
        ValueError: there is no such recipe.
    """
    if words[:1] not in (["run"], ["plan"], ["preflight"]):
        return Train
    recipe = recipe_in(words[1:])
    if recipe is None:
        if words[1:] and not words[1].startswith("-"):
            known = recipe_names()
            near = suggestion(words[1], [*known, *_COMMANDS]) or suggestion_or_all(words[1], known)
            raise ValueError(f"unknown recipe {words[1]!r}{near}")
        return Train
    kinds = {**_COMMANDS, words[0]: with_fields(_COMMANDS[words[0]], recipe)}
    union = reduce(or_, (Annotated[kind, subcommand(name)] for name, kind in kinds.items()))
    made = make_dataclass("Train", [("command", OmitSubcommandPrefixes[union])], bases=(Train,), frozen=True)
    made.__doc__ = Train.__doc__
    return made


def _short(recipe: str) -> str:
    """The name of a recipe, of one's own that of its function."""
    place = split_place(recipe)
    return recipe if place is None else place.short


def _overrides(groups: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    """`field=value` pairs as a dictionary."""
    assignments = [assignment for group in groups for assignment in group]
    wrong = [assignment for assignment in assignments if "=" not in assignment]
    if wrong:
        raise ValueError(f"--set {wrong[0]!r} is not FIELD=VALUE; try --set steps=100")
    return dict(assignment.split("=", 1) for assignment in assignments)
