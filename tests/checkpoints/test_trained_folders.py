"""Folders of the original's trainers through loading, conversion and examination.

They were written by DeepSpeed and mmengine themselves: tools/deepspeed_checkpoints.py.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_files import BASES, GOLDENS
from deepgen.checkpoints import writer
from deepgen.checkpoints.base_models import complete
from deepgen.checkpoints.checkpoint import read_checkpoint
from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.info import info
from deepgen.checkpoints.layouts import detect
from deepgen.checkpoints.parts import WEIGHTED
from deepgen.checkpoints.tensors import CheckpointError, open_file
from deepgen.checkpoints.torch_files import open_tree
from deepgen.checkpoints.verify import verify
from deepgen.checkpoints.weights import adapt, load_components
from deepgen.cli.app import main
from deepgen.pipeline import DeepGenPipeline

RANK_1 = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
SCALE = 3.0  # alpha 6, rank 2, as the runs' configuration says


@pytest.fixture(scope="module")
def bases(deepspeed_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base VLM with its tokenizer, and an SD3 pipeline folder, as the original's trainer starts from."""
    from diffusers import SD3Transformer2DModel

    folder = tmp_path_factory.mktemp("bases")
    shutil.copytree(GOLDENS / "vlm", folder / "qwen")
    shutil.copytree(GOLDENS / "tokenizer", folder / "qwen", dirs_exist_ok=True)
    for part in ("vae", "scheduler"):
        shutil.copytree(GOLDENS / part, folder / "sd3" / part)
    torch.manual_seed(0)
    config = SD3Transformer2DModel.load_config(deepspeed_folders / "transformer")
    SD3Transformer2DModel.from_config(config).save_pretrained(folder / "sd3" / "transformer")
    return {"vlm": folder / "qwen", "transformer": folder / "sd3", "vae": folder / "sd3"}


@pytest.fixture
def sft(deepspeed_folders: Path, tmp_path: Path) -> Path:
    return shutil.copytree(deepspeed_folders / "sft" / "iter_6.pth", tmp_path / "iter_6.pth")


@pytest.fixture
def rl(deepspeed_folders: Path, tmp_path: Path) -> Path:
    return shutil.copytree(deepspeed_folders / "rl" / "checkpoint-6", tmp_path / "checkpoint-6")


