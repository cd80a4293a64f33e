"""Distribution matching: its mathematics where every score is known, and the stage on the embedded model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deepgen.cli import main
from deepgen.data.prompts import open_prompts
from deepgen.distillation.config import MatchingSettings
from deepgen.distillation.matching import blurred, draw_by_steps, fake_score, matching_losses
from deepgen.distillation.matching_stage import MatchingBatch, MatchingStage
from deepgen.distillation.recipe import DistillConfig
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import recipe
from deepgen.training.adapters import LoraSettings
from deepgen.training.loop import train
from deepgen.training.optim import OptimConfig, ParamGroup
from deepgen.training.parallel import Processes
from launched_runs import several_processes_learn_what_one_learns, weights

# --- mathematics --------------------------------------------------------------------------------------------


def gaussian_velocity(x: Tensor, sigma: Tensor, mean: float, std: float) -> Tensor:
    """E[noise - clean | x] where the clean values are normal."""
    level = sigma.view(-1, 1, 1, 1)
    variance = ((1 - level) * std) ** 2 + level**2
    rest = x - (1 - level) * mean
    return level / variance * rest - (mean + (1 - level) * std**2 / variance * rest)


def test_a_student_of_one_number_becomes_distributed_as_its_teacher() -> None:
    generator = torch.Generator().manual_seed(0)
    shift, scale = torch.tensor(1.5, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    optimizer = torch.optim.Adam([shift, scale], lr=0.02)
    for _ in range(400):
        drawn = shift + scale * torch.randn(512, 1, 1, 1, generator=generator)
        sigma = torch.rand(512, generator=generator).clamp(0.02, 0.98)
        noisy = blurred(drawn.detach(), torch.randn(drawn.shape, generator=generator), sigma)
        fake = gaussian_velocity(noisy, sigma, shift.item(), scale.item())
        teacher = gaussian_velocity(noisy, sigma, -0.5, 0.8)
        optimizer.zero_grad()
        matching_losses(drawn, noisy, sigma, teacher, fake).mean().backward()
        optimizer.step()
    assert shift.item() == pytest.approx(-0.5, abs=0.05)
    assert abs(scale.item()) == pytest.approx(0.8, abs=0.08)


def test_the_gradient_is_the_difference_of_the_scores_and_none_where_they_agree() -> None:
    drawn = torch.randn(3, 2, 2, 2, requires_grad=True)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    noise, teacher, fake = torch.randn(3, *drawn.shape).unbind()
    noisy = blurred(drawn.detach(), noise, sigma)
    matching_losses(drawn, noisy, sigma, teacher, fake).sum().backward()
    level = sigma.view(-1, 1, 1, 1)
    distance = (drawn.detach() - (noisy - level * teacher)).abs().mean((1, 2, 3), keepdim=True)
    scores = [-(noisy + (1 - level) * v) / level for v in (teacher, fake)]  # of x_tau = (1 - tau) x + tau n
    expected = -(scores[0] - scores[1]) * level**2 / (1 - level) / distance / 8  # mean over 8 values
    torch.testing.assert_close(drawn.grad, expected)
    drawn.grad = None
    matching_losses(drawn, noisy, sigma, teacher, teacher).sum().backward()
    assert drawn.grad is not None
    assert float(drawn.grad.abs().max()) < 1e-6


def test_every_step_of_the_student_has_a_gradient() -> None:
    rates = torch.tensor([0.5, 0.25, 1.0], requires_grad=True)
    levels = [1.0, 0.6, 0.3, 0.0]
    noise = torch.ones(1, 1, 1, 1)
    drawn = draw_by_steps(lambda x, sigma: rates[levels.index(sigma)] * x, noise, levels)
    assert drawn.item() == pytest.approx((1 - 0.4 * 0.5) * (1 - 0.3 * 0.25) * (1 - 0.3 * 1.0))
    drawn.sum().backward()
    assert rates.grad is not None
    factors = torch.tensor([1 - 0.4 * 0.5, 1 - 0.3 * 0.25, 1 - 0.3 * 1.0])
    torch.testing.assert_close(rates.grad, factors.prod() / factors * -torch.tensor([0.4, 0.3, 0.3]))


# --- stage --------------------------------------------------------------------------------------------------


def small(prompts: Path, **changes: Any) -> DistillConfig:
    config = recipe("distill-shapes-matching")
    assert isinstance(config, DistillConfig)
    groups = (ParamGroup(prefix="fake", lr=2e-3),)
    settings: dict[str, Any] = {
        "prompts": prompts,
        "num_inference_steps": (2, 1),
        "paths_per_round": 4,
        "num_steps": 6,
        "save_every": 2,
        "log_every": 1,
        "device": "cpu",
        "matching": MatchingSettings(warmup_rounds=1, fake_updates=2),
        "optim": OptimConfig(lr=1e-3, muon_lr=None, warmup_steps=1, decay_share=0.0, groups=groups),
    }
    return replace(config, **{**settings, **changes})


def stage_of(config: DistillConfig) -> MatchingStage:
    pipe = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    return MatchingStage(config, Processes("cpu"), pipe, open_prompts(config.prompts or "", is_scored=False))


def gradients(stage: MatchingStage, batch: MatchingBatch) -> dict[str, float]:
    """Norm of the gradient of student and fake score."""
    for parameter in stage.modules.parameters():
        parameter.grad = None
    stage.loss(batch).loss.backward()
    found = {"transformer": 0.0, "fake": 0.0}
    for name, parameter in stage.modules.named_parameters():
        if parameter.grad is not None:
            found[name.split(".", 1)[0]] += float(parameter.grad.norm())
    return found


def test_the_fake_score_begins_as_the_teacher_on_the_same_frozen_weights(prompts: Path) -> None:
    stage = stage_of(small(prompts))
    student = dict(stage.policy.pipe.transformer.named_parameters())
    for name, parameter in stage.fake.named_parameters():
        assert (parameter.data_ptr() == student[name].data_ptr()) == (not parameter.requires_grad), name
    batch = next(iter(stage.batches(0)))
    shape = stage.sampler.latent_shape(batch.prompts[0])
    noisy, sigma = torch.randn(len(batch.paths), *shape), torch.full((len(batch.paths),), 0.6)
    with torch.no_grad():
        for parameter in student.values():  # a student that is no longer the teacher
            parameter.add_(0.01 * parameter.requires_grad)
        fake, own = (stage.sampler.student(batch.prompts, noisy, sigma, one) for one in (stage.fake, None))
        alone = [replace(prompt, negative=None) for prompt in batch.prompts]
        teacher = stage.policy.velocity(alone, range(len(alone)), noisy, sigma, by_reference=True)
    torch.testing.assert_close(fake, teacher, atol=1e-5, rtol=1e-5)
    assert float((own - teacher).abs().max()) > 1e-3


def test_the_fake_score_learns_alone_at_first_and_then_both_do(prompts: Path) -> None:
    stage = stage_of(small(prompts))
    updates = [next(iter(stage.batches(step))) for step in range(3)]
    assert [batch.trains_student for batch in updates] == [False, False, True]
    alone, both = gradients(stage, updates[0]), gradients(stage, updates[2])
    assert alone["transformer"] == 0 < alone["fake"]
    # A fake score that is the teacher without guidance: what remains is what guidance adds.
    assert min(both.values()) > 0


def test_further_updates_of_a_round_show_the_same_pictures_at_other_noise_levels(prompts: Path) -> None:
    stage = stage_of(small(prompts))
    losses, drawn = [], []
    for step in (2, 3):
        for batch in stage.batches(step):
            losses.append((batch.paths, float(stage.loss(batch).loss.detach())))
            drawn.append(batch.drawn)
    half = len(losses) // 2
    assert [paths for paths, _ in losses[:half]] == [paths for paths, _ in losses[half:]]
    assert all(one is None for one in drawn[:half])
    assert all(one is not None and not one.requires_grad for one in drawn[half:])
    assert gradients(stage, next(iter(stage.batches(3))))["transformer"] == 0
    next(iter(stage.batches(4)))
    assert not stage._drawn, "a round's pictures are forgotten after it"


def test_a_steps_paths_are_each_drawn_once_by_all_of_their_steps(prompts: Path) -> None:
    stage = stage_of(small(prompts, paths_per_round=6))
    batches = list(stage.batches(6))
    assert sorted(path for batch in batches for path in batch.paths) == list(range(18, 24))
    for batch in batches:
        assert len({stage.sampler.num_steps(path) for path in batch.paths}) == 1
        assert len({len(prompt.references) for prompt in batch.prompts}) == 1
    batch, calls = batches[0], list[float]()
    student = stage.sampler.student
    stage.sampler.student = lambda p, x, levels, network=None: (
        calls.append(float(levels[0])),
        student(p, x, levels, network),
    )[1]
    stage.draw(batch)
    schedule = stage.sampler.schedules[stage.sampler.num_steps(batch.paths[0])]
    shifted = [2 * sigma / (1 + sigma) + schedule.timestep_offset / 1000 for sigma in schedule.sigmas]
    assert calls == pytest.approx(shifted, abs=1e-6)


def test_noise_levels_are_spread_evenly_over_a_step_and_kept_from_both_ends(prompts: Path) -> None:
    stage = stage_of(small(prompts, paths_per_round=16, micro_batch_size=16))
    shown = [replace(batch, drawn=None) for batch in stage.batches(0)]
    sigmas = torch.cat([stage._sigma(batch, number) for batch in shown for number in range(3)])
    uniform = (sigmas / (2 - sigmas)).sort().values  # without the shift of 2
    inside = (uniform - (torch.arange(48) + 0.5) / 48)[1:-2]
    assert float(inside.abs().max()) < 1 / 48
    assert 0.0199 < float(sigmas.min()) < float(sigmas.max()) < 0.9801


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first objective."""
    folder = tmp_path_factory.mktemp("matching") / "begun"
    changes = ("--num-inference-steps", "2,1", "--teacher-steps", "2", "--paths-per-round", "2")
    more = ("--num-steps", "2", "--passes-per-round", "1", "--updates-per-pass", "2", "--log-every", "1")
    assert main(["train", "distill-shapes", "-o", str(folder), *changes, *more]) == 0
    return folder


