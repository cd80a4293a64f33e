"""Folders that DeepSpeed wrote (tools/deepspeed_checkpoints.py) give the weights DeepSpeed itself reports."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepgen.checkpoints.run_facts import differing_fact, parse_config, run_settings
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.checkpoints.zero_partitions import open_zero, zero_files

RUNS = [f"zero{stage}-ranks{ranks}" for stage in (1, 2, 3) for ranks in (1, 2, 3)]
ODD = {"embed.weight": (7, 5), "embed.bias": (5,), "layers.0.weight": (3, 11), "layers.0.bias": (1,)}


@pytest.mark.parametrize("name", RUNS)
def test_weights_are_those_deepspeed_reports(name, deepspeed_folders):
    expected = load_file(deepspeed_folders / f"{name}.safetensors")
    found = open_zero(deepspeed_folders / name).tensors
    assert set(found) == {*expected, "frozen.weight", "head.weight"}
    for key, value in expected.items():
        assert (found[key].shape, found[key].dtype) == (tuple(value.shape), torch.float32)
        assert torch.equal(found[key].read(), value), key
    assert torch.equal(found["head.weight"].read(), expected["embed.weight"])  # a shared parameter
    assert found["head.weight"].name == "head.weight"
    frozen = found["frozen.weight"]
    assert (frozen.shape, frozen.dtype, frozen.read().shape) == ((5, 3), torch.bfloat16, (5, 3))


@pytest.mark.parametrize("name", RUNS)
def test_a_frozen_weight_is_joined_from_its_fragments(name, deepspeed_folders):
    torch.manual_seed(sum(map(ord, name)))  # as the run began
    for shape in ODD.values():
        torch.randn(shape)
    drawn = (torch.randn(5, 3) * 0.1).bfloat16()
    assert torch.equal(open_zero(deepspeed_folders / name).tensors["frozen.weight"].read(), drawn)


def test_16_bit_copies_differ_from_what_is_read(deepspeed_folders):
    found = open_zero(deepspeed_folders / "zero2-ranks3").tensors["layers.1.weight"].read()
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("name", ["zero1-ranks3", "zero2-ranks3", "zero3-ranks3"])
def test_missing_files_are_named(name, deepspeed_folders, tmp_path):
    whole = deepspeed_folders / name
    for file in zero_files(whole):
        folder = tmp_path / file.stem / name
        shutil.copytree(whole, folder)
        (folder / file.name).unlink()
        with pytest.raises(CheckpointError, match=f"is incomplete: .*lacks {file.name}"):
            open_zero(folder)


def test_a_folder_without_any_partition_needs_its_copies(deepspeed_folders, tmp_path):
    folder = shutil.copytree(deepspeed_folders / "zero2-ranks2", tmp_path / "run")
    for file in folder.glob("*optim_states.pt"):
        file.unlink()
    opened = open_zero(folder)
    assert opened.tensors["embed.weight"].dtype == torch.bfloat16
    assert "bfloat16 copies" in opened.notes[0]
    folder = shutil.copytree(deepspeed_folders / "sft" / "iter_6.pth", tmp_path / "iter_6.pth")
    for file in folder.glob("*optim_states.pt"):
        file.unlink()
    with pytest.raises(
        CheckpointError, match=r"incomplete: 32 trained weights such as lmm\..* are only in bf16"
    ):
        open_zero(folder)


class Evil:
    """Runs code where pickles are obeyed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_no_file_of_a_folder_runs_code(tmp_path):
    marker, weight = tmp_path / "executed", torch.randn(3, 5)
    evil = {"plain": Evil(marker), "nested": [{"config": (Evil(marker),)}], Evil(marker): 1}
    states = {
        "module": {"a": weight.bfloat16()},
        "param_shapes": [{"a": weight.shape}],
        "dp_world_size": 2,
        **evil,
    }
    folder = tmp_path / "iter_1.pth"
    folder.mkdir()
    torch.save(states, folder / "mp_rank_00_model_states.pt")
    for rank, row in enumerate(weight.reshape(-1).split(8)):
        optimizer = {"single_partition_of_fp32_groups": [row.clone()], "zero_stage": Evil(marker), **evil}
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": optimizer, "ds_config": evil}, folder / name)
    opened = open_zero(folder)
    assert torch.equal(opened.tensors["a"].read(), weight)
    assert run_settings(opened.states).bases == {}
    assert not marker.exists()
    torch.load(folder / "mp_rank_00_model_states.pt", weights_only=False)
    assert marker.exists()


def mixed(deepspeed_folders: Path, tmp_path: Path, rank: int) -> Path:
    folder = shutil.copytree(deepspeed_folders / "sft" / "iter_6.pth", tmp_path / "iter_6.pth")
    name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
    shutil.copy(deepspeed_folders / "sft-other" / "iter_6.pth" / name, folder / name)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_of_another_run_is_found_by_the_copies(rank, deepspeed_folders, tmp_path):
    with pytest.raises(CheckpointError, match=rf"mixes files of two runs: .*rank_{rank}_mp.* is not what"):
        open_zero(mixed(deepspeed_folders, tmp_path, rank))