def vlm_with(lora: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """The base VLM with a LoRA added, by the formula."""
    state = {
        name.replace("model.", "language_model.", 1) if name.startswith("model.") else name: value
        for name, value in load_file(GOLDENS / "vlm" / "model.safetensors").items()
    }
    for name, a in lora.items():
        module = name.removeprefix("lmm.model.")
        if ".lora_A.default.weight" in name and "lm_head" not in name:
            b = lora[name.replace("lora_A", "lora_B")]
            state[module.replace(".lora_A.default.weight", ".weight")] += scale * b @ a
        elif ".lora_embedding_A.default" in name:
            b = lora[name.replace("_A.", "_B.")]
            state[module.replace(".lora_embedding_A.default", ".weight")] += scale * (b @ a).T
    return state


def assert_same_vlm(
    state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6
) -> None:
    assert state.keys() == expected.keys()
    assert max(float((state[name] - expected[name]).abs().max()) for name in expected) <= tolerance


def test_the_folder_of_a_fine_tuning_run_loads_with_everything_it_trained(sft, bases, deepspeed_folders):
    trained = load_file(deepspeed_folders / "sft.safetensors")
    pipe = DeepGenPipeline.from_pretrained(sft, torch_dtype=torch.float32, **bases)
    assert torch.equal(pipe.connector.think_tokens.weight, trained["meta_queries"])
    for name, value in pipe.transformer.named_parameters():
        assert torch.equal(value, trained[f"transformer.{name}"]), name
    assert pipe.connector.config.num_attention_heads == 2  # in no tensor: the run's own configuration says it
    assert_same_vlm(pipe.vlm.state_dict(), vlm_with(trained, SCALE))
    image = pipe("a red circle", height=64, width=64, num_inference_steps=1, seed=1, output_type="pt")
    assert torch.isfinite(image.images[0]).all()


def test_lora_of_a_run_can_be_kept_apart_or_ignored(sft, bases, deepspeed_folders):
    trained = load_file(deepspeed_folders / "sft.safetensors")
    kept = load_components(sft, lora="adapter", **bases)["vlm"].state_dict()
    name = "visual.blocks.0.attn.qkv.lora_B.default.weight"
    assert torch.equal(kept[name], trained[f"lmm.model.{name}"])
    left_out = load_components(sft, lora="ignore", **bases)["vlm"].state_dict()
    assert_same_vlm(left_out, vlm_with({}, SCALE), 0)


def test_nothing_of_the_trainer_needs_to_be_importable(sft, bases, monkeypatch):
    for name in ("mmengine", "deepspeed", "xtuner"):
        monkeypatch.setitem(sys.modules, name, None)
    text = str(open_tree(sft / "mp_rank_00_model_states.pt")) + str(open_tree(sft / RANK_1))
    for name in ("mmengine.config.config.ConfigDict", "LossScaler", "ZeroStageEnum", "HistoryBuffer"):
        assert name in text
    assert read_checkpoint(detect(sft)).parts["connector"].config["num_attention_heads"] == 2


def test_the_folder_is_whole_and_described(sft):
    report = verify(sft)
    assert (report.problems, report.kind, report.tensors, report.files) == ([], "deepspeed-dir", 140, 3)
    assert any("LoRA on" in note for note in report.notes)
    described = info(sft)
    assert "LoRA of rank 2 for the VLM" in described.notes
    assert "vlm: from a base model; the run started from /data/base/qwen" in described.notes
    assert {part.name for part in described.parts} == {"connector", "transformer", "vlm_lora"}
    assert all(part.dtypes.keys() == {"float32"} for part in described.parts if part.name != "transformer")


def test_a_missing_rank_is_refused_by_name_at_every_door(sft, bases, tmp_path, capsys):
    (sft / RANK_1).unlink()
    for opened in (
        lambda: DeepGenPipeline.from_pretrained(sft, **bases),
        lambda: convert(sft, tmp_path / "out", **bases, progress=False),
        lambda: read_checkpoint(detect(sft)),
    ):
        with pytest.raises(CheckpointError, match=f"incomplete: it lacks {RANK_1} of 2 ranks"):
            opened()
    (problem,) = verify(sft).problems
    assert RANK_1 in problem.message
    described = info(sft)  # says what is there, and first what is not
    assert RANK_1 in described.notes[0]
    assert {part.name for part in described.parts} == {"connector", "transformer"}
    assert main(["verify", str(sft)]) == 1
    assert main(["generate", "--model", str(sft), "a red circle", "--output", str(tmp_path / "x.png")]) > 0
    assert RANK_1 in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["iter_6.pth"]


def test_pretraining_takes_the_frozen_dit_from_its_base(deepspeed_folders, bases, tmp_path):
    folder = deepspeed_folders / "pretrain" / "iter_4.pth"
    trained = load_file(deepspeed_folders / "pretrain.safetensors")
    assert verify(folder).problems == []
    loaded = weights_of(folder, **bases)
    base = load_file(bases["transformer"] / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(loaded["transformer"]["proj_out.weight"], base["proj_out.weight"])
    table = open_file(folder / "mp_rank_00_model_states.pt")["transformer.pos_embed.pos_embed"].read()
    assert torch.equal(loaded["transformer"]["pos_embed.pos_embed"], table.float())
    assert torch.equal(loaded["connector"]["tap_projector.weight"], trained["projector_1.weight"])
    convert(folder, tmp_path / "native", layout="native", progress=False)
    back = load_file(tmp_path / "native" / "model.safetensors")
    assert back.keys() == {*trained, "transformer.pos_embed.pos_embed"}
    again = weights_of(tmp_path / "native", **bases)["transformer"]
    assert torch.equal(again["pos_embed.pos_embed"], table.float())


def test_a_reinforcement_folder_is_read_in_float32_with_its_lora(rl, bases, deepspeed_folders):
    trained = load_file(deepspeed_folders / "rl.safetensors")
    options = {**bases, "connector_config": {"num_attention_heads": 2}}
    assert verify(rl).problems == []
    loaded = weights_of(rl, lora_scale=1.0, **bases)
    assert torch.equal(loaded["connector"]["tap_projector.weight"], trained["projector_1.weight"])
    assert_same_vlm(loaded["vlm"], vlm_with(trained, 1.0))
    (rl / "global_step6" / RANK_1).unlink()
    with pytest.raises(CheckpointError, match=RANK_1):
        load_components(rl, **options)
    shutil.rmtree(rl / "global_step6")
    with pytest.raises(CheckpointError, match="connector-heads N"):
        load_components(rl, **bases)


def test_16_bit_weights_of_another_run_beside_the_partitions_are_found(rl, deepspeed_folders):
    state = load_file(rl / "model.safetensors")
    save_file({name: value * 1.5 for name, value in state.items()}, rl / "model.safetensors")
    with pytest.raises(CheckpointError, match="mixes files of two runs"):
        read_checkpoint(detect(rl), shapes_only=True)


# --- round trips: what was trained comes back, whichever way


State = dict[str, dict[str, torch.Tensor]]


def weights_of(source: Path, lora_scale: float | None = None, **bases: Any) -> State:
    """The weights a checkpoint is loaded with, LoRA merged, by part."""
    checkpoint = complete(read_checkpoint(detect(source), {"num_attention_heads": 2}), **bases)
    adapt(checkpoint, "merge", lora_scale)
    return {
        name: {key: tensor.read().float() for key, tensor in part.tensors.items()}
        for name, part in checkpoint.parts.items()
    }


@pytest.fixture(scope="module")
def direct(deepspeed_folders: Path, bases: dict[str, Any]) -> State:
    return weights_of(deepspeed_folders / "sft" / "iter_6.pth", **bases)


def assert_same_model(found: State, expected: State, tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys() == set(WEIGHTED)
    for name in WEIGHTED:
        assert found[name].keys() == expected[name].keys()
        worst = max(float((found[name][key] - expected[name][key]).abs().max()) for key in found[name])
        assert worst <= tolerance, (name, worst)


@pytest.mark.parametrize("kept", ["merge", "adapter"])
def test_through_our_folder_and_back_to_native(kept, sft, bases, direct, tmp_path):
    convert(sft, tmp_path / "ours", lora=kept, **bases, progress=False)
    assert_same_model(weights_of(tmp_path / "ours"), direct)
    convert(tmp_path / "ours", tmp_path / "native", layout="native", progress=False)
    state = load_file(tmp_path / "native" / "model.safetensors")
    has_weights = any(name.startswith("lmm.") and "lora_" not in name for name in state)
    assert has_weights == (kept == "merge")  # a merged VLM is no base model's any more, so it is in the file
    assert not any(name.startswith("vae.") for name in state)
    assert_same_model(weights_of(tmp_path / "native", **bases), direct, 1e-6)
    convert(tmp_path / "native", tmp_path / "again", **bases, progress=False)
    assert_same_model(weights_of(tmp_path / "again"), direct, 1e-6)


def test_native_in_between_keeps_the_lora_even_of_the_language_head(sft, bases, direct, tmp_path):
    convert(sft, tmp_path / "native", layout="native", progress=False)
    state = load_file(tmp_path / "native" / "model.safetensors")
    assert len(state) == 140
    assert "lmm.lm_head.lora_A.default.weight" in state
    assert (
        json.loads((tmp_path / "native" / "config.json").read_text())["connector"]["num_attention_heads"] == 2
    )
    # The original multiplies by alpha / rank = 2, always: the file gives the same VLM with it.
    assert_same_model(weights_of(tmp_path / "native", lora_scale=2.0, **bases), direct, 1e-6)
    convert(tmp_path / "native", tmp_path / "ours", lora="adapter", **bases, progress=False)
    assert_same_model(weights_of(tmp_path / "ours"), direct, 1e-6)


def test_a_vlm_changed_in_our_folder_is_kept(sft, bases, tmp_path):
    convert(sft, tmp_path / "ours", lora="adapter", **bases, progress=False)
    file = tmp_path / "ours" / "vlm" / "model.safetensors"
    changed = {name: value + 0.01 for name, value in load_file(file).items()}
    save_file(changed, file, {"format": "pt"})
    (tmp_path / "ours" / "SHA256SUMS").unlink()
    expected = weights_of(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "native", layout="native", progress=False)
    assert_same_model(weights_of(tmp_path / "native", **bases), expected, 1e-6)
    # The same with an unknown VLM, unless it equals the base it is compared with.
    (tmp_path / "ours" / "bases.json").unlink()
    options = {"layout": "native", "progress": False, "vae": bases["vae"]}
    convert(tmp_path / "ours", tmp_path / "second", vlm=bases["vlm"], **options)
    assert_same_model(weights_of(tmp_path / "second", **bases), expected, 1e-6)
    convert(tmp_path / "ours", tmp_path / "third", vlm=tmp_path / "ours", **options)
    names = load_file(tmp_path / "third" / "model.safetensors")
    assert not any(name.startswith(("lmm.", "vae.")) and "lora_" not in name for name in names)


# --- bad input


def spoil(folder: Path, name: str) -> str:
    """Make the numbers at the end of a rank's rows NaN; returns the parameter they belong to."""
    tree = open_tree(folder / name)
    row = tree["optimizer_state_dict"]["single_partition_of_fp32_groups"][0]
    with (folder / name).open("r+b") as file:
        file.seek(row.start + 4 * (row.view.offset + row.numel - 3))
        file.write(b"\x00\x00\xc0\x7f" * 2)
    return "projector_3.weight"


def test_nan_weights_are_named_by_verify(sft, deepspeed_folders):
    # In both the float32 weights and their copies, as a run that diverged leaves them.
    name = spoil(sft, RANK_1)
    copy = open_tree(sft / "mp_rank_00_model_states.pt")["module"][name]
    with (sft / "mp_rank_00_model_states.pt").open("r+b") as file:
        file.seek(copy.start + 2 * (copy.view.offset + copy.numel - 3))
        file.write(b"\xc0\x7f" * 2)
    (problem,) = verify(sft).problems
    assert (problem.tensor, problem.severity) == (name, "error")
    assert "NaN" in problem.message


def test_a_rank_damaged_in_one_place_is_named_by_verify(sft, bases, tmp_path):
    name = spoil(sft, RANK_1)
    (problem,) = verify(sft).problems
    assert problem.tensor == name
    with pytest.raises(CheckpointError, match=f"{name} in .*{RANK_1} is not what"):
        convert(sft, tmp_path / "out", **bases, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["iter_6.pth"]


def test_a_base_of_another_architecture_is_refused_before_anything_is_written(
    deepspeed_folders, bases, tmp_path
):
    other = {**bases, "vlm": bases["vlm"], "transformer": BASES["transformer"]}
    folder = deepspeed_folders / "pretrain" / "iter_4.pth"
    with pytest.raises((CheckpointError, FileNotFoundError)):
        convert(folder, tmp_path / "out", **other, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_an_error_and_not_a_traceback(sft, monkeypatch, capsys):
    opened = Path.open

    def refused(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == RANK_1:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refused)
    (problem,) = verify(sft).problems
    assert f"{RANK_1} cannot be read" in problem.message
    assert main(["info", str(sft)]) > 0
    assert RANK_1 in capsys.readouterr().err


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("layout", ["deepgen", "native"])
def test_a_conversion_that_ends_early_leaves_nothing(fault, layout, sft, bases, tmp_path, monkeypatch):
    read = writer._read
    calls = []

    def ending(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 50:
            raise fault
        return read(*args)

    monkeypatch.setattr(writer, "_read", ending)
    with pytest.raises(type(fault)):
        convert(sft, tmp_path / "out", layout=layout, **bases, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["iter_6.pth"]


def test_the_commands_take_the_base_models(sft, bases, tmp_path, capsys):
    options = [f"--{name}={folder}" for name, folder in bases.items()]
    draw = ["--size", "64x64", "--steps", "1", "--seed", "1", "--device", "cpu"]
    image = tmp_path / "x.png"
    assert main(["generate", "a red circle", "--model", str(sft), *options, *draw, "-o", str(image)]) == 0
    assert image.is_file()
    assert main(["convert", str(sft), str(tmp_path / "ours"), *options]) == 0
    assert main(["verify", str(tmp_path / "ours")]) == 0
    capsys.readouterr()
    assert main(["generate", "x", "--model", "tiny", "--vlm", "y", "-o", str(image)]) > 0
    assert "--vlm has no use" in capsys.readouterr().err
