"""Distillation as a stage: what a round asks and learns, on one process or several, resumed or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepgen.cli import main
from deepgen.data.prompts import open_prompts
from deepgen.distillation.answers import fine_sigmas
from deepgen.distillation.recipe import DistillConfig
from deepgen.distillation.stage import DistillStage
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import recipe
from deepgen.sampling.few_steps import weighted_schedules
from deepgen.sampling.presets import get_preset
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from launched_runs import several_processes_learn_what_one_learns, weights


def small(prompts: Path, **changes: Any) -> DistillConfig:
    config = recipe("distill-shapes")
    assert isinstance(config, DistillConfig)
    settings: dict[str, Any] = {
        "prompts": prompts,
        "num_inference_steps": (2, 1),
        "teacher_steps": 4,
        "paths_per_round": 4,
        "passes_per_round": 2,
        "updates_per_pass": 2,
        "num_steps": 4,
        "save_every": 4,
        "log_every": 1,
        "device": "cpu",
        "optim": OptimConfig(lr=1e-3, muon_lr=None, warmup_steps=1, decay_share=0.0),
    }
    return replace(config, **{**settings, **changes})


def stage_of(config: DistillConfig) -> DistillStage:
    return DistillStage(
        config,
        Processes("cpu"),
        DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32),
        open_prompts(config.prompts or "", is_scored=False),
    )


@pytest.mark.parametrize("level_mean", [None, 0.3])
def test_the_levels_of_training_are_those_of_drawing(prompts: Path, level_mean: float | None) -> None:
    stage = stage_of(small(prompts, num_inference_steps=(1, 2, 4, 8), teacher_steps=8, level_mean=level_mean))
    pipe, turbo = stage.policy.pipe, get_preset("turbo")
    for count, schedule in stage.sampler.schedules.items():
        fine = fine_sigmas(stage.policy, schedule, 3, (12, 12))
        solver, timesteps = turbo.with_schedule(schedule).prepare(pipe.scheduler, count, "cpu", 9)
        assert torch.equal(fine[::3], solver.sigmas)
        levels = [stage.sampler.level(count, float(s)) for s in fine[:-1:3]]
        torch.testing.assert_close(1000 * torch.tensor(levels), timesteps)


def test_weighted_levels_have_equal_shares_of_the_density_between_them() -> None:
    schedules = weighted_schedules((1, 2, 4, 8), 20.0, 0.3, 0.7)
    draws = torch.sigmoid(0.3 + 0.7 * torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    for count, schedule in schedules.items():
        edges = torch.tensor(sorted([0.0, *schedule.sigmas]))
        shares = torch.histogram(draws, edges).hist / len(draws)
        torch.testing.assert_close(shares, torch.full((count,), 1 / count), atol=0.004, rtol=0)
    assert set(schedules[4].sigmas) <= set(schedules[8].sigmas)
    assert schedules[4].sigmas[1] - schedules[4].sigmas[2] < 0.2 < schedules[4].sigmas[3]
    assert [one.timestep_offset for one in schedules.values()] == [40, 20, 0, -20]


def test_every_answer_is_learnt_from_once_in_each_pass(prompts: Path) -> None:
    config = small(prompts)
    stage = stage_of(config)
    every = {(path, step) for path in stage.paths(0) for step in range(stage.sampler.num_steps(path))}
    for once in range(config.passes_per_round):
        parts = [stage.part(0, once * config.updates_per_pass + part) for part in range(2)]
        assert sorted([*parts[0], *parts[1]]) == sorted(every)
        assert abs(len(parts[0]) - len(parts[1])) <= 1
    asked = [target for batch in stage.batches(0) for target in batch.answers]
    assert sorted((one.path, one.step) for one in asked) == sorted(stage.part(0, 0))


def test_a_share_of_the_paths_has_the_first_number_of_steps(prompts: Path) -> None:
    for share in (0.5, 0.8):
        sampler = stage_of(small(prompts, num_inference_steps=(2, 1, 4), first_share=share)).sampler
        counts = [sampler.num_steps(path) for path in range(600)]
        assert counts.count(2) / 600 == pytest.approx(share, abs=0.06)
        assert counts.count(1) / 600 == pytest.approx((1 - share) / 2, abs=0.06)


def test_the_student_has_no_negative_branch_and_the_teacher_has_its_guidance(prompts: Path) -> None:
    stage, rows = stage_of(small(prompts, empty_share=0.0)), list[tuple[int, bool]]()
    transformer = stage.policy.pipe.transformer

    def count(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        layer = transformer.transformer_blocks[0].attn.to_q
        rows.append((len(given["hidden_states"]), not layer.disable_adapters))

    transformer.register_forward_pre_hook(count, with_kwargs=True)
    targets = stage.sampler.draw([0])
    is_student = {alone for size, alone in rows if size == 1}
    is_teacher = {alone for size, alone in rows if size == 2}
    assert is_teacher == {False}, "both branches, without the adapter"
    assert is_student <= {True}
    rows.clear()
    stage.losses(targets)
    assert rows == [(len(targets), True)]


def test_states_of_the_student_are_its_own_steps(prompts: Path) -> None:
    first, second = (
        stage_of(small(prompts, own_share=share, num_inference_steps=(2,))).sampler.draw([0])
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(first[0].noisy, second[0].noisy)
    torch.testing.assert_close(first[0].target, second[0].target)
    # before the first update the student is the model without guidance, so its step ends somewhere else
    assert (first[1].noisy - second[1].noisy).abs().max() > 1e-3
    on_path = first[0].noisy + (first[1].sigma - first[0].sigma) * first[0].target
    torch.testing.assert_close(first[1].noisy, on_path, atol=1e-5, rtol=1e-4)


def test_the_loss_falls_and_a_resumed_run_is_the_run_without_a_stop(prompts: Path, tmp_path: Path) -> None:
    changes = {"num_inference_steps": (2,), "teacher_steps": 2, "paths_per_round": 2, "micro_batch_size": 16}
    config = small(prompts, num_steps=8, **changes)
    train(config, tmp_path / "whole")
    losses = [json.loads(x)["loss"] for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 8
    train(replace(config, num_steps=4), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    begun = [json.loads(x)["loss"] for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()[:2]]
    again = [json.loads(x)["loss"] for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()[2:4]]
    assert sum(again) < sum(begun), "the same answers, a pass later"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_inference_steps": (2, 2)}, "different numbers"),
        ({"num_inference_steps": (8,), "teacher_steps": 4}, "must take at least as many"),
        ({"own_share": 1.5}, r"own_share must be in \[0, 1\]"),
        ({"first_share": -0.1}, r"first_share must be in \[0, 1\]"),
        ({"level_mean": 0.0, "level_std": 0.0}, "level_std must be positive"),
        ({"trains_connector": True}, "changes the DiT alone"),
        ({"sizes": ("512",)}, "WIDTHxHEIGHT"),
        ({"sharding": "fsdp"}, "set sharding=none"),
    ],
)
def test_what_cannot_be_distilled_is_refused(prompts: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(prompts, **changes)


@pytest.mark.slow
def test_the_plan_says_what_the_5b_model_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "distill", "--plan", "--card", "h100", "--cards", "8"]) == 0
    said = capsys.readouterr().out
    # 128 paths: half of 4 steps with 6 + 1 calls each, half of 8 with 3 + 1, two branches
    assert "7,680 by the teacher, 640 to draw, 1,536 to train" in said
    assert "500 rounds on 8 x h100" in said
    matching = ["--set", "objective=distribution-matching"]
    assert main(["train", "distill", "--plan", "--card", "h100", "--cards", "8", *matching]) == 0
    said = capsys.readouterr().out
    # 128 paths, two branches of the teacher; 6 steps on average and three times the fake score
    assert "256 by the teacher, 128 by the fake score, 1,152 to train" in said
    assert "the fake score  " in said


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(mixture: Path, prompts: Path, tmp_path: Path) -> None:
    changes = {
        "prompts": str(prompts),
        "num_inference_steps": "2,1",
        "teacher_steps": "4",
        "paths_per_round": "5",  # not a multiple of two
        "passes_per_round": "1",
        "updates_per_pass": "2",
        "optim.eps": "1e-5",
    }
    several_processes_learn_what_one_learns(mixture, tmp_path, "distill-shapes", changes)
