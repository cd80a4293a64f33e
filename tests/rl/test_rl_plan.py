"""Plans of reinforcement learning: passes counted as a run counts them, memory as a run holds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_SHAPES
from deepgen.planning.accelerators import ACCELERATORS
from deepgen.recipes import plan_run
from deepgen.recipes.rl import rl, rl_published, rl_shapes
from deepgen.rl.plan import RLPlan, plan_rl
from deepgen.training.plan import plan

TINY = replace(rl_shapes(), prompts_per_rollout=4, num_steps=10, precision="float32")


def of_tiny(**changes: object) -> RLPlan:
    return plan_rl(replace(TINY, **changes), DEEPGEN_SHAPES, ACCELERATORS["cpu"])


def test_passes_are_those_of_the_solver_and_of_the_window() -> None:
    assert of_tiny().passes == {"to draw": 32 * 8, "to train": 32 * 3, "by the reference": 0}
    assert of_tiny(guidance_scale=2.0).passes["to draw"] == 2 * 32 * 8
    assert of_tiny(guidance_scale=None).passes["to draw"] == 2 * 32 * 8  # the model's own is above 1
    assert of_tiny(objective_options=("kl_coef=1",)).passes["by the reference"] == 32 * 3


def test_the_published_recipe_costs_eight_times_as_many_passes() -> None:
    cheap = replace(rl(), prompts_per_rollout=32)
    ours, theirs = (plan_rl(recipe, DEEPGEN_1_0, ACCELERATORS["h100"]) for recipe in (cheap, rl_published()))
    assert ours.passes["to draw"] == 256 * 12
    assert theirs.passes["to draw"] == 256 * 50
    assert theirs.passes["to train"] == 256 * 30
    assert theirs.hours("generate") / theirs.num_rollouts > 4 * ours.hours("generate") / ours.num_rollouts


def test_rollouts_are_optimizer_steps_over_updates() -> None:
    twice = of_tiny(updates_per_rollout=2)
    assert (twice.num_rollouts, twice.num_images) == (5, 32)


def test_drawing_grows_with_steps_and_training_with_the_window() -> None:
    once, more = (
        plan_rl(replace(rl(), num_inference_steps=n), DEEPGEN_1_0, ACCELERATORS["h100"]) for n in (8, 16)
    )
    for task in ("generate", "edit"):
        assert more.flops[task]["draw"] == 2 * once.flops[task]["draw"]
        assert more.flops[task]["train"] == once.flops[task]["train"]
    assert once.flops["edit"]["draw"] > once.flops["generate"]["draw"]  # the references' tokens


def test_a_frozen_copy_is_counted_where_a_kl_needs_one() -> None:
    options = ("kl_coef=1",)
    assert "the KL's reference" not in of_tiny(objective_options=options).memory.weights
    full = of_tiny(objective_options=options, trains_transformer=True, transformer_lora=None)
    weights = full.memory.weights
    assert weights["the KL's reference"] == pytest.approx(weights["trained weights"])


def test_what_a_rollout_keeps_is_in_the_peak() -> None:
    few, many = of_tiny(prompts_per_rollout=40), of_tiny(prompts_per_rollout=400)
    kept = many.memory.weights["trajectories"] - few.memory.weights["trajectories"]
    assert kept == (400 - 40) * 8 * 7 * (4 * 12 * 12) * 4  # images, states, numbers of a latent, bytes
    assert many.memory.peak - few.memory.peak == pytest.approx(kept)


def test_more_cards_share_time_and_trajectories_but_not_weights() -> None:
    one, eight = (plan_rl(rl(), DEEPGEN_1_0, ACCELERATORS["h100"], count) for count in (1, 8))
    assert one.hours("generate") == pytest.approx(8 * eight.hours("generate"))
    assert one.memory.weights["trajectories"] == pytest.approx(8 * eight.memory.weights["trajectories"])
    assert one.memory.weights["frozen weights"] == eight.memory.weights["frozen weights"]


def test_a_full_dit_on_a_small_card_is_told_to_take_a_lora() -> None:
    memory = plan_rl(rl_published(), DEEPGEN_1_0, ACCELERATORS["l4"]).memory
    assert not memory.fits
    assert any("LoRA" in remedy for remedy in memory.remedies)
    assert not any("sharding" in remedy for remedy in memory.remedies)  # refused for this stage


def test_the_command_prints_it() -> None:
    text = str(plan_run("rl", {"prompts": "nowhere.yaml"}, "rtx-4090", 2, 0.5))
    for part in ("trajectories", "draw", "passes through the DiT", "rollouts of 256 images on 2 x", "cost"):
        assert part in text


def test_epochs_of_prompts_that_are_here_end_the_plan_and_others_are_said(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"{n} red circles\n" for n in range(64)))
    here = {"prompts": str(tmp_path / "prompts.txt"), "rewards": "jpeg=1"}
    known = plan_run("rl-published", here, "h100")
    assert isinstance(known, RLPlan)
    assert known.num_rollouts == 20  # ten epochs, 32 prompts in a rollout
    assert "epochs" not in str(known)
    elsewhere = str(plan_run("rl-published", {}, "h100"))
    assert "ends after 10 epochs of its prompts, which could not be counted here" in elsewhere


def test_an_adjustment_is_made_to_remedies_too() -> None:
    seen = []

    def adjusted(found):
        seen.append(found)
        return replace(found, peak=found.peak + 1e15)

    result = plan(of_tiny().memory.config, ACCELERATORS["cpu"], adjusted=adjusted)
    assert result.peak > 1e15
    assert len(seen) > 1
    assert result.remedies == ()
