"""Where stage 1 begins: plain base models, written by their own libraries, and a fresh connector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLModel

import deepgen.checkpoints.fresh as fresh
from base_models import write_qwen, write_sd3
from deepgen.checkpoints.base_models import BASE_PIPELINE, BASE_VLM
from deepgen.checkpoints.fresh import BaseModels, fitted_connector, load_fresh
from deepgen.checkpoints.parts import named_config
from deepgen.cli.app import main
from deepgen.models.config import DEEPGEN_1_0
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import export, plan_run, recipe, run
from deepgen.training.overrides import override
from deepgen.training.supervised import SupervisedConfig
from small_runs import small

CONNECTOR = "num_hidden_layers=1,num_think_tokens=4,intermediate_size=24"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "vlm": str(write_qwen(folder / "qwen")),
        "transformer": str(write_sd3(folder / "sd3")),
    }


def from_bases(mixture: Path, bases: dict[str, str], **changes: str) -> dict[str, str]:
    own = {"model": "none", "new_connector": "true", "connector_options": CONNECTOR, **bases}
    return small(mixture, **{**own, **changes})


def draw(folder: Path) -> Any:
    pipe = DeepGenPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red circle", seed=1, height=64, width=64, num_inference_steps=2, output_type="pt").images[
        0
    ]


def test_stage_1_begins_from_plain_bases_and_stage_2_from_its_result(mixture, bases, tmp_path) -> None:
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    run("alignment", first, overrides=from_bases(mixture, bases, num_steps="1"))
    written = json.loads((first / "config.json").read_text())
    assert {name: found["source"] for name, found in written["starts_from"].items()} == {
        **bases,
        "vae": bases["transformer"],
    }
    run("alignment", first, resume=True, overrides=from_bases(mixture, bases, num_steps="2"))
    export(first, tmp_path / "folder", what="folder")
    assert draw(tmp_path / "folder").isfinite().all()

    exported = DeepGenPipeline.from_pretrained(
        tmp_path / "folder", torch_dtype=torch.float32
    ).vlm.state_dict()
    for name, tensor in Qwen2_5_VLModel.from_pretrained(bases["vlm"]).state_dict().items():
        assert torch.equal(exported[name], tensor), name  # frozen

    run("sft", second, overrides=small(mixture, model=str(tmp_path / "folder"), num_steps="1"))
    export(second, tmp_path / "both", what="folder")
    assert not torch.equal(draw(tmp_path / "both"), draw(tmp_path / "folder"))


def test_stage_2_begins_from_a_native_file_completed_by_bases(mixture, bases, tmp_path) -> None:
    """As the original's stage 1 leaves it: connector, projectors and think tokens, neither DiT nor VLM."""
    run("alignment", tmp_path / "run", overrides=from_bases(mixture, bases, num_steps="1"))
    export(tmp_path / "run", tmp_path / "native", what="native")
    file = tmp_path / "native" / "model.safetensors"
    tensors = {name: x for name, x in load_file(file).items() if not name.startswith("transformer.")}
    save_file(tensors, file, metadata={"format": "pt"})

    changes = small(mixture, model=str(tmp_path / "native"), num_steps="1", vae=bases["transformer"], **bases)
    run("sft", tmp_path / "run2", overrides=changes)
    export(tmp_path / "run2", tmp_path / "folder", what="folder")
    assert draw(tmp_path / "folder").isfinite().all()


