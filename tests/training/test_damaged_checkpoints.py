"""No damaged checkpoint is resumed in silence: what was written comes back, or it is said."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepgen.checkpoints.sums import SUMS
from deepgen.models.errors import CheckpointError
from deepgen.training.checkpoint_folders import (
    STATE,
    check_checkpoint,
    checkpoints,
    latest_checkpoint,
    passed_over,
    whole_checkpoint,
)
from deepgen.training.checkpoints import CheckpointWriter, read_checkpoint_folder
from deepgen.training.sharding import ShardSlice
from deepgen.training.state import Snapshot


class Alone:
    """One of several processes that write together, one after the other."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.is_main = rank, world_size, rank == 0

    def wait(self) -> None: ...

    def any(self, value: bool) -> bool:
        return value


def snapshot(step: int, rank: int = 0, world_size: int = 1) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    names = ("a.weight", "b.weight")
    whole = {name: torch.randn(6, 4, generator=generator) for name in names}
    pieces = {name: ShardSlice((6, 4), rank, world_size) for name in names} if world_size > 1 else {}
    own = {name: pieces[name].cut(value) if pieces else value for name, value in whole.items()}
    moments = {f"{name}/exp_avg": value + 1 for name, value in own.items()}
    return Snapshot(step, own, {n: v + 2 for n, v in own.items()}, moments, pieces, is_finite=True)


