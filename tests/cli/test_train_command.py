"""`deepgen train`: its commands, the way it was written before them, and a recipe's fields as options."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deepgen.recipes
from deepgen.cli.app import main
from deepgen.cli.recipe_fields import recipe_names

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import recipe_fields  # noqa: E402  # in tools/, which is no package


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches `deepgen.recipes`, which does nothing."""
    calls: list[Any] = []
    for name in ("run", "plan_run", "export"):
        monkeypatch.setattr(
            deepgen.recipes,
            name,
            lambda *given, of=name, **named: calls.append((of, given, named)),
        )
    return calls


def run_with(
    overrides: dict[str, str], recipe: str = "sft", output: str | None = None, resume: Any = False
) -> Any:
    named: dict[str, Any] = {"output_dir": Path(output or f"runs/{recipe}"), "resume": resume}
    return ("run", (recipe,), {**named, "overrides": overrides, "accept_changes": False})


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("sft", run_with({})),
        ("run sft", run_with({})),
        ("sft --data a.yaml -o out", run_with({"data": "a.yaml"}, output="out")),
        ("-o out sft", run_with({}, output="out")),
        ("sft --resume", run_with({}, resume=True)),
        ("--resume sft", run_with({}, resume=True)),
        ("--resume auto sft", run_with({}, resume="auto")),
        ("run sft --resume auto --keep 2", run_with({"keep": "2"}, resume="auto")),
        (
            "sft --set optim.lr=1e-4 keep=2 --set seed=3",
            run_with({"optim.lr": "1e-4", "keep": "2", "seed": "3"}),
        ),
        (
            "run sft --optim.lr 2e-5 --optim.weight_decay=0.1",
            run_with({"optim.lr": "2e-5", "optim.weight_decay": "0.1"}),
        ),
        (
            "run lora --vlm-lora.rank 4 --is-compiled true",
            run_with({"is_compiled": "true", "vlm_lora.rank": "4"}, "lora"),
        ),
        ("sft --optim.lr 2e-5 --set seed=3", run_with({"seed": "3", "optim.lr": "2e-5"})),
        (
            "rl --prompts p.txt --rewards ocr=1 clip=2 --panel.timeout 9",
            run_with({"panel.timeout": "9", "prompts": "p.txt", "rewards": "ocr=1,clip=2"}, "rl"),
        ),
        (
            "plan sft --cards 8 --price 2.5 --optim.is-8bit true",
            ("plan_run", ("sft", {"optim.is_8bit": "true"}, "h100", 8, 2.5), {}),
        ),
        ("sft --plan --card a100-80gb --cards 8", ("plan_run", ("sft", {}, "a100-80gb", 8, None), {})),
        ("--plan sft --set keep=2", ("plan_run", ("sft", {"keep": "2"}, "h100", 1, None), {})),
        (
            "export runs/a --strength 0.5",
            (
                "export",
                (Path("runs/a"), Path("runs/a/export")),
                {"what": "folder", "weights": "ema", "strength": 0.5},
            ),
        ),
        (
            "export runs/a -o b --lora-file",
            ("export", (Path("runs/a"), Path("b")), {"what": "lora", "weights": "ema", "strength": 1.0}),
        ),
    ],
)
def test_every_spelling_reaches_the_recipe(asked: list[Any], words: str, call: Any) -> None:
    assert main(["train", *words.split()]) == 0
    assert asked == [call]


SLIPS = [
    ("sft --optim.lrr 1", "unknown option --optim.lrr; did you mean --optim.lr?"),
    ("run sft --num_step 1", "unknown option --num_step; did you mean --num-steps?"),
    ("plan sft --optm.lr=1", "unknown option --optm.lr=1; did you mean --optim.lr?"),
    ("sfft --optim.lr 1", "unknown recipe 'sfft'; did you mean sft?"),
    ("exprot runs/a", "unknown recipe 'exprot'; did you mean export?"),
    ("nothing-like-it", "unknown recipe 'nothing-like-it'; known: "),
    ("sft --card h100", "deepgen train run has no option --card; deepgen train plan has"),
    ("plan sft --resume", "deepgen train plan has no option --resume; deepgen train run has"),
    ("plot runs/a --strength 1", "deepgen train plot has no option --strength; deepgen train export has"),
    ("export", "deepgen train export needs RUN; see deepgen train export --help"),
    ("sft runs/a", "deepgen train run was given more words than it takes: 'sft runs/a'"),
    ("", "deepgen train needs a command: run, plan, preflight, export, plot, compare, gate"),
    ("sft --seed 3 --set seed=4", "seed is given twice: --seed 3 and --set seed=4; drop one"),
    ("export runs/a --lora-file --native", "drop one of the two options"),
]


@pytest.mark.parametrize(("words", "message"), SLIPS)
def test_a_slip_is_one_line_with_the_nearest_word(
    words: str, message: str, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["train", *words.split()])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
    assert not asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--optim.lr", "fast"], "optim.lr takes float, got 'fast'"),
        (["--set", "optim.lrr=1"], "no field 'optim.lrr' in OptimConfig; did you mean lr?"),
        (["--is-compiled", "maybe"], "is_compiled takes true or false, got 'maybe'"),
    ],
)
def test_the_config_refuses_what_it_cannot_hold(
    changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "run", "sft", *changes]) == 2
    assert message in capsys.readouterr().err


def test_the_fields_of_the_help_are_those_of_the_recipes() -> None:
    assert recipe_fields.FILE.read_text(encoding="utf-8") == recipe_fields.text(), (
        "configs have changed; run `python tools/recipe_fields.py`"
    )


@pytest.mark.parametrize("name", recipe_names())
def test_every_field_of_a_recipe_is_taken_as_an_option(name: str, asked: list[Any]) -> None:
    """Each with the value the help shows, which must then leave the recipe as it is."""
    from deepgen.training.overrides import override

    given = {field: value for field, value in _shown(name).items() if field not in _COMMANDS_OWN}
    assert main(["train", "run", name, *(f"--{field}={value}" for field, value in given.items())]) == 0
    overrides = asked[0][2]["overrides"]
    assert overrides == given
    config = deepgen.recipes.recipe(name)
    kept = {
        field: value for field, value in overrides.items() if "src/" not in value and "deepgen/" not in value
    }
    assert override(config, kept) == config


_COMMANDS_OWN = ("data", "prompts", "rewards", "model")


def _shown(name: str) -> dict[str, str]:
    """Field -> value in a recipe, parts that are off left out."""
    document = recipe_fields.document()
    about = document["recipes"][name]

    def fields_of(part: str, prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for field, row in document["parts"][part]["fields"].items():
            full = prefix + field
            value = about["values"].get(full, row.get("default"))
            if "part" in row and value != "none":
                found |= fields_of(row["part"], f"{full}.")
            elif "part" not in row and value is not None:
                found[full] = value
        return found

    return fields_of(about["config"], "")


def test_help_shows_the_fields_of_the_recipe_without_torch() -> None:
    code = """
import contextlib, sys
import deepgen.cli
with contextlib.suppress(SystemExit):
    deepgen.cli.main(["train", "run", "rl", "--help"])
heavy = {"torch", "transformers", "diffusers", "numpy", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, capture_output=True, encoding="utf-8"
    ).stdout
    shown = re.sub(r"[\s│]+", " ", shown)
    assert "rl: A recipe of reinforcement learning" in shown
    assert "--group-size INT" in shown
    assert "panel options" in shown
    assert "--panel.timeout FLOAT" in shown
    assert "seconds a call may take from its start, retries included. (default: 180.0)" in shown