def test_a_cache_is_made_from_base_models_for_a_run_that_begins_with_them(mixture, bases, tmp_path) -> None:
    options = ["--vlm", bases["vlm"], "--transformer", bases["transformer"], "--num-workers", "0"]
    cache = tmp_path / "cache"
    made = ["data", "cache", str(mixture), "--model", "none", *options, "--device", "cpu", "-o", str(cache)]
    assert main(made) == 0
    run("alignment", tmp_path / "run", overrides=from_bases(mixture, bases, cache=str(cache), num_steps="1"))
    run("alignment", tmp_path / "plain", overrides=from_bases(mixture, bases, num_steps="1"))
    losses = [json.loads((tmp_path / name / "log.jsonl").read_text())["loss"] for name in ("run", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_model_that_holds_a_part_is_not_given_it_again(mixture, bases, tmp_path) -> None:
    with pytest.raises(ValueError, match="shapes holds its own vlm; leave out vlm, or set model=none"):
        run("sft", tmp_path / "run", overrides=small(mixture, vlm=bases["vlm"]))


def test_a_run_is_resumed_from_the_weights_it_began_with(mixture, bases, tmp_path) -> None:
    moved = shutil.copytree(bases["vlm"], tmp_path / "moved")
    other = write_qwen(tmp_path / "other", depth=7)
    run("alignment", tmp_path / "run", overrides=from_bases(mixture, bases, num_steps="1"))

    def resume(**changes: str) -> None:
        settings = from_bases(mixture, bases, num_steps="2", **changes)
        run("alignment", tmp_path / "run", resume=True, overrides=settings)

    with pytest.raises(ValueError, match=f"began from vlm .*, not {other}"):
        resume(vlm=str(other))
    with pytest.raises(ValueError, match="and this would go on from model tiny"):
        resume(model="tiny", vlm="none", transformer="none", connector_options="")
    tensors = load_file(moved / "model.safetensors")
    tensors["model.norm.weight"] += 1
    changed = shutil.copytree(moved, tmp_path / "changed")
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="began from vlm"):
        resume(vlm=str(changed))
    resume(vlm=str(moved))  # the same weights elsewhere


def test_a_run_of_an_older_recipe_is_not_continued_from_other_models(mixture, tmp_path) -> None:
    run("alignment", tmp_path / "run", overrides=small(mixture, num_steps="1"))
    file = tmp_path / "run" / "config.json"
    written = json.loads(file.read_text())
    for name in ("starts_from", "vlm", "transformer", "vae"):  # written before there were any
        del written[name]
    del written["about"]["overrides"]["model"]
    file.write_text(json.dumps(written))
    changes = small(mixture, model="none", new_connector="true")
    with pytest.raises(
        ValueError, match=f"began from model shapes, and this would go on from vlm {BASE_VLM}"
    ):
        run("alignment", tmp_path / "run", resume=True, overrides=changes)
    export(tmp_path / "run", tmp_path / "folder", what="folder")  # of what the file says it began with
    assert DeepGenPipeline.from_pretrained(tmp_path / "folder").vlm.config.text_config.hidden_size == 128


def test_the_published_recipe_begins_from_the_published_bases() -> None:
    config = recipe("alignment")
    assert isinstance(config, SupervisedConfig)
    assert config.ema_decay is None
    assert config.start.sources == {"vlm": BASE_VLM, "transformer": BASE_PIPELINE, "vae": BASE_PIPELINE}
    assert str(config.start) == f"{BASE_VLM} (vlm) + {BASE_PIPELINE} (transformer, vae) + a fresh connector"
    assert recipe("sft").ema_decay is None


def test_the_rule_gives_the_published_connector() -> None:
    sizes = fitted_connector(named_config("vlm", DEEPGEN_1_0), DEEPGEN_1_0.transformer)
    assert sizes == {**DEEPGEN_1_0.connector, "tap_stride": 6}


def test_the_connector_of_a_7b_vlm_is_as_wide_as_it(bases) -> None:
    config = named_config("vlm", DEEPGEN_1_0)
    config.text_config.hidden_size, config.text_config.num_hidden_layers = 3584, 28
    sizes = fitted_connector(config, DEEPGEN_1_0.transformer)
    assert (sizes["hidden_size"], sizes["num_attention_heads"], sizes["intermediate_size"]) == (
        3584,
        56,
        20905,
    )


def test_a_fresh_connector_depends_on_its_seed_alone(bases) -> None:
    torch.manual_seed(5)
    made = [load_fresh(BaseModels(**bases), seed=seed)["connector"].state_dict() for seed in (3, 3, 4)]
    torch.manual_seed(5)
    torch.rand(7)
    again = load_fresh(BaseModels(**bases), seed=3)["connector"].state_dict()
    for name, tensor in made[0].items():
        assert torch.equal(tensor, made[1][name])
        assert torch.equal(tensor, again[name])
    assert not torch.equal(made[0]["tap_projector.weight"], made[2]["tap_projector.weight"])
    assert not made[0]["context_projector.weight"].any()  # training starts silent


def sdxl(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    index = {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def changed_config(folder: Path, part: str, **fields: Any) -> Path:
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


def without_tokenizer(folder: Path) -> Path:
    return write_qwen(folder, tokenizer=False)


WRONG = {
    "an SDXL pipeline": (
        {"transformer": lambda path, bases: sdxl(path)},
        "no transformer in .*: it is a StableDiffusionXLPipeline of unet; expected an SD3 transformer",
    ),
    "a Flux transformer": (
        {
            "transformer": lambda path, bases: changed_config(
                shutil.copytree(bases["transformer"], path),
                "transformer",
                _class_name="FluxTransformer2DModel",
            )
        },
        "transformer .* is a FluxTransformer2DModel, and DeepGen takes an SD3 transformer there",
    ),
    "a Qwen3": (
        {
            "vlm": lambda path, bases: changed_config(
                shutil.copytree(bases["vlm"], path), ".", model_type="qwen3"
            )
        },
        "vlm .* is a qwen3, and DeepGen takes Qwen2.5-VL there",
    ),
    "a pipeline as VLM": (
        {"vlm": lambda path, bases: bases["transformer"]},
        "no vlm in .*: it is a StableDiffusion3Pipeline of scheduler, transformer, vae; expected Qwen2.5-VL",
    ),
    "a VLM as transformer": (
        {"transformer": lambda path, bases: bases["vlm"]},
        "transformer .* is a qwen2_5_vl, and DeepGen takes an SD3 transformer there",
    ),
    "nothing": (
        {"vlm": lambda path, bases: path / "nowhere"},
        "vlm: no such file or folder: .*nowhere",
    ),
    "no tokenizer": (
        {"vlm": lambda path, bases: without_tokenizer(path)},
        "no tokenizer in ",
    ),
    "a VAE of other latents": (
        {"vae": lambda path, bases: write_sd3(path, latent_channels=4)},
        "draws 16 latent channels and vae .* has 4",
    ),
    "an unknown option": ({"connector_options": lambda path, bases: "width=3"}, "a connector has no 'width'"),
    "a neighbour's size": (
        {"connector_options": lambda path, bases: "joint_attention_dim=3"},
        "joint_attention_dim of a connector is 40, as the VLM and the DiT beside it have it",
    ),
    "heads that do not divide": (
        {"connector_options": lambda path, bases: "num_attention_heads=5"},
        "hidden_size 32 is no multiple of num_attention_heads 5",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_base_is_refused_before_weights_are_read(case, mixture, bases, tmp_path, monkeypatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(fresh, "materialize", read)
    changes, message = WRONG[case]
    made = {name: str(make(tmp_path / name, bases)) for name, make in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run("alignment", tmp_path / "run", overrides=from_bases(mixture, bases, **made))


def test_base_models_alone_need_a_fresh_connector() -> None:
    with pytest.raises(ValueError, match="base models have no connector: set new_connector=true too"):
        override(recipe("sft"), {"model": "none"})


def test_a_plan_says_where_a_run_starts_and_counts_other_bases(bases) -> None:
    published = str(plan_run("alignment", {}, "h100"))
    assert published.startswith("deepgen-1.0 on 1 x")
    assert f"starts from: {BASE_VLM} (vlm) + {BASE_PIPELINE} (transformer, vae)" in published
    assert "trained: connector 432.4 M" in published
    small_bases = str(plan_run("alignment", {**bases, "connector_options": CONNECTOR}, "h100"))
    assert f"starts from: {bases['vlm']} (vlm)" in small_bases
    assert "trained: connector 0.0 M" in small_bases
