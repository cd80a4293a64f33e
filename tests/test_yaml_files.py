"""YAML that is built to take all memory is refused by name, in one line, wherever YAML is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepgen.data.mixture_file import read_mixture
from deepgen.data.prompts import open_prompts
from deepgen.evaluation.benchmark_file import load_benchmark_file
from deepgen.yaml_files import read_yaml

READERS = {"mixture": read_mixture, "prompts": open_prompts, "benchmark": load_benchmark_file}


def laughs(levels: int) -> str:
    """Ten times as many values with each level, in ten lines."""
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    """The same through merge keys, which are unfolded while the file is read."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


BOMBS = {
    "aliases": (laughs(9), r"its aliases stand for [\d,]+ values, more than 100,000; write them out"),
    "merges": (merges(9), r"its aliases stand for [\d,]+ values, more than 100,000"),
    "depth": ("a: " + "[" * 100 + "]" * 100, "nested deeper than 64 levels in line 1"),
    "mappings": ("\n".join(f"{' ' * n}a:" for n in range(500)), "nested deeper than 64 levels in line 6"),
    "itself": ("a: &a [1, *a]", "the alias in line 1 is part of what it stands for"),
    "digits": ("a: " + "9" * 5000, "4300"),
    "other encoding": ("é: 1", "line 1: not UTF-8"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("reader", READERS)
def test_a_bomb_is_refused_by_name_at_once(tmp_path: Path, reader: str, bomb: str) -> None:
    text, message = BOMBS[bomb]
    path = tmp_path / "bomb.yaml"
    path.write_bytes(text.encode("latin-1"))
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        READERS[reader](path)
    assert time.perf_counter() - started < 2
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def read(path: Path) -> Any:
    return read_yaml(path, "tests need PyYAML", "train")


def test_aliases_that_save_some_typing_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    text = "\ufeffbase: &base {x: 1, y: [1, 2]}\r\none: {<<: *base, x: 3}\nboth: [*base, *base]"
    path.write_bytes(text.encode())
    base = {"x": 1, "y": [1, 2]}
    assert read(path) == {"base": base, "one": {**base, "x": 3}, "both": [base, base]}


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\n" * 10)
    monkeypatch.setattr("deepgen.yaml_files.MOST_BYTES", 20)
    with pytest.raises(ValueError, match="has 50 bytes, more than the 20 that are read as YAML"):
        read(path)


def test_a_name_that_is_given_twice_is_refused_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("datasets: []\nroot: a\nroot: b\n")
    readers: list[Callable[[Path], Any]] = [read_mixture, open_prompts, load_benchmark_file]
    for reader in readers:
        with pytest.raises(ValueError, match="the name 'root' is given twice, in line 3"):
            reader(path)
