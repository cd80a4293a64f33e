"""The supervised stages: what must not change a loss does not, and what must be learnt is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepgen.checkpoints.fresh import fresh_connector
from deepgen.data.png import read_records
from deepgen.models.config import DEEPGEN_SHAPES
from deepgen.models.connector import StackedChannelBridge
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import export, recipe, run
from deepgen.sampling.noise_levels import sample_density
from deepgen.training.adapters import LoraSettings
from deepgen.training.checkpoint_folders import latest_checkpoint
from deepgen.training.noise_levels import density
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.randomness import stratified
from deepgen.training.supervised import SupervisedConfig
from deepgen.training.supervised_settings import DropoutConfig
from deepgen.training.supervised_stage import SupervisedStage
from small_runs import small


def build(mixture: Path, name: str = "alignment", **options: Any) -> SupervisedStage:
    config = override(recipe(name), small(mixture))
    torch.manual_seed(0)  # of a LoRA's first weights
    return replace(config, **options).build(Processes("cpu"))


def gradients(stage: SupervisedStage) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in stage.modules.named_parameters() if p.grad is not None}
    stage.modules.zero_grad()
    return found


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], share: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=share * largest, rtol=1e-3, msg=name)


# --- what must not matter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alignment", "sft"])
def test_a_bucketed_batch_gives_the_losses_and_gradients_of_one_sample_at_a_time(name, mixture) -> None:
    lora = LoraSettings(rank=4, dropout=0.0) if name == "sft" else None
    stage = build(mixture, name, vlm_lora=lora)
    for batch in stage.batches(0):
        assert len({len(batch.tokens.input_ids[0]), *batch.tokens.lengths}) > 1, "prompts of several lengths"
        together = stage.loss(batch)
        together.loss.backward()
        expected = gradients(stage)
        apart = [stage.loss(batch.row(index)) for index in range(len(batch))]
        for result in apart:
            result.loss.backward()
        total = sum(float(result.loss.detach()) for result in apart)
        assert float(together.loss.detach()) == pytest.approx(total, abs=1e-6)
        assert_close(gradients(stage), expected)


def test_reading_the_prompt_first_gives_the_losses_and_gradients_of_one_pass(mixture) -> None:
    split, whole = (build(mixture, is_prompt_split=is_split) for is_split in (True, False))
    assert split.objective.is_prompt_constant
    assert not whole.objective.is_prompt_constant
    for one, other in zip(split.batches(0), whole.batches(0), strict=True):
        losses = [stage.loss(batch) for stage, batch in ((split, one), (whole, other))]
        assert float(losses[0].loss.detach()) == pytest.approx(float(losses[1].loss.detach()), abs=1e-6)
        for loss in losses:
            loss.loss.backward()
        assert_close(gradients(split), gradients(whole))


def test_smaller_micro_batches_take_the_same_step(mixture) -> None:
    found = []
    for size in (4, 1):
        stage = build(mixture, micro_batch_size=size)
        for batch in stage.batches(1):
            stage.loss(batch).loss.backward()
        found.append(gradients(stage))
    assert_close(*found)


def test_recomputing_activations_changes_no_gradient(mixture) -> None:
    found = []
    for is_checkpointing in (False, True):
        lora = LoraSettings(rank=4, dropout=0.0)
        stage = build(mixture, "sft", vlm_lora=lora, is_checkpointing_activations=is_checkpointing)
        for batch in stage.batches(0):
            stage.loss(batch).loss.backward()
        found.append(gradients(stage))
    assert_close(*found)


def test_a_step_begun_anywhere_holds_the_same_samples_and_noise(mixture) -> None:
    straight, resumed = build(mixture), build(mixture)
    list(straight.batches(0))
    for one, other in zip(straight.batches(1), resumed.batches(1), strict=True):
        assert one.samples == other.samples
        assert torch.equal(one.noise, other.noise)
        assert torch.equal(one.clean, other.clean)
        assert torch.equal(one.sigma, other.sigma)


# --- what is trained ----------------------------------------------------------------------------------------


def test_alignment_trains_the_connector_alone_and_every_weight_of_it(mixture) -> None:
    stage = build(mixture)
    for step in range(2):
        for batch in stage.batches(step):
            stage.loss(batch).loss.backward()
    trained = {name for name, p in stage.modules.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"connector"}
    assert gradients(stage).keys() == trained


def test_the_useful_lora_targets_are_those_that_receive_gradient(mixture) -> None:
    stage = build(mixture, "sft", vlm_lora=LoraSettings(rank=2, dropout=0.0))
    for batch in stage.batches(0):
        stage.loss(batch).loss.backward()
    useful = {name for name, p in stage.modules.named_parameters() if p.requires_grad and "lora" in name}
    assert useful
    assert {name for name in gradients(stage) if "lora" in name} == useful

    stage = build(mixture, "sft", vlm_lora=LoraSettings(rank=2, dropout=0.0, targets="upstream"))
    for batch in stage.batches(0):
        stage.loss(batch).loss.backward()
    every = {name for name, p in stage.modules.named_parameters() if p.requires_grad and "lora" in name}
    received = {name for name in gradients(stage) if "lora" in name and "embed_tokens" not in name}
    assert any("visual" in name for name in every)
    assert received == useful


@pytest.mark.parametrize("padding", ["hidden", "visible"])
def test_a_long_caption_keeps_its_last_positions_as_in_the_original(mixture, padding: str) -> None:
    """Spec of the original's forward: max_length + references * their largest + think tokens are kept."""
    stage = build(mixture, max_prompt_tokens=9, padding=padding)
    whole = build(mixture, max_prompt_tokens=None, padding=padding)
    think = stage.pipe.connector.config.num_think_tokens
    for cut, kept in zip(stage.batches(0), whole.batches(0), strict=True):
        limit = 9 if cut.pixels is None else 9 + (96 // 32) ** 2
        assert kept.max_positions is None
        assert cut.max_positions == limit + think
        assert torch.equal(cut.tokens.input_ids, kept.tokens.input_ids)
        assert stage.objective.condition(cut)[0].shape[1] == limit + think
        assert stage.loss(cut).metrics["prompts cut"][0] == sum(n > limit for n in cut.tokens.lengths)
        assert "prompts cut" not in whole.loss(kept).metrics


@pytest.mark.parametrize("name", ["alignment", "sft", "lora"])
def test_each_recipe_trains_two_steps_and_resumes_to_four_bit_exactly(name, mixture, tmp_path) -> None:
    run(name, tmp_path / "halves", overrides=small(mixture))
    run(name, tmp_path / "halves", resume=True, overrides=small(mixture, num_steps="4"))
    run(name, tmp_path / "whole", overrides=small(mixture, num_steps="4"))
    for file in ("model", "ema", "optimizer"):
        halves, whole = (
            load_file(latest_checkpoint(tmp_path / folder) / f"{file}.safetensors")
            for folder in ("halves", "whole")
        )
        assert halves.keys() == whole.keys()
        assert all(torch.equal(halves[key], whole[key]) for key in whole)


# --- randomness ---------------------------------------------------------------------------------------------


def test_noise_levels_cover_every_stratum_of_a_global_batch_once() -> None:
    u = stratified(seed=1, step=5, size=64)
    assert sorted((u * 64).astype(int)) == list(range(64))
    assert not np.array_equal(u, stratified(seed=1, step=6, size=64))


@pytest.mark.parametrize("weighting", ["none", "logit_normal", "mode"])
def test_densities_of_uniform_numbers_are_those_diffusers_draws(weighting) -> None:
    grid = (np.arange(20_000) + 0.5) / 20_000
    drawn = sample_density(weighting, 20_000, torch.Generator().manual_seed(0)).double().numpy()
    ours = np.sort(density(weighting, grid))
    assert np.abs(ours - np.sort(drawn)).max() < 0.02


def test_dropped_captions_are_empty_and_edits_can_lose_instruction_or_everything(mixture) -> None:
    def lengths(**shares: float) -> dict[str, list[int]]:
        stage = build(mixture, dropout=DropoutConfig(**shares))
        found: dict[str, list[int]] = {"edit": [], "generate": []}
        for batch in stage.batches(0):
            found["generate" if batch.pixels is None else "edit"] += batch.tokens.lengths
            if batch.pixels is not None and shares.get("edit_everything") == 1:
                assert all(not row for row in batch.pixels)
                assert batch.references is not None
                assert all(not row for row in batch.references)
                assert stage.loss(batch).loss.isfinite()
        return found

    everything = lengths(text=0)
    captions = lengths(text=1)
    assert len(set(captions["generate"])) == 1
    assert captions["edit"] == everything["edit"]
    instructions = lengths(text=0, edit_text=1)
    assert len(set(instructions["edit"])) == 1
    assert instructions["generate"] == everything["generate"]
    assert max(lengths(text=0, edit_everything=1)["edit"]) < min(instructions["edit"])


# --- refusals -----------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused(mixture, tmp_path) -> None:
    with pytest.raises(ValueError, match="data is not set"):
        recipe("lora").build(Processes("cpu"))
    with pytest.raises(ValueError, match="nothing to train"):
        build(mixture, trains_connector=False)
    with pytest.raises(ValueError, match="not both"):
        build(mixture, "sft", transformer_lora=LoraSettings())
    with pytest.raises(ValueError, match=r"dropout of text must be in \[0, 1\]"):
        DropoutConfig(text=2)
    with pytest.raises(ValueError, match="unknown LoRA targets"):
        LoraSettings(targets="all")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run("alignment", tmp_path / "run", overrides=small(tmp_path / "nowhere.yaml"))


def test_a_folder_with_a_run_is_not_overwritten(mixture, tmp_path) -> None:
    run("alignment", tmp_path / "run", overrides=small(mixture, num_steps="1"))
    with pytest.raises(FileExistsError, match="holds a run at step 1; go on with --resume"):
        run("alignment", tmp_path / "run", overrides=small(mixture, num_steps="1"))


def test_a_checkpoint_of_another_run_is_refused_by_its_names(mixture, tmp_path) -> None:
    run("alignment", tmp_path / "run", overrides=small(mixture, num_steps="1"))
    with pytest.raises(ValueError, match=r"trains_transformer: False -> True; vlm_lora: none -> .*rank=64"):
        run("sft", tmp_path / "run", resume=True, overrides=small(mixture))
    with pytest.raises(ValueError, match="parameters are not this run's"):
        run("sft", tmp_path / "run", resume=True, overrides=small(mixture), accept_changes=True)


# --- looking ------------------------------------------------------------------------------------------------


def test_validation_logs_fixed_levels_draws_pictures_and_leaves_training_as_it_was(mixture, tmp_path) -> None:
    run("sft", tmp_path / "blind", overrides=small(mixture))
    looking = {
        "validation.data": str(mixture),
        "validation.every": "1",
        "validation.num_samples": "3",
        "validation.num_images": "2",
        "validation.num_inference_steps": "1",
        "log_every": "1",
    }
    run("sft", tmp_path / "looking", overrides=small(mixture, **looking))
    lines = [json.loads(line) for line in (tmp_path / "looking" / "log.jsonl").read_text().splitlines()]
    levels = [name for name in lines[0] if name.startswith("validation/edit at")]
    assert len(levels) == 8
    mean = sum(lines[0][name] for name in levels) / 8
    assert lines[0]["validation/edit"] == pytest.approx(mean, rel=1e-3)
    images = sorted((tmp_path / "looking" / "samples").iterdir())
    assert [image.name for image in images] == ["step-00000001.png", "step-00000002.png"]
    drawn = read_records(images[0])
    assert [record.seed for record in drawn] == list(range(len(drawn)))
    assert drawn
    blind, seen = (
        load_file(latest_checkpoint(tmp_path / name) / "model.safetensors") for name in ("blind", "looking")
    )
    assert all(torch.equal(blind[key], seen[key]) for key in blind)


@pytest.mark.parametrize("name", ["alignment", "sft"])
def test_on_a_cpu_16_bits_are_for_frozen_weights_only(name, mixture) -> None:
    narrow, wide = build(mixture, name, precision="bfloat16"), build(mixture, name)
    for ours, theirs in zip(narrow.objective.parameters(), wide.objective.parameters(), strict=True):
        theirs.data = ours.data.float()
    assert narrow.objective.vlm.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    batch = next(iter(wide.batches(0)))
    for stage in (narrow, wide):
        torch.manual_seed(0)
        stage.loss(batch).loss.backward()
    assert_close(gradients(narrow), gradients(wide))


@pytest.mark.parametrize("name", ["alignment", "sft"])
def test_products_in_16_bits_on_a_cpu_give_nearly_the_same_gradients(name, mixture) -> None:
    narrow, wide = build(mixture, name, is_autocast_on_cpu=True), build(mixture, name)
    batches = [next(iter(stage.batches(0))) for stage in (narrow, wide)]
    assert torch.equal(batches[0].noise, batches[1].noise)
    shift = (batches[0].clean - batches[1].clean).abs().max()
    assert 0 < shift < 0.05 * batches[1].clean.std()  # the VAE multiplies in 16 bits, too
    losses = [stage.loss(batch).loss for stage, batch in zip((narrow, wide), batches, strict=True)]
    assert 0 < (losses[0] - losses[1]).detach().abs() < 0.02 * losses[1].detach()
    for loss in losses:
        loss.backward()
    trained = [parameter for parameter in narrow.objective.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in trained)
    ours, theirs = (torch.cat([g.flatten() for g in gradients(stage).values()]) for stage in (narrow, wide))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.99


@pytest.mark.parametrize(
    "options", [(), ("num_think_tokens=0",), ("variant=last_hidden",), ("tap_stride=6",), ("taps=1,4",)]
)
def test_a_fresh_connector_of_another_shape_is_trained_and_exported(options, mixture, tmp_path) -> None:
    changes = small(mixture, new_connector="true", connector_options=",".join(options))
    run("alignment", tmp_path / "run", overrides=changes)
    export(tmp_path / "run", tmp_path / "out", what="folder")
    pipe = DeepGenPipeline.from_pretrained(tmp_path / "out")
    for option in options:
        name, _, value = option.partition("=")
        if name == "taps":
            assert pipe.connector.taps == (4, 1)
            continue
        assert str(pipe.connector.config[name]) == value


def connector_of(config: SupervisedConfig, options: tuple[str, ...]) -> StackedChannelBridge:
    changed = replace(config, connector_options=options)
    return fresh_connector(StackedChannelBridge(**DEEPGEN_SHAPES.connector), changed.connector_options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("think_tokens=4",), "has no 'think_tokens'"),
        (("num_think_tokens=many",), "of type int"),
        (("num_think_tokens",), "not name=value"),
        (("taps=1", "6"), "from 1 to 5, got 6"),
        (("taps=2", "2"), "layer 2 is among the taps twice"),
        (("taps=two",), "taps are numbers of VLM layers"),
    ],
)
def test_a_connector_option_that_cannot_be_is_refused(options, words) -> None:
    config = recipe("alignment")
    assert isinstance(config, SupervisedConfig)
    with pytest.raises(ValueError, match=words):
        connector_of(replace(config, new_connector=True), options)
