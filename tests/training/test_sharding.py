"""A model divided among processes learns what it learns on one, and its checkpoints fit any number."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from deepgen.checkpoints.sums import SUMS, read_sums
from deepgen.recipes import export, recipe
from deepgen.training.checkpoint_folders import check_checkpoint, checkpoints, latest_checkpoint
from deepgen.training.checkpoints import CheckpointWriter, read_checkpoint_folder
from deepgen.training.optim import OptimConfig
from deepgen.training.overrides import override
from deepgen.training.sharding import MicroBatchSync, ShardSlice
from deepgen.training.state import Snapshot
from launched_runs import assert_equal, finish, kill, losses, start, weights


class Alone:
    """One of several processes, whose others agree with whatever it says."""

    def __init__(self, rank: int, world_size: int, answers: tuple[bool, ...] = ()):
        self.rank, self.world_size, self.is_main = rank, world_size, rank == 0
        self.answers = list(answers)

    def wait(self) -> None:
        pass

    def any(self, value: bool) -> bool:
        return self.answers.pop(0) if self.answers else value


class Model:
    def __init__(self) -> None:
        self.syncs: list[bool] = []

    def set_requires_gradient_sync(self, value: bool) -> None:
        self.syncs.append(value)


# --- pieces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, 2, 5, 6])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_pieces_are_those_of_torch_chunk(num_rows: int, world_size: int) -> None:
    whole = torch.arange(num_rows * 3).reshape(num_rows, 3)
    cuts = [ShardSlice((num_rows, 3), rank, world_size).cut(whole) for rank in range(world_size)]
    assert torch.equal(torch.cat(cuts), whole)
    for cut, chunk in zip(cuts, whole.chunk(world_size), strict=False):
        assert torch.equal(cut, chunk)


# --- micro-batches ------------------------------------------------------------------------------------------


def test_without_sharding_every_process_goes_its_own_way() -> None:
    synced = MicroBatchSync(torch.nn.Linear(1, 1), Alone(0, 2, (True, True, False)))
    assert [micro_batch.batch for micro_batch in synced("ab")] == ["a", "b"]


def test_gradients_are_exchanged_in_the_last_micro_batch_only() -> None:
    model = Model()
    synced = list(MicroBatchSync(model, Alone(0, 2))("abc"))
    assert [(micro_batch.batch, micro_batch.is_counted) for micro_batch in synced] == [
        ("a", True),
        ("b", True),
        ("c", True),
    ]
    assert model.syncs == [False, False, True]


def test_gradients_can_be_exchanged_in_every_micro_batch() -> None:
    model = Model()
    assert len(list(MicroBatchSync(model, Alone(0, 2), sums_once=False)("abc"))) == 3
    assert model.syncs == [True, True, True]


def test_who_has_fewer_micro_batches_repeats_one_that_does_not_count() -> None:
    model = Model()
    synced = MicroBatchSync(model, Alone(1, 2, (True, True, False)))
    assert [(micro_batch.batch, micro_batch.is_counted) for micro_batch in synced("a")] == [
        ("a", True),
        ("a", False),
    ]
    assert model.syncs == [False, True]
    synced.processes = Alone(1, 2, (True, False))
    assert [(micro_batch.batch, micro_batch.is_counted) for micro_batch in synced("")] == [("a", False)]


def test_who_never_had_a_micro_batch_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="raise global_batch_size or start fewer processes"):
        list(MicroBatchSync(Model(), Alone(1, 2, (True, False)))(""))


# --- configs ------------------------------------------------------------------------------------------------


def test_what_cannot_be_divided_is_refused() -> None:
    config = recipe("alignment")
    with pytest.raises(ValueError, match="frozen weights can be divided under fsdp alone"):
        replace(config, sharding="zero2", shards_frozen=True)
    with pytest.raises(ValueError, match="moments in 8 bits cannot be divided"):
        replace(config, sharding="fsdp", optim=OptimConfig(is_8bit=True))
    with pytest.raises(ValueError, match="takes one of none, zero2, fsdp"):
        override(config, {"sharding": "zero3"})


# --- checkpoints --------------------------------------------------------------------------------------------

WHOLE = {"a": torch.arange(15.0).reshape(5, 3), "one": torch.ones(1, 2), "kept": torch.full((2,), 7.0)}


def divided(rank: int, world_size: int, step: int = 4) -> Snapshot:
    """What one process holds of WHOLE."""
    pieces = {name: ShardSlice(tuple(WHOLE[name].shape), rank, world_size) for name in ("a", "one")}
    own = {name: pieces[name].cut(value) if name in pieces else value for name, value in WHOLE.items()}
    moments = {f"{name}/exp_avg": value + 1 for name, value in own.items()}
    steps = {f"{name}/step": torch.tensor(4.0) for name in own}
    return Snapshot(step, own, own, {**moments, **steps}, pieces)


def write(folder: Path, world_size: int, step: int = 4) -> None:
    writers = [CheckpointWriter(folder, 2, Alone(rank, world_size)) for rank in range(world_size)]
    for rank, writer in enumerate(writers):
        writer.save(divided(rank, world_size, step))
    for writer in reversed(writers):  # the main one gives the name
        assert checkpoints(folder) == []
        writer.wait()
        writer.close()


def assert_same(ours: Snapshot, theirs: Snapshot) -> None:
    for part in ("model", "ema", "optimizer"):
        one, other = getattr(ours, part), getattr(theirs, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), part


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_divided_checkpoint_is_read_whole_and_in_other_pieces(world_size: int, tmp_path: Path) -> None:
    write(tmp_path, world_size)
    folder = latest_checkpoint(tmp_path)
    assert set(read_sums(folder)) == {path.name for path in folder.iterdir()} - {SUMS}
    for rank in range(world_size):
        check_checkpoint(folder, Alone(rank, world_size))
    assert_same(read_checkpoint_folder(folder), replace(divided(0, 1), pieces={}))
    for other in (2, 3, 8):
        for rank in range(other):
            expected = divided(rank, other)
            assert_same(read_checkpoint_folder(folder, expected.pieces), expected)


def test_a_whole_checkpoint_is_read_in_pieces(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.save(divided(0, 1))
    writer.close()
    assert (latest_checkpoint(tmp_path) / "model.safetensors").is_file()
    for rank in range(2):
        expected = divided(rank, 2)
        assert_same(read_checkpoint_folder(latest_checkpoint(tmp_path), expected.pieces), expected)


def assert_no_pickles(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name == SUMS:
            continue
        content = file.read_bytes()
        if file.suffix == ".json":
            json.loads(content)
        else:
            assert file.suffix == ".safetensors"
            json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_a_divided_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    write(tmp_path, 2)
    assert_no_pickles(latest_checkpoint(tmp_path))


def test_a_checkpoint_copied_in_part_and_one_of_another_model_are_clear_errors(tmp_path: Path) -> None:
    write(tmp_path, 3)
    folder = latest_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"a has shape \(5, 3\), this run's \(6, 3\)"):
        read_checkpoint_folder(folder, {"a": ShardSlice((6, 3), 0, 2)})
    (folder / "ema-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds 2 of 3 files of 'ema'; copy the whole folder"):
        read_checkpoint_folder(folder)


def test_a_process_that_cannot_write_leaves_no_broken_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    main = CheckpointWriter(tmp_path, 2, Alone(0, 2))
    main.save(divided(0, 2))
    main._processes = Alone(0, 2, (True,))  # the other one failed
    with pytest.raises(OSError, match="another process could not write its part"):
        main.wait()
    main.close()
    assert list(tmp_path.iterdir()) == []


# --- runs ---------------------------------------------------------------------------------------------------

WHAT = {
    "alignment": {},
    "sft": {"vlm_lora.dropout": "0", "vlm_lora.rank": "4"},  # dropout differs between numbers of processes
    "muon": {"optim.muon_lr": "0.001"},
}


def changes(name: str, sharding: str = "none", shards_frozen: bool = False) -> dict[str, Any]:
    settings = {**WHAT[name], "sharding": sharding, "shards_frozen": str(shards_frozen).lower()}
    settings["optim.eps"] = "1e-5"  # or Adam takes a full step along a gradient that is nothing but rounding
    return {"recipe": "sft" if name == "sft" else "alignment", "changes": settings}


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert losses(ours).keys() == losses(theirs).keys()
    for step, loss in losses(theirs).items():
        assert losses(ours)[step] == pytest.approx(loss, abs=1e-5)
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    for name in (name for name in one if name.startswith(("model/", "ema/"))):
        torch.testing.assert_close(
            one[name], other[name], atol=1e-5, rtol=1e-4, msg=partial("{}: {}".format, name)
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", WHAT)
def test_a_divided_model_learns_what_a_whole_one_learns(name: str, mixture: Path, tmp_path: Path) -> None:
    finish(mixture, tmp_path / "one", steps=3, processes=1, **changes(name))
    finish(mixture, tmp_path / "two", steps=3, processes=2, **changes(name))
    assert_same_run(tmp_path / "two", tmp_path / "one")
    for sharding, shards_frozen in (("zero2", False), ("fsdp", False), ("fsdp", True)):
        output = tmp_path / f"{sharding}-{shards_frozen}"
        finish(mixture, output, steps=3, processes=2, **changes(name, sharding, shards_frozen))
        assert_same_run(output, tmp_path / "one")
        assert_no_pickles(latest_checkpoint(output))
        assert len(list(latest_checkpoint(output).glob("model-*-of-00002.safetensors"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [((2, "fsdp"), (1, "none")), ((1, "none"), (2, "fsdp")), ((2, "zero2"), (2, "none"))]
)
def test_a_run_goes_on_with_other_processes_and_another_sharding(
    first: tuple[int, str], second: tuple[int, str], mixture: Path, tmp_path: Path
) -> None:
    finish(mixture, tmp_path / "straight", steps=4, processes=1, **changes("sft"))
    for steps, (processes, sharding) in ((2, first), (4, second)):
        options = changes("sft", sharding)
        finish(mixture, tmp_path / "moved", steps=steps, processes=processes, resume=steps > 2, **options)
    assert_same_run(tmp_path / "moved", tmp_path / "straight")


@pytest.mark.slow
def test_a_divided_run_is_looked_at_and_exported(mixture: Path, tmp_path: Path) -> None:
    options = changes("alignment", "fsdp", True)
    looking = {"validation.data": str(mixture), "validation.every": "1", "validation.num_samples": "6"}
    options["changes"] |= looking | {"validation.num_images": "1"}
    options["changes"] |= {"validation.num_inference_steps": "1"}
    finish(mixture, tmp_path / "run", steps=2, processes=2, **options)
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all("validation/generate" in line for line in lines)
    export(tmp_path / "run", tmp_path / "export", what="folder", weights="raw")
    assert (tmp_path / "export" / "model_index.json").is_file()


@pytest.mark.slow
def test_a_divided_run_killed_at_random_moments_ends_bit_by_bit_like_an_unbroken_one(
    mixture: Path, tmp_path: Path
) -> None:
    steps, rng, broken, killed = 60, random.Random(0), tmp_path / "broken", 0
    options: dict[str, Any] = {"steps": steps, "processes": 2, **changes("alignment", "fsdp")}
    finish(mixture, tmp_path / "unbroken", **options)
    while killed < 4:
        found = checkpoints(broken)
        process = start(mixture, broken, resume=bool(found), **options)
        deadline = time.monotonic() + 120
        while checkpoints(broken)[-1:] == found[-1:] and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "done before it was killed often enough"
        kill(process)
        killed += 1
    finish(mixture, broken, resume=True, **options)
    assert_equal(tmp_path / "unbroken", broken)


def test_a_damaged_file_is_refused_by_every_process_that_resumes(tmp_path: Path) -> None:
    write(tmp_path, 2)
    folder = latest_checkpoint(tmp_path)
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    raised = 0
    for rank in range(2):
        with pytest.raises(ValueError, match=r"damaged") as error:
            check_checkpoint(folder, Alone(rank, 2, answers=(True,)))
        raised += file.name in str(error.value)
    assert raised == 1  # each looks at its share
