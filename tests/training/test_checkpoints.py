"""A checkpoint is whole or not there, whatever happens while it is written."""

from __future__ import annotations

import errno
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from deepgen.checkpoints.sums import SUMS, read_sums
from deepgen.training import checkpoints as module
from deepgen.training.checkpoint_folders import check_checkpoint, checkpoints, latest_checkpoint
from deepgen.training.checkpoints import CheckpointWriter, read_checkpoint_folder
from deepgen.training.state import Snapshot


def snapshot(step: int) -> Snapshot:
    weights = {"a.weight": torch.full((3, 2), float(step))}
    return Snapshot(step, weights, {}, {"a.weight/exp_avg": torch.zeros(3, 2)})


def test_a_snapshot_comes_back_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2)
    for step in (1, 2, 3):
        writer.save(snapshot(step))
    writer.close()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    found = read_checkpoint_folder(latest_checkpoint(tmp_path))
    assert found.step == 3
    assert torch.equal(found.model["a.weight"], torch.full((3, 2), 3.0))
    assert found.ema == {}


def test_a_disk_that_is_too_full_is_known_before_writing(tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    writer = CheckpointWriter(tmp_path)
    writer.save(snapshot(1))
    writer.wait()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(1, 1, 0))
    with pytest.raises(OSError, match="free some space and go on with --resume"):
        writer.save(snapshot(2))
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000001"]


def test_a_disk_that_fills_while_writing_leaves_no_broken_checkpoint(tmp_path: Path, monkeypatch) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.save(snapshot(1))
    writer.wait()

    def fail(tensors, path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    writer.save(snapshot(2))
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*step-00000002: No space left"):
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_process_left_unfinished_is_not_a_checkpoint_and_is_cleared(tmp_path: Path) -> None:
    unfinished = tmp_path / ".step-00000007"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert checkpoints(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="no step-"):
        latest_checkpoint(tmp_path)
    CheckpointWriter(tmp_path).close()
    assert not unfinished.exists()


def test_a_checkpoint_lists_its_sums_and_a_damaged_one_is_refused_by_the_name_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.save(snapshot(1))
    writer.close()
    folder = latest_checkpoint(tmp_path)
    names = {path.name for path in folder.iterdir()} - {SUMS}
    assert (
        set(read_sums(folder)) == names == {f"{part}.safetensors" for part in module.PARTS} | {"state.json"}
    )
    check_checkpoint(folder)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\x01")
    assert read_checkpoint_folder(folder).step == 1  # it opens without complaint
    with pytest.raises(ValueError, match=r"step-00000001/model\.safetensors was changed or damaged: its"):
        check_checkpoint(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is listed in SHA256SUMS and missing"):
        check_checkpoint(folder)
    file.write_bytes(whole)
    (folder / SUMS).unlink()
    check_checkpoint(folder)
    assert "has no SHA256SUMS, so its state.json was not checked for damage" in caplog.text
    (folder / "state.json").write_text('{"step": 1}')  # as older versions wrote it
    check_checkpoint(folder)
    assert "has no SHA256SUMS, so its files were not checked for damage" in caplog.text