def test_a_run_begins_with_a_student_resumes_bit_by_bit_and_exports_it_alone(
    prompts: Path, begun: Path, tmp_path: Path
) -> None:
    config = small(prompts, student=begun)
    train(config, tmp_path / "whole")
    train(replace(config, num_steps=4), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert ["gap" in line for line in log] == [False, False, True, False, True, False]
    assert log[1]["grad_norm/transformer"] == log[3]["grad_norm/transformer"] == 0
    assert min(log[2]["grad_norm/transformer"], log[4]["grad_norm/transformer"]) > 0

    averages = load_file(next(begun.glob("step-*")) / "ema.safetensors")
    start = stage_of(replace(config, ema_decay=None))
    for name, parameter in start.modules.named_parameters():
        if parameter.requires_grad and not name.startswith("fake."):
            assert torch.equal(parameter, averages[name])

    made = {"recipe": "distill-shapes-matching", "overrides": {"num_inference_steps": "2,1"}}
    record = tmp_path / "whole" / "config.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "about": made}))
    export = ["train", "export", str(tmp_path / "whole"), "-o"]
    assert main([*export, str(tmp_path / "lora"), "--lora-file"]) == 0
    stored = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert stored
    assert not any("fake" in name for name in stored)
    assert main([*export, str(tmp_path / "folder")]) == 0
    pipe = DeepGenPipeline.from_pretrained(tmp_path / "folder", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    drawn = np.asarray(pipe("a red circle", preset="turbo", num_inference_steps=2, seed=1).images[0])
    assert drawn.std() > 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"transformer_lora": LoraSettings(rank=8, alpha=8, dropout=0.0, targets="linear")},
            "same transformer",
        ),
        ({"student": Path("nowhere")}, "student nowhere holds no run; give the output folder"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(
    prompts: Path, begun: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(small(prompts, **{"student": begun, **changes}), tmp_path / "run")


def test_a_run_of_another_stage_is_no_student(prompts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"num_steps": 3, "model": "tiny"}))
    with pytest.raises(ValueError, match="holds another run"):
        train(small(prompts, student=other), tmp_path / "run")


