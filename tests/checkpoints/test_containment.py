"""No file outside a model's folder is read, whichever way it is loaded; the Hub's cache still works."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_files import HEADS
from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.info import info
from deepgen.checkpoints.layouts import weight_files
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.checkpoints.verify import verify
from deepgen.checkpoints.weights import load_components
from deepgen.models.containment import check_folder, require_plain
from deepgen.models.vlm import DeepGenVLM
from deepgen.pipeline import DeepGenPipeline

REFUSED = r"no file of its own folder|leads out of the model's folder"
DOORS: dict[str, Callable[[Path], Any]] = {
    "our reader": load_components,
    "our reader, by dtype": lambda folder: DeepGenPipeline.from_pretrained(folder, dtype=torch.float32),
    "diffusers' and transformers' readers": DeepGenPipeline.from_pretrained,
    "a part by its class": lambda folder: DeepGenVLM.from_pretrained(folder, subfolder="vlm"),
    "convert": lambda folder: convert(folder, folder.parent / "converted", progress=False),
    "info": info,
    "base models": lambda folder: load_components(
        folder.parent / "native.safetensors", vlm=folder, vae=folder, connector_config=HEADS
    ),
}


def outside(folder: Path, name: str) -> Path:
    """The weights of the VLM, moved to a place the folder has no business with."""
    place = folder.parent / "elsewhere"
    place.mkdir()
    return Path(shutil.move(folder / "vlm" / name, place / name))


def by_index(shard: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = outside(folder, "model.safetensors")
        name = shard.format(file=file)
        index = {"metadata": {}, "weight_map": {"language_model.norm.weight": name}}
        (folder / "vlm" / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def by_link(folder: Path) -> None:
    (folder / "vlm" / "model.safetensors").symlink_to(outside(folder, "model.safetensors"))


def by_folder_link(folder: Path) -> None:
    shutil.move(folder / "vlm", folder.parent / "elsewhere")
    (folder / "vlm").symlink_to(folder.parent / "elsewhere")


def by_config_link(folder: Path) -> None:
    (folder / "vlm" / "config.json").symlink_to(outside(folder, "config.json"))


ESCAPES: dict[str, Callable[[Path], None]] = {
    "index with ..": by_index("../../elsewhere/model.safetensors"),
    "index with an absolute path": by_index("{file}"),
    "link": by_link,
    "linked folder": by_folder_link,
    "linked config": by_config_link,
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_files_elsewhere_are_refused_at_every_door(
    escape: Callable[[Path], None], ours: Path, native: dict[str, torch.Tensor]
) -> None:
    from safetensors.torch import save_file

    save_file(native, ours.parent / "native.safetensors")
    escape(ours)
    for door in DOORS.values():
        with pytest.raises(CheckpointError, match=REFUSED) as raised:
            door(ours)
        assert str(ours) in str(raised.value)
    report = verify(ours)
    assert not report.ok
    assert "elsewhere" in str(report)


def test_a_folder_of_lora_weights_is_no_way_out(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").symlink_to("/etc/passwd")
    pipe = DeepGenPipeline.from_pretrained("tiny")
    with pytest.raises(CheckpointError, match=REFUSED):
        pipe.load_lora_weights(tmp_path / "lora")


def test_a_deepspeed_run_names_no_folder_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "latest").write_text("../elsewhere")
    with pytest.raises(CheckpointError, match=REFUSED):
        info(tmp_path / "run")


def in_hub_cache(folder: Path, home: Path) -> Path:
    """As the Hub's client keeps it: a snapshot's files are links into the repository's blobs."""
    repository = home / "models--somebody--model"
    snapshot = repository / "snapshots" / "abc"
    for number, file in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        link, blob = snapshot / file.relative_to(folder), repository / "blobs" / str(number)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_the_cache_of_the_hub_is_read_as_before(
    ours: Path, native: dict[str, torch.Tensor], options: dict[str, Any]
) -> None:
    from safetensors.torch import save_file

    snapshot = in_hub_cache(ours, ours.parent)
    loaded = load_components(snapshot)["vlm"].state_dict()
    through_libraries = DeepGenPipeline.from_pretrained(snapshot).vlm.state_dict()
    assert all(torch.equal(loaded[name], through_libraries[name]) for name in loaded)
    assert verify(snapshot).ok
    save_file(native, ours.parent / "native.safetensors")
    based = {**options, "vlm": snapshot, "vae": snapshot}
    assert "vlm" in load_components(ours.parent / "native.safetensors", **based)


def test_links_into_the_cache_of_another_repository_are_refused(ours: Path) -> None:
    snapshot = in_hub_cache(ours, ours.parent)
    other = ours.parent / "models--other" / "blobs" / "0"
    other.parent.mkdir(parents=True)
    link = snapshot / "vlm" / "model.safetensors"
    shutil.copy(link, other)
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(CheckpointError, match="models--other"):
        check_folder(snapshot)


def test_links_within_the_folder_and_links_to_it_stay_allowed(ours: Path) -> None:
    file = ours / "vlm" / "model.safetensors"
    file.rename(ours / "vlm" / "weights.bin")
    file.symlink_to("weights.bin")
    (ours.parent / "alias").symlink_to(ours)
    (ours / "datasets").symlink_to("/etc")  # no part of the model
    assert "vlm" in load_components(ours.parent / "alias")


def test_links_in_a_circle_are_named(ours: Path) -> None:
    file = ours / "vlm" / "model.safetensors"
    file.unlink()
    file.symlink_to("model.safetensors")
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"vlm"):
        load_components(ours)
    assert not verify(ours).ok


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a/../../x", "a\0b", 3, None, ["x"], {}])
def test_names_that_are_no_files_of_a_folder(name: Any) -> None:
    with pytest.raises(CheckpointError, match="index names"):
        require_plain(name, Path("index"))


@pytest.mark.parametrize("shard", [3, None, ["x"], {"a": 1}, "../x", "/x"])
def test_an_index_of_wrong_types_is_refused(shard: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=r"index\.json names"):
        weight_files(tmp_path)
