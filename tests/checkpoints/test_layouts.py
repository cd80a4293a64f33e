from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepgen.checkpoints.layouts import HubOptions, detect, weight_files
from deepgen.checkpoints.tensors import CheckpointError, open_file


def test_every_native_layout_is_recognised(native_layout, native, tmp_path):
    write, kind = native_layout
    layout = detect(write(tmp_path, native))
    assert layout.kind == kind
    assert layout.is_native
    assert sum(len(open_file(file)) for file in layout.files) == len(native)


def test_pipeline_folders_are_told_apart(ours, published):
    assert detect(ours).kind == "deepgen"
    assert detect(str(published)).kind == "diffusers-published"
    assert detect(published / "model_index.json").path == published


def test_a_tag_named_by_latest_is_followed(native, tmp_path):
    (tmp_path / "global_step7").mkdir()
    torch.save({"module": native}, tmp_path / "global_step7" / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step7\n")
    assert detect(tmp_path).path == tmp_path / "global_step7"


def test_a_missing_path_is_told_where_it_was_looked_for(tmp_path):
    (tmp_path / "other.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*model\.pt; in .*: other\.pt"):
        detect(tmp_path / "model.pt")


def test_an_unknown_hub_id_names_folder_cache_and_hub(tmp_path):
    hub = HubOptions(cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(FileNotFoundError) as error:
        detect("nobody/nothing-1.0", hub)
    for place in ("nobody/nothing-1.0", str(tmp_path), "https://huggingface.co", "revision main"):
        assert place in str(error.value)


def test_an_empty_folder_lists_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_index\.json.*mp_rank_00.*found an empty folder"):
        detect(tmp_path)


def test_a_folder_of_checkpoints_lists_the_choices(native, tmp_path):
    for name in ("SFT/iter_400000.pth", "Pretrain/iter_200000.pth"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mp_rank_00_model_states.pt").touch()
    (tmp_path / "RL").mkdir()
    (tmp_path / "RL" / "MR-GDPO_final.pt").touch()
    with pytest.raises(FileNotFoundError) as error:
        detect(tmp_path)
    for choice in ("SFT/iter_400000.pth", "Pretrain/iter_200000.pth", "RL/MR-GDPO_final.pt"):
        assert choice in str(error.value)


def test_several_files_in_a_folder_are_a_choice(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"choose one of: a\.pt, b\.pt"):
        detect(tmp_path)


def test_a_corrupt_index_is_named(ours):
    (ours / "model_index.json").write_text('{"_class_name": ')
    with pytest.raises(CheckpointError, match=r"model_index\.json is not valid JSON"):
        detect(ours)


def test_a_missing_part_folder_is_named(ours):
    (ours / "vae").rename(ours / "vea")
    with pytest.raises(FileNotFoundError, match=r"lacks the folders vae; .*vea/"):
        detect(ours)


def test_a_base_model_is_not_taken_for_deepgen(tmp_path):
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"is a StableDiffusion3Pipeline, not DeepGen.*transformer="):
        detect(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="pass it as the base VLM"):
        detect(tmp_path)
    save_file({"meta_queries": torch.ones(1)}, tmp_path / "model.safetensors")
    assert detect(tmp_path).kind == "rl-dir"


def test_a_split_archive_is_refused_with_the_command_that_joins_it(tmp_path):
    for letter in "ab":
        (tmp_path / f"DeepGen_CKPT.zip.part-a{letter}").touch()
    command = r"cat DeepGen_CKPT\.zip\.part-\* > DeepGen_CKPT\.zip && unzip DeepGen_CKPT\.zip"
    with pytest.raises(CheckpointError, match=command):
        detect(tmp_path)
    with pytest.raises(CheckpointError, match=command):
        detect(tmp_path / "DeepGen_CKPT.zip.part-aa")


def test_a_joined_archive_is_refused_with_what_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("DeepGen_CKPT/RL/MR-GDPO_final.pt", b"")
    with pytest.raises(CheckpointError, match=r"unzip all\.zip.*MR-GDPO_final\.pt"):
        detect(tmp_path / "all.zip")
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="join all parts first"):
        detect(tmp_path / "half.zip")


def test_zero_3_is_recognised_and_model_parallel_checkpoints_are_refused(tmp_path):
    for rank in range(2):
        (tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").touch()
        (tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    layout = detect(tmp_path)
    assert (layout.kind, layout.zero_dir, len(layout.files)) == ("deepspeed-dir", tmp_path, 4)
    other = tmp_path / "other"
    other.mkdir()
    for rank in range(2):
        (other / f"mp_rank_0{rank}_model_states.pt").touch()
    with pytest.raises(CheckpointError, match="model parallelism"):
        detect(other)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(CheckpointError, match=r"known endings are \.pt"):
        detect(tmp_path / "model.onnx")


def test_missing_shards_are_named(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    with pytest.raises(FileNotFoundError, match=r"not in .*: model-2\.safetensors"):
        weight_files(tmp_path)


def test_hub_ids_are_downloaded_without_archives_and_pictures(monkeypatch, ours):
    asked = {}

    def download(name: str, **kwargs: object) -> str:
        asked.update(kwargs, name=name)
        return str(ours)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    layout = detect("someone/DeepGen", HubOptions(revision="abc"))
    assert (layout.kind, layout.path, layout.source) == ("deepgen", Path(ours), "someone/DeepGen")
    assert asked["name"] == "someone/DeepGen"
    assert asked["revision"] == "abc"
    assert "*.zip.part-*" in asked["ignore_patterns"]