def test_a_rank_in_the_place_of_another_is_found(deepspeed_folders, tmp_path):
    folder = shutil.copytree(deepspeed_folders / "zero2-ranks3", tmp_path / "run")
    first, second = (folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1))
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    with pytest.raises(CheckpointError, match=r"mixes files: .*rank_0_.* is not of rank 0"):
        open_zero(folder)


def test_a_rank_of_a_run_of_another_size_is_refused(deepspeed_folders, tmp_path):
    name = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    for taken in ("zero2-ranks3", "zero3-ranks2"):
        folder = shutil.copytree(deepspeed_folders / "zero2-ranks2", tmp_path / taken)
        shutil.copy(deepspeed_folders / taken / name, folder / name)
        with pytest.raises(CheckpointError, match=r"mixes|neither"):
            open_zero(folder)
    folder = shutil.copytree(deepspeed_folders / "zero2-ranks2", tmp_path / "more")
    third = name.replace("rank_1_", "rank_2_", 1)
    shutil.copy(deepspeed_folders / "zero2-ranks3" / third, folder / third)
    with pytest.raises(CheckpointError, match=f"model states are of 2 ranks, and there is {third}"):
        open_zero(folder)


def test_a_rank_beyond_any_run_is_refused_at_once(tmp_path):
    states = {"module": {"a": torch.ones(2)}, "param_shapes": [{"a": torch.Size([2])}]}
    torch.save(states, tmp_path / "mp_rank_00_model_states.pt")
    torch.save({}, tmp_path / f"bf16_zero_pp_rank_{10**12}_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match="a file of rank 1000000000000"):
        open_zero(tmp_path)


def test_two_files_of_one_rank_are_refused(deepspeed_folders, tmp_path):
    folder = shutil.copytree(deepspeed_folders / "zero2-ranks2", tmp_path / "run")
    name = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    shutil.copy(folder / name, folder / name.replace("rank_1_", "rank_01_", 1))
    with pytest.raises(CheckpointError, match="two files of rank 1"):
        open_zero(folder)


@pytest.mark.parametrize("shape", [(-1, -2), ("a",), "ab", 3, None, (2**50,), (1,) * 1000])
@pytest.mark.parametrize("key", ["param_shapes", "frozen_param_shapes"])
def test_shapes_that_are_none_are_named(key, shape, tmp_path):
    states = {"module": {"w": torch.ones(2)}, "param_shapes": [{"v": (2,)}], "dp_world_size": 1}
    states[key] = [{"w": shape}] if key == "param_shapes" else {"w": shape}
    torch.save(states, tmp_path / "mp_rank_00_model_states.pt")
    row = {"optimizer_state_dict": {"single_partition_of_fp32_groups": [torch.ones(2)]}}
    torch.save(row, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match="recorded for w is no list of sizes"):
        open_zero(tmp_path)


@pytest.mark.parametrize("rows", [None, "text", [3], [torch.ones(2, 2)], []])
def test_rows_that_are_none_are_refused_before_ranks_are_compared(rows, tmp_path):
    states = {"module": {}, "param_shapes": [{"w": (2,)}], "dp_world_size": 1}
    torch.save(states, tmp_path / "mp_rank_00_model_states.pt")
    rank = {"single_partition_of_fp32_groups": rows, "param_slice_mappings": [{}]}
    torch.save({"optimizer_state_dict": rank}, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match="is not a list of flat tensors"):
        open_zero(tmp_path)


def test_comparing_two_ranks_takes_no_memory_of_its_own():
    wide: list = []
    wide.extend([wide] * 20_000)  # itself in every place: a walk without bounds keeps 400 million entries
    states = {"k" * 10_000: wide, "step": 1}
    tracemalloc.start()
    assert differing_fact(states, {**states, "step": 2}) == ("step", 1, 2)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


@pytest.mark.parametrize("share", [0, 10, 500, 2000])
def test_a_truncated_rank_is_named(share, deepspeed_folders, tmp_path):
    folder = shutil.copytree(deepspeed_folders / "zero2-ranks2", tmp_path / "run")
    file = folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    file.write_bytes(file.read_bytes()[:share])
    with pytest.raises(CheckpointError, match=f"{file.name} .*truncated"):
        open_zero(folder)


def test_a_foreign_file_in_a_rank_s_place_is_named(deepspeed_folders, tmp_path):
    folder = shutil.copytree(deepspeed_folders / "zero2-ranks2", tmp_path / "run")
    file = folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match=rf"{file.name} holds no optimizer_state_dict"):
        open_zero(folder)


def test_the_run_s_configuration_is_read_as_text_and_not_run(deepspeed_folders, tmp_path):
    settings = run_settings(open_zero(deepspeed_folders / "sft" / "iter_6.pth").states)
    assert settings.connector["num_attention_heads"] == 2
    assert (settings.lora_rank, settings.lora_scale) == (2, 3.0)
    assert settings.bases["vlm"] == "/data/base/qwen"
    marker = tmp_path / "executed"
    text = f"x = open({str(marker)!r}, 'w')\nmodel = dict(connector=dict(num_attention_heads=3), y=[1, -x])"
    assert parse_config(text)["model"]["connector"] == {"num_attention_heads": 3}
    assert not marker.exists()
    for rubbish in ("model = dict(", "(" * 5000, "\0", "x = " + "[" * 300 + "]" * 300):
        assert parse_config(rubbish).get("model") is None
