"""Recipes: complete training configurations by name."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepgen.embedded import FORMER_RECIPES
from deepgen.processes import launched
from deepgen.recipes.describe import changed_fields
from deepgen.recipes.own import own_recipes
from deepgen.suggestions import suggestion_or_all
from deepgen.training.config import TrainConfig
from deepgen.training.loop import train
from deepgen.training.overrides import override
from deepgen.training.resuming import Resume
from deepgen.training.run_folder import read_run
from deepgen.user_files import absolute, named_by, split_place

logger = logging.getLogger(__name__)

# A new file of recipes has a table RECIPES and a line here.
_MODULES = (
    *("deepgen.recipes.shapes", "deepgen.tiny.recipes"),
    *("deepgen.recipes.supervised", "deepgen.recipes.rl", "deepgen.recipes.distill"),
)
# Of no use to a finished run, and perhaps a file of the user's own.
_OF_THE_LOSS = ("objective", "objective_options")
# What a run began with: read from its folder, whatever its recipe says today.
_ORIGIN = ("model", "vlm", "transformer", "vae", "new_connector", "connector_options", "seed")

if TYPE_CHECKING:
    from deepgen.distillation.plan import DistillPlan
    from deepgen.rl.plan import RLPlan
    from deepgen.training.plan import TrainingPlan
    from deepgen.training.preflight import Preflight


def run(
    recipe_name: str,
    output_dir: Path,
    resume: Resume = False,
    overrides: Mapping[str, str] | None = None,
    accept_changes: bool = False,
) -> None:
    """Run a named recipe.

    Args:
        recipe_name: such as `shapes-dit`, or the place of one's own, `mine.py:mine`.
        output_dir: gets the resolved config, the log and checkpoints.
        resume: continue from the newest checkpoint there; "auto" from the newest whole one.
        overrides: dotted field names and their new values as text, such as {"optim.lr": "1e-4"}.
        accept_changes: go on although what a step means has changed since the checkpoint.
    """
    output_dir = Path(output_dir)
    from deepgen.training.start import Start

    as_written = recipe(recipe_name)
    changes = {name: absolute(value) for name, value in (overrides or {}).items()}
    config = override(as_written, changes)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if launched().rank == 0:
        print(f"{recipe_name} -> {output_dir}")
        print("\n".join(changed_fields(as_written, config)) or "every field as in the recipe")
        if isinstance(start := getattr(config, "start", None), Start):
            print(f"starts from: {start}")
    state = train(
        config,
        output_dir,
        resume=resume,
        accept_changes=accept_changes,
        about={"recipe": absolute(recipe_name), "overrides": changes},
    )
    is_complete = state.step >= config.num_steps
    del state  # the memory of the model is wanted again
    if is_complete and getattr(config, "before_after", None) is not None:
        _compare_at_the_end(output_dir)


def _compare_at_the_end(output_dir: Path) -> None:
    """Draw prompts before and after; a run that is saved is not lost by what goes wrong here."""
    from deepgen.training.parallel import Processes

    if not Processes(recipe_of(output_dir).device).is_main:
        return
    try:
        print(f"before and after: {compare_run(output_dir)}")
    except (ValueError, OSError, RuntimeError) as error:
        logger.warning(
            "warning: the run is complete and saved, but no prompts could be drawn before and after: %s. "
            "Try it again with: deepgen train compare %s",
            error,
            output_dir,
        )


def compare_run(
    run_dir: Path,
    output: Path | None = None,
    *,
    prompts: Sequence[str] = (),
    changes: Mapping[str, str] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    strength: float = 1.0,
) -> Path:
    """Draw prompts by the model a run began with and by what it became, on one sheet.

    Args:
        run_dir: the run.
        output: the picture; by default in the run's folder.
        prompts: besides captions of the run's data and prompts of a small model's world.
        changes: of the recipe's `before_after`, by field.
        weights: see `Trained`.
        strength: see `Trained`.

    Raises:
        ValueError, OSError: the run is not of a supervised recipe, or cannot be read.
    """
    from deepgen.training.before_after import FILE, compare
    from deepgen.training.export import Trained
    from deepgen.training.parallel import Processes
    from deepgen.training.supervised import SupervisedConfig
    from deepgen.training.supervised_settings import BeforeAfterConfig

    config = recipe_of(run_dir)
    if not isinstance(config, SupervisedConfig):
        raise ValueError(
            f"{run_dir} is a run of {type(config).__name__}, which trains a part of a small model"
        )
    chosen = override(config.before_after or BeforeAfterConfig(), changes or {})
    output = output or run_dir / FILE
    trained = Trained(config, run_dir, weights, strength)
    compare(trained, chosen, Processes(config.device).device, prompts).save(output)
    return output


def recipe(name: str) -> TrainConfig:
    """The recipe of that name, or of a place such as `mine.py:mine`.

    Raises:
        FileNotFoundError, ValueError: there is none, with the nearest or those there are; or what is wrong in
            the user's file.
    """
    recipes, name = _recipes(), FORMER_RECIPES.get(name, name)
    if split_place(name) is not None or (name not in recipes and name in own_recipes(recipes).names()):
        return own_recipes(recipes).load(name).recipe()
    if name not in recipes:
        raise ValueError(f"unknown recipe {name!r}{suggestion_or_all(name, list(recipes))}")
    return recipes[name]()


def recipe_names() -> list[str]:
    """All recipes."""
    return list(_recipes())


def modules() -> list[Any]:
    """The files of recipes; each has a table RECIPES of functions by name."""
    return [importlib.import_module(module) for module in _MODULES]  # here: they load every part's library


def _recipes() -> dict[str, Callable[[], TrainConfig]]:
    return {name: make for module in modules() for name, make in module.RECIPES.items()}


def recipe_of(run_dir: Path) -> TrainConfig:
    """The config a run was started with, from its folder.

    What it began from is taken from its config.json, so that a recipe which has changed since changes no
    run.
    """
    file = run_dir / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{run_dir} is no run of `deepgen train`: there is no config.json in it")
    written = read_run(run_dir)
    about = written.get("about") or {}
    if "recipe" not in about:
        raise ValueError(f"{file} does not say which recipe it is of; it was started from Python")
    config = recipe(named_by(file, about["recipe"], Path()))
    changes = {name: text for name, text in about["overrides"].items() if name not in _OF_THE_LOSS}
    known = [name for name in _ORIGIN if name in written and hasattr(config, name)]
    return override(config, {**changes, **{name: _as_text(written[name]) for name in known}})


def _as_text(value: Any) -> str:
    """A value of a config.json as `--set` takes it."""
    return ",".join(value) if isinstance(value, list) else str(value)


def export(
    run_dir: Path,
    output_dir: Path,
    *,
    what: Literal["folder", "lora", "native"],
    weights: Literal["ema", "raw"] = "ema",
    strength: float = 1.0,
) -> None:
    """Write a run as a pipeline folder, as a LoRA file or in the original's layout.

    Args:
        run_dir: the run.
        output_dir: where it goes.
        what: which of the three.
        weights: see `Trained`.
        strength: between the model the run began with (0) and what it became (1), see `Trained`.

    Raises:
        ValueError: the run is not of a supervised recipe, or cannot be written so.
    """
    from deepgen.training.export import Trained, export_folder, export_lora, export_native
    from deepgen.training.supervised import SupervisedConfig

    config = recipe_of(run_dir)
    if not isinstance(config, SupervisedConfig):
        raise ValueError(
            f"{run_dir} is a run of {type(config).__name__}; see deepgen.recipes.shapes for its parts"
        )
    write = {"folder": export_folder, "lora": export_lora, "native": export_native}[what]
    write(Trained(config, run_dir, weights, strength), output_dir)


def preflight_run(recipe_name: str, overrides: Mapping[str, str], output: Path | None = None) -> Preflight:
    """Look at the data of a recipe as its run would before the first step.

    Args:
        recipe_name: of a supervised recipe.
        overrides: as for `run`.
        output: a picture of what the VAE loses, where one is wanted.

    Raises:
        ValueError: the recipe trains a part of a small model, or the data cannot be opened.
    """
    from deepgen.data.image_files import save_image
    from deepgen.training.parallel import Processes
    from deepgen.training.preflight import look_at_data
    from deepgen.training.reproduction import sheet
    from deepgen.training.supervised import SupervisedConfig

    config = override(recipe(recipe_name), overrides)
    if not isinstance(config, SupervisedConfig):
        raise ValueError(f"{recipe_name} trains a part of a small model; it draws its data itself")
    processes = Processes(config.device)
    pipe, mixture = config.opened(processes)
    found = look_at_data(config, mixture, pipe, processes.device)
    pairs = [pair for source in found.sources for pair in source.reproduced]
    if output is not None and pairs:
        save_image(sheet(pairs), output)
    return found


def plan_run(
    recipe_name: str,
    overrides: Mapping[str, str],
    card_name: str,
    num_cards: int = 1,
    price: float | None = None,
) -> TrainingPlan | RLPlan | DistillPlan:
    """What a recipe would need on such cards; opens neither weights nor data.

    The prompts are counted where a run of reinforcement learning ends after epochs of them and they are here.

    Sizes are those of DeepGen 1.0, or of a small model where the recipe starts from it, or follow from the
    configs of other base models; the picture size and the share of edits are the mixture file's.

    Raises:
        ValueError: the recipe trains a part of a small model, or the card is unknown.
    """
    from deepgen.data.mixture_file import read_outline
    from deepgen.data.opening import recognise
    from deepgen.distillation.config import DistillSettings
    from deepgen.distillation.plan import plan_distill
    from deepgen.rl.config import RLSettings
    from deepgen.rl.plan import plan_rl
    from deepgen.training.plan import accelerator, plan, plan_of_recipe
    from deepgen.training.supervised import SupervisedConfig

    config = override(recipe(recipe_name), overrides)
    if not isinstance(config, SupervisedConfig):
        raise ValueError(f"{recipe_name} trains a part of a small model; only whole models are planned")
    architecture = config.start.architecture()
    if isinstance(config, RLSettings):
        try:
            config = config.with_known_length()
        except (OSError, ValueError):  # the run's prompts may lie on another machine
            is_length_known = False
        else:
            is_length_known = True
        return replace(
            plan_rl(config, architecture, accelerator(card_name), num_cards, price),
            num_epochs=None if is_length_known else config.num_epochs,
        )
    if isinstance(config, DistillSettings):
        return plan_distill(config, architecture, accelerator(card_name), num_cards, price)
    changes: dict[str, Any] = {"num_processes": num_cards}
    found = None if config.data is None else recognise(config.data)
    if found is None or found.kind == "source":
        changes["edit_share"] = float(config.data_task == "edit")
        changes["image_size"] = architecture.defaults["height"]
    else:
        ratios, image = read_outline(found.path)
        changes["edit_share"] = ratios.get("edit", 0) / sum(ratios.values())
        changes["image_size"] = image.image_size
    return plan(
        plan_of_recipe(config, architecture, accelerator(card_name), **changes),
        accelerator(card_name),
        config.num_steps,
        price,
    )
