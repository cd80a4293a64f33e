from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepgen.checkpoints.tensors import open_file
from deepgen.checkpoints.verify import verify
from deepgen.checkpoints.zeros import PAGE, ZeroRun, ZeroSearch, is_zero, zero_ranges

SIZE = 40_000  # elements of four bytes


def byte_by_byte(data: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff((data == 0).astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return [(a, b) for a, b in edges.tolist() if b - a >= PAGE or a == 0 or b == len(data)]


def test_ranges_are_those_a_look_at_every_byte_finds() -> None:
    chance = random.Random(0)
    for _ in range(400):
        length = chance.choice([0, 1, 7, 8, 63, 511, 512, 513, 4096, 5000, 20_000, 70_001])
        data = np.frombuffer(chance.randbytes(length), np.uint8) | 1
        for _ in range(chance.randrange(5)):
            start = chance.randrange(length + 1)
            data[start : start + chance.choice([1, 100, 511, 4095, 4096, 4097, 9000])] = 0
        value = torch.from_numpy(data)
        assert zero_ranges(value) == byte_by_byte(data)
        assert is_zero(value) == (length > 0 and not data.any())


def runs_in(file: Path) -> list[ZeroRun]:
    search, found = ZeroSearch(file.stat().st_size), []
    for name, tensor in open_file(file).items():
        found += search.runs(tensor, tensor.read(), name.endswith("bias"))
    return found + list(search.finish())


def write(folder: Path, first: int, last: int, names: tuple[str, ...] = ("a", "b", "c")) -> tuple[Path, int]:
    """A file of three tensors with zeros from byte `first` to `last` of its data, and where that begins."""
    file = folder / "x.safetensors"
    torch.manual_seed(0)
    save_file({name: torch.randn(SIZE // 100, 100) + 9 for name in names}, file)
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + first : start + last] = bytes(last - first)
    file.write_bytes(bytes(content))
    return file, start


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        (1000, 6000, ["a"]),  # inside
        (0, 5000, ["a"]),  # from its beginning
        (150_100, 160_000, ["a"]),  # to its end
        (150_000, 170_000, ["a", "b"]),  # across a border
        (100_000, 400_000, ["a", "b", "c"]),  # a whole tensor within
    ],
)
def test_a_hole_is_found_with_its_place_wherever_it_is(
    first: int, last: int, names: list[str], tmp_path: Path
) -> None:
    file, start = write(tmp_path, first, last)
    (run,) = runs_in(file)
    assert (run.tensors, run.reaches_end, run.rows) == (names, False, None)
    assert (run.start - start, run.end - start) == (first, last)


def test_a_hole_to_the_end_of_the_file_is_known_as_one(tmp_path: Path) -> None:
    file, start = write(tmp_path, 300_000, 480_000)
    (run,) = runs_in(file)
    assert (run.start, run.end, run.reaches_end) == (start + 300_000, file.stat().st_size, True)


def test_less_than_a_page_is_chance(tmp_path: Path) -> None:
    assert runs_in(write(tmp_path, 10_000, 10_000 + PAGE - 1)[0]) == []
    assert len(runs_in(write(tmp_path, 10_000, 10_000 + PAGE)[0])) == 1


def test_whole_rows_and_what_is_zero_by_design_are_told_apart(tmp_path: Path) -> None:
    (run,) = runs_in(write(tmp_path, 400 * 10, 400 * 30)[0])
    assert run.rows == (10, 30)
    assert runs_in(write(tmp_path, 160_000, 320_000, ("a", "b.bias", "c"))[0]) == []
    (run,) = runs_in(write(tmp_path, 150_000, 330_000, ("a", "b.bias", "c"))[0])
    assert run.tensors == ["a", "b.bias", "c"]


def test_verify_names_a_hole_in_the_middle(ours: Path) -> None:
    file = ours / "transformer" / "diffusion_pytorch_model.safetensors"
    content, middle = file.read_bytes(), file.stat().st_size // 2
    file.write_bytes(content[:middle] + bytes(20_000) + content[middle + 20_000 :])
    report = verify(ours, hashes=False)
    (hole,) = [p for p in report.problems if "zero bytes in a row" in p.message]
    assert (hole.severity, hole.tensor is not None) == ("error", True)
    assert f"to {middle + 20_000} of the file" in hole.message or "of the file, through" in hole.message
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False


def test_unused_rows_are_a_warning(ours: Path) -> None:
    from safetensors.torch import load_file

    file = ours / "vlm" / "model.safetensors"
    state = load_file(file)
    name = max(state, key=lambda key: state[key].numel() if state[key].ndim == 2 else 0)
    rows = -(-PAGE // (state[name][0].numel() * state[name].element_size()))
    state[name][2 : 2 + rows] = 0
    save_file(state, file, {"format": "pt"})
    (problem,) = verify(ours, hashes=False).problems
    assert (problem.severity, problem.tensor) == ("warning", name)
    assert f"rows 2 to {2 + rows} are all zeros" in problem.message