def test_matching_without_a_student_says_so(
    prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(small(prompts, num_steps=1), tmp_path / "run")
    assert "--student RUN" in caplog.text


def test_a_student_of_another_model_is_refused(prompts: Path, begun: Path, tmp_path: Path) -> None:
    record = json.loads((begun / "config.json").read_text())
    record["starts_from"]["model"]["fingerprint"] = "0" * 32
    other = tmp_path / "other"
    other.mkdir()
    for item in begun.iterdir():
        (other / item.name).symlink_to(item)
    (other / "config.json").unlink()
    (other / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="began from"):
        train(small(prompts, student=other), tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [{"warmup_rounds": -1}, {"fake_updates": 0}, {"least_sigma": 0.0}, {"least_sigma": 0.5}]
)
def test_settings_that_match_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="matching needs warmup_rounds"):
        MatchingSettings(**changes)


def test_a_compiled_model_is_refused(prompts: Path) -> None:
    with pytest.raises(ValueError, match="set is_compiled=false"):
        small(prompts, is_compiled=True)


def test_where_all_weights_learn_the_fake_score_is_a_copy() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    fake = fake_score(module)
    pairs = list(zip(module.parameters(), fake.parameters(), strict=True))
    assert all(torch.equal(one, other) and one is not other for one, other in pairs)


@pytest.mark.slow
def test_two_processes_match_what_one_matches(mixture: Path, prompts: Path, tmp_path: Path) -> None:
    changes = {
        "prompts": str(prompts),
        "num_inference_steps": "2,1",
        "paths_per_round": "5",  # not a multiple of two
        "matching.warmup_rounds": "1",
        "matching.fake_updates": "2",
        "optim.eps": "1e-5",
        "optim.warmup_steps": "1",
    }
    several_processes_learn_what_one_learns(mixture, tmp_path, "distill-shapes-matching", changes)
