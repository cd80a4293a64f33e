"""The three published stages run on the storybook by command, and a run is held against its start."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import deepgen.recipes
from deepgen.cli.app import main
from deepgen.data.prompts import open_prompts
from deepgen.recipes import recipe
from deepgen.rl.evaluation import RLEvaluationConfig, fixed_prompts
from deepgen.rl.gate import changes_of
from deepgen.rl.recipe import RLConfig
from deepgen.tiny.rows import GROUPS
from deepgen.tiny.splits import SAMPLERS
from deepgen.training.plot import read_log

MIXTURES = Path(deepgen.recipes.__file__).parent / "mixtures"
SHORT = (
    *("num_steps=2", "log_every=1", "save_every=2", "optim.warmup_steps=1", "optim.decay_share=0"),
    *("global_batch_size=3", "micro_batch_size=3", "num_workers=0", "device=cpu"),
)
ROLLOUT = (
    "group_size=2",
    "prompts_per_rollout=2",
    "num_inference_steps=2",
    "window.kind=fixed",
    "window.size=1",
    "sheet_every=2",
)
PROMPTS = """\
sampling_mode: weight_only
rewards: {right: {scorer: storybook, credit: partial}, kept: {scorer: storybook_kept}}
datasets:
  - {name: any, storybook: reasoning, seed: 2, rewards: {right: 1}}
  - {name: edits, storybook: edit, sample_weight: 2, seed: 2, rewards: [{right: 0.8}, {kept: 0.2}]}
"""
GATE = """\
rewards: {right: {scorer: storybook, credit: partial}}
datasets:
  - {name: a, storybook: caption, kinds: [text, counting], each_kind: true, rows: 3, rewards: {right: 1}}
  - {name: b, storybook: reasoning edit, kinds: [night], rows: 1, rewards: {right: 1}}
"""


def test_the_mixture_can_be_cached_and_trained_on_from_there(storybook: Path, tmp_path: Path) -> None:
    few = (MIXTURES / "storybook.yaml").read_text().replace("rows: 10000000", "rows: 3")
    (tmp_path / "few.yaml").write_text(few)
    cache, run = str(tmp_path / "cache"), tmp_path / "run"
    begin = ["--model", str(storybook)]
    making = [*begin, "-o", cache, "--device", "cpu", "--num-workers", "0"]
    assert main(["data", "cache", str(tmp_path / "few.yaml"), *making]) == 0
    arguments = ["train", "storybook-alignment", *begin, "--data", str(tmp_path / "few.yaml"), "-o", str(run)]
    assert main([*arguments, "--set", *SHORT, f"cache={cache}"]) == 0
    assert len(read_log(run / "log.jsonl")["loss"]) == 2


def slow(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["alignment", "sft", slow("storybook-alignment"), slow("storybook-sft")])
def test_a_supervised_stage_takes_two_steps(name: str, storybook: Path, tmp_path: Path) -> None:
    data = [] if name.startswith("storybook") else ["--data", str(MIXTURES / "storybook.yaml")]
    more = ["new_connector=false"] if name == "alignment" else []
    arguments = ["train", name, "--model", str(storybook), *data, "-o", str(tmp_path / "run")]
    assert main([*arguments, "--set", *SHORT, *more]) == 0
    losses = [value for _, value in read_log(tmp_path / "run" / "log.jsonl")["loss"]]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize("name", ["rl", slow("storybook-rl")])
def test_reinforcement_learning_takes_two_steps_and_looks_at_each_kind(
    name: str, storybook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    (tmp_path / "gate.yaml").write_text(GATE)
    looks = ("prompts_per_set=1", "num_inference_steps=1", f"prompts={tmp_path / 'gate.yaml'}")
    size = ["height=96", "width=96", "objective_options=kl_coef=0"] if name == "rl" else []
    arguments = ["train", name, "--model", str(storybook), "--prompts", str(tmp_path / "prompts.yaml")]
    settings = [*SHORT, *ROLLOUT, *size, *(f"evaluation.{look}" for look in looks)]
    assert main([*arguments, "-o", str(tmp_path / "run"), "--set", *settings]) == 0
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [step for step, _ in log["reward"]] == [1, 2]
    assert {value for kind in ("right", "kept") for _, value in log[f"failure_rate/{kind}"]} == {0}
    for name_of_set in ("text", "counting", "b"):
        assert [step for step, _ in log[f"evaluation/{name_of_set}/right"]] == [1, 2]
        assert log[f"judged/{name_of_set}/right"] == [(1, 1), (2, 1)]
    capsys.readouterr()
    assert main(["train", "gate", str(tmp_path / "run"), "--largest-fall", "100"]) == 0
    assert "| counting/right | 0." in capsys.readouterr().out


def test_the_recipe_looks_at_all_kinds_as_often() -> None:
    config = recipe("storybook-rl")
    assert isinstance(config, RLConfig)
    assert config.evaluation.prompts is not None
    prompts = fixed_prompts(config.evaluation, open_prompts(config.evaluation.prompts))
    kinds = [kind for group in GROUPS for kind in SAMPLERS[group][0]]
    assert Counter(prompt.dataset for prompt in prompts) == dict.fromkeys(kinds, 16)
    with pytest.raises(ValueError, match="prompts_per_set"):
        RLEvaluationConfig(prompts_per_set=0)


# --- the gate


def run_with(folder: Path, *lines: dict[str, float]) -> Path:
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_gate_compares_the_first_look_with_the_last(tmp_path: Path, capsys) -> None:
    names = ("evaluation/text/right", "evaluation/two/right", "evaluation/all/right")
    run = run_with(
        tmp_path,
        {"step": 1, "reward": 0.9, "judged/two/right": 16, **dict(zip(names, (0.5, 0.9, 0.8), strict=True))},
        {"step": 50, "reward": 0.1, **dict(zip(names, (0.1, 0.1, 0.1), strict=True))},
        {"step": 75, "reward": 0.1},
        {"step": 100, "judged/two/right": 12, **dict(zip(names, (0.75, 0.88, 0.775), strict=True))},
    )
    assert [(c.name, round(c.points, 1)) for c in changes_of(run)] == [
        ("all/right", -2.5),
        ("two/right", -2.0),
        ("text/right", 25.0),
    ]
    assert main(["train", "gate", str(run)]) == 1
    shown = capsys.readouterr()
    assert "| all/right | 0.800 | 0.775 | -2.5 | not logged |" in shown.out
    assert "| two/right | 0.900 | 0.880 | -2.0 | 16, then 12 |" in shown.out
    assert shown.err.strip() == "deepgen: fell by more than 2 points: all/right by 2.5"
    assert main(["train", "gate", str(run), "--largest-fall", "3"]) == 0


def test_a_gate_without_two_whole_looks_says_what_is_missing(tmp_path: Path, capsys) -> None:
    def error_of(*arguments: str) -> str:
        assert main(["train", "gate", *arguments]) == 2
        return capsys.readouterr().err

    assert "no log.jsonl" in error_of(str(tmp_path))
    run_with(tmp_path, {"step": 1, "evaluation/text/right": 0.5}, {"step": 2, "reward": 1})
    assert "has 1 look(s)" in error_of(str(tmp_path))
    run_with(
        tmp_path,
        {"step": 1, "evaluation/text/right": 0.5},
        {"step": 9, "evaluation/text/right": 0.5, "evaluation/two/right": 0.5},
    )
    assert "two/right was not judged in the first or in the last look" in error_of(str(tmp_path))
    assert "largest-fall must be at least 0" in error_of(str(tmp_path), "--largest-fall", "-1")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "gate"])
