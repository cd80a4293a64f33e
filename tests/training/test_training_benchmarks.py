"""Benchmarks as validation: the numbers of `deepgen eval run`, and a training that does not notice."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from deepgen.evaluation.benchmark import settings_with
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.models import load_model
from deepgen.evaluation.report import read_results
from deepgen.evaluation.runner import RunConfig
from deepgen.evaluation.runner import run as run_benchmark
from deepgen.evaluation.scorers import Scorers
from deepgen.recipes import recipe, run
from deepgen.rl.recipe import RLConfig
from deepgen.training.benchmark_validation import BenchmarkValidation
from deepgen.training.benchmarks import BenchmarksConfig
from deepgen.training.checkpoint_folders import latest_checkpoint
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from evaluation.benchmark_files import hashes, write_all
from evaluation.stub_scorers import stub_scorers
from rewards.reward_server import serving
from small_runs import small

LOOKING = {
    "benchmarks.names": "shapes,shapes:edit",
    "benchmarks.every": "1",
    "benchmarks.limit": "4",
    "benchmarks.num_inference_steps": "2",
}


def test_benchmarks_are_logged_and_training_does_not_notice(mixture, tmp_path):
    run("alignment", tmp_path / "blind", overrides=small(mixture))
    run("alignment", tmp_path / "looking", overrides=small(mixture, log_every="1", **LOOKING))
    lines = [json.loads(line) for line in (tmp_path / "looking/log.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert line["benchmark/shapes-generation judged"] == line["benchmark/shapes-edit judged"] == 1
        assert 0 <= line["benchmark/shapes-generation"] <= 1
    results = read_results(sorted((tmp_path / "looking/benchmarks").iterdir()), num_draws=0)
    assert [result.document["manifest"]["drawing"]["model"] for result in results] == (
        ["step 1"] * 2 + ["step 2"] * 2
    )
    assert lines[1]["benchmark/shapes-edit"] == results[2].document["table"]["overall"]
    blind, seen = (
        load_file(latest_checkpoint(tmp_path / name) / "model.safetensors") for name in ("blind", "looking")
    )
    assert all(torch.equal(blind[key], seen[key]) for key in blind)


def stage_of(name, mixture, **changes):
    """A stage of a small model; nothing of it is trained here."""
    config = override(recipe(name), small(mixture, **changes))
    return config.build(Processes("cpu"))


@pytest.mark.parametrize(
    ("name", "folder_name", "scale"),
    [
        ("shapes", "shapes-generation", "guidance_scale"),
        ("shapes:edit", "shapes-edit", "edit_guidance_scale"),
    ],
)
def test_pictures_are_those_the_model_draws_under_evaluation(name, folder_name, scale, mixture, tmp_path):
    stage = stage_of("sft", mixture, **{**LOOKING, "benchmarks.names": name})
    (observer,) = stage.observers
    assert isinstance(observer, BenchmarkValidation)
    metrics = observer(0, tmp_path)
    folder = tmp_path / "benchmarks/step-00000000"
    benchmark = load_benchmark(name)
    settings = settings_with(
        benchmark.settings, num_inference_steps=2, guidance_scale=stage.pipe.config.defaults[scale]
    )
    config = RunConfig(output_dir=tmp_path / "run", data_dir=tmp_path, batch_size=8, limit=4)
    result = run_benchmark(benchmark, load_model("shapes"), settings, config, Scorers())
    assert hashes(folder / folder_name) == hashes(tmp_path / "run" / folder_name)
    assert result is not None
    assert metrics[f"benchmark/{folder_name}"] == (result["table"]["overall"], 1.0)
    (folder / folder_name / "stale.txt").write_text("of a run that was resumed")
    assert observer(0, tmp_path) == metrics
    assert not (folder / folder_name / "stale.txt").exists()


def test_reinforcement_learning_looks_at_benchmarks_too(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle on a white background\n")
    config = RLConfig(model="shapes", prompts=prompts, rewards=("jpeg=1",), device="cpu")
    config = override(config, {**LOOKING, "benchmarks.names": "shapes"})
    stage = config.build(Processes("cpu"))
    (observer,) = [each for each in stage.observers if isinstance(each, BenchmarkValidation)]
    assert observer(0, tmp_path)["benchmark/shapes-generation judged"] == (1.0, 1.0)


def test_a_judge_that_is_away_is_logged_as_no_coverage_and_training_goes_on(mixture, tmp_path):
    data = write_all(tmp_path / "data")
    with serving(stub_scorers()) as server:
        options = {"benchmarks.names": "wise,cvtg2k", "benchmarks.data": str(data), "benchmarks.limit": "7"}
        options |= {"benchmarks.ocr": server.url, "benchmarks.allow_altered_data": "true"}
        options |= {"benchmarks.num_inference_steps": "1", "benchmarks.judge_model": "stub"}
        options |= {"benchmarks.judge_url": f"{server.url}/v1"}
        (observer,) = stage_of("alignment", mixture, **options).observers
        seen = observer(1, tmp_path)
        assert set(seen) == {
            *("benchmark/wise-legacy", "benchmark/wise-legacy judged"),
            *("benchmark/cvtg2k", "benchmark/cvtg2k judged"),
        }
        observer.benchmarks = observer.benchmarks[:1]
    object.__setattr__(observer._scorers.judge._judge._connection, "sleep", lambda seconds: None)
    assert observer(2, tmp_path) == {"benchmark/wise-legacy judged": (0.0, 1.0)}


def test_what_is_missing_is_said_before_the_first_step(mixture, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"evaluation_metadata\.jsonl is missing"):
        stage_of("alignment", mixture, **{"benchmarks.names": "geneval", "benchmarks.data": str(tmp_path)})
    with pytest.raises(ValueError, match="unknown benchmark 'nothing'"):
        BenchmarksConfig(names=("nothing",))
    with pytest.raises(ValueError, match="limit"):
        BenchmarksConfig(limit=0)


@pytest.mark.parametrize("setting", ["num_inference_steps", "guidance_scale", "size"])
def test_nothing_is_not_the_models_own(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1 or none, got 0"):
        BenchmarksConfig(**{setting: 0})
