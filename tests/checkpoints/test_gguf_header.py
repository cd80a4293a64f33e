"""What a GGUF file is said to be; the files in gguf/ were written by the package `gguf` 0.19."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deepgen.checkpoints.gguf_header import describe_gguf
from deepgen.checkpoints.layouts import detect
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.checkpoints.verify import verify
from deepgen.cli.app import main

FILES = Path(__file__).parent / "gguf_samples"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dit", "3 tensors.*seems to be the DiT: use it with --model NAME --transformer-gguf"),
        ("stability", "2 tensors.*seems to be the DiT: use it with --model NAME --transformer-gguf"),
        ("vlm", r"seems to be the VLM; only the DiT .*read_gguf\(pipe\.vlm, path\)"),
        ("connector", r"seems to be the connector; only the DiT .*read_gguf\(pipe\.connector, path\)"),
    ],
)
def test_a_gguf_file_is_told_what_to_do_with(name: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        detect(FILES / f"{name}.gguf")
    (problem,) = verify(FILES / f"{name}.gguf").problems
    assert "--transformer-gguf" in problem.message


def test_a_folder_that_holds_only_a_gguf_file_says_so_too(tmp_path: Path) -> None:
    shutil.copy(FILES / "dit.gguf", tmp_path)
    with pytest.raises(CheckpointError, match=r"dit\.gguf is a GGUF file"):
        detect(tmp_path)


def test_a_broken_gguf_file_is_no_traceback(tmp_path: Path) -> None:
    whole = (FILES / "stability.gguf").read_bytes()
    file = tmp_path / "x.gguf"
    for length in range(0, 400, 11):
        file.write_bytes(whole[:length])
        assert "GGUF" in describe_gguf(file)
    for place in range(24, 300, 5):
        file.write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        assert "GGUF" in describe_gguf(file)


@pytest.mark.parametrize("command", [["info"], ["verify"], ["generate", "a circle", "--model"]])
def test_every_command_says_where_the_file_goes(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, str(FILES / "dit.gguf")]) in (1, 2)
    said = capsys.readouterr()
    assert "--transformer-gguf" in said.out + said.err