def write(run: Path, step: int, world_size: int) -> None:
    several = [None] if world_size == 1 else [Alone(rank, world_size) for rank in range(world_size)]
    writers = [CheckpointWriter(run, 5, processes) for processes in several]  # type: ignore[arg-type]
    for rank, writer in enumerate(writers):
        writer.save(snapshot(step, rank, world_size))
    for writer in reversed(writers):
        writer.wait()
        writer.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run with the steps 10 and 20, of one process and of two."""
    made = {}
    for world_size in (1, 2):
        made[world_size] = tmp_path_factory.mktemp("run") / "run"
        made[world_size].mkdir()
        for step in (10, 20):
            write(made[world_size], step, world_size)
    return made


# --- damages: each changes the newest checkpoint


def some_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("*.safetensors")))


def flip(folder: Path, rng: random.Random) -> None:
    file = rng.choice(sorted(path for path in folder.iterdir() if path.name != SUMS))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def zero_block(folder: Path, rng: random.Random) -> None:
    file = some_file(folder, rng)
    content = bytearray(file.read_bytes())
    start = rng.randrange(len(content) - 16)
    stop = min(len(content), start + rng.choice((16, 64, 512)))
    content[start:stop] = bytes(stop - start)
    file.write_bytes(content)


def truncate(folder: Path, rng: random.Random) -> None:
    file = rng.choice(sorted(folder.iterdir()))
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def swap_tensors(folder: Path, rng: random.Random) -> None:
    """The header says that one tensor lies where the other does: the file opens, and its size is right."""
    file = some_file(folder, rng)
    content = file.read_bytes()
    assert b"a.weight" in content
    file.write_bytes(
        content.replace(b"a.weight", b"?.weight")
        .replace(b"b.weight", b"a.weight")
        .replace(b"?.weight", b"b.weight")
    )


def swap_files(folder: Path, rng: random.Random) -> None:
    one, other = rng.sample(sorted(folder.glob("*.safetensors")), 2)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def file_of_another_step(folder: Path, rng: random.Random) -> None:
    file = rng.choice(sorted(path for path in folder.iterdir()))
    shutil.copy(folder.with_name("step-00000010") / file.name, file)


def wrong_state(folder: Path, rng: random.Random) -> None:
    file = folder / STATE
    state = json.loads(file.read_text())
    wrong = [
        {**state, "step": 10},
        {**state, "step": -1},
        {**state, "step": "20"},
        {**state, "step": 20.5},
        {**state, "finite": False},
        {**state, "sha256": {}},
        {**state, "sha256": [1]},
        {"step": 21},
        {},
        [],
        None,
    ]
    texts = [*map(json.dumps, wrong), "", "{", "\0" * 40, "[" * 5000, "\udcff"]
    file.write_bytes(rng.choice(texts).encode(errors="surrogateescape"))


def wrong_list(folder: Path, rng: random.Random) -> None:
    file = folder / SUMS
    lines = file.read_text().splitlines()
    rng.shuffle(lines)
    other = lines[0][:64][::-1] + lines[0][64:]
    texts = [
        "\n".join([other, *lines[1:]]),
        "\n".join(lines[1:]) + f"\n{'0' * 64}  gone.safetensors\n",
        f"{'0' * 64}  ../../out\n",
        "no list\n",
        "\x00",
    ]
    file.write_text(rng.choice(texts))


def lose_a_file(folder: Path, rng: random.Random) -> None:
    rng.choice(sorted(folder.iterdir())).unlink()


def lose_list_and_change(folder: Path, rng: random.Random) -> None:
    (folder / SUMS).unlink()
    rng.choice((zero_block, swap_tensors, swap_files, wrong_state))(folder, rng)


def add_a_file(folder: Path, rng: random.Random) -> None:
    """Read in the place of the right one, were it not looked for in the lists."""
    other = folder.with_name("step-00000010")
    shutil.copy(rng.choice(sorted(other.glob("model*"))), folder / "model-00001-of-00001.safetensors")


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    *(flip, zero_block, truncate, swap_tensors, swap_files, file_of_another_step, wrong_state, wrong_list),
    *(lose_a_file, lose_list_and_change, add_a_file),
]


def is_as_written(folder: Path, step: int) -> bool:
    found, wanted = read_checkpoint_folder(folder), snapshot(step)
    return found.step == step and all(
        torch.equal(getattr(found, part)[name], value)
        for part in ("model", "ema", "optimizer")
        for name, value in getattr(wanted, part).items()
    )


def resumed(run: Path) -> tuple[str, Path | None]:
    """The refusal, or the checkpoint that would be gone on from."""
    try:
        return "", whole_checkpoint(run)
    except CheckpointError as error:
        return str(error), None


@pytest.mark.parametrize("number", range(15))
def test_twenty_damaged_checkpoints_are_refused_or_passed_over_aloud(
    number: int, runs: dict[int, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """300 in all."""
    rng = random.Random(number)
    for place in range(20):
        damage = DAMAGES[(number * 20 + place) % len(DAMAGES)]
        run = tmp_path / str(place)
        shutil.copytree(runs[1 + place % 2], run)
        damage(run / "step-00000020", rng)
        caplog.clear()
        refusal, chosen = resumed(run)
        if chosen is None:
            assert "step-00000020" in refusal, damage
            assert f"{run / 'step-00000010'} is whole: go on from it with --resume auto" in refusal
        else:
            said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
            if chosen.name == "step-00000010":
                assert any("step-00000020 is passed over: half copied, without" in text for text in said), (
                    damage
                )
            else:
                assert is_as_written(chosen, 20), damage
                assert any("checked for damage" in text for text in said), damage
        again = whole_checkpoint(run, takes_older=True)
        assert is_as_written(again, 20 if again.name == "step-00000020" else 10), damage


def test_a_divided_checkpoint_is_checked_by_all_processes_together(
    runs: dict[int, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs[2], tmp_path / "run")
    file = tmp_path / "run" / "step-00000020" / "ema-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    found = 0
    for rank in range(2):
        with suppress(CheckpointError):
            check_checkpoint(file.parent, Alone(rank, 2))  # type: ignore[arg-type]
            found += 1
    assert found == 1


def test_archives_notes_and_folders_with_other_names_are_no_checkpoints(
    runs: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    shutil.make_archive(str(run / "step-00000030"), "tar", run / "step-00000020")
    (run / "step-00000040").write_text("a note")
    shutil.copytree(run / "step-00000020", run / "step-00000050 (copy)")
    shutil.copytree(run / "step-00000020", run / "step-best")
    half = run / "step-00000060"
    shutil.copytree(run / "step-00000020", half)
    (half / "optimizer.safetensors").unlink()
    assert [folder.name for folder in checkpoints(run)] == ["step-00000010", "step-00000020"]
    assert latest_checkpoint(run).name == whole_checkpoint(run).name == "step-00000020"
    assert set(passed_over(run)) == {
        *("step-00000030.tar", "step-00000040", "step-00000050 (copy)", "step-best", "step-00000060")
    }
    assert passed_over(run)["step-00000060"] == "half copied, without optimizer.safetensors"
    write(run, 70, 1)  # and none of them is in the way of the next
    assert latest_checkpoint(run).name == "step-00000070"


def test_only_a_half_copied_checkpoint_is_an_error_that_names_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path, 10, 1)
    (tmp_path / "step-00000010" / "ema.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"step-00000010 is half copied, without ema\.safetensors"):
        latest_checkpoint(tmp_path)


def test_a_checkpoint_of_an_older_version_is_looked_at_for_nan(tmp_path: Path) -> None:
    write(tmp_path, 10, 1)
    good = snapshot(20)
    bad = replace(good, model={**good.model, "a.weight": torch.full((6, 4), torch.nan)}, is_finite=False)
    writer = CheckpointWriter(tmp_path, 5)
    writer.save(bad)
    writer.close()
    with pytest.raises(CheckpointError, match=r"NaN or infinity in a\.weight.*step-00000010 is whole"):
        whole_checkpoint(tmp_path)
    assert whole_checkpoint(tmp_path, takes_older=True).name == "step-00000010"


def test_where_none_is_whole_the_newest_is_named(tmp_path: Path) -> None:
    for step in (10, 20):
        write(tmp_path, step, 1)
        swap_files(tmp_path / f"step-{step:08d}", random.Random(step))
    with pytest.raises(CheckpointError, match=r"step-00000020/.* was changed.*No checkpoint in .* is whole"):
        whole_checkpoint(tmp_path, takes_older=True)
