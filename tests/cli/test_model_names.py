"""Naming the model: with and without --model, and what a server calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tyro

from deepgen.cli.app import Command, main
from deepgen.cli.options import short_name

WITHOUT_DEFAULT = ["info", "verify"]


def parsed(*arguments: str) -> Any:
    command = tyro.cli(Command, args=arguments)
    return getattr(command, "action", command)


@pytest.mark.parametrize("words", [["serve"], ["ui"], ["mcp"], ["eval", "shapes"]], ids=" ".join)
def test_a_model_is_named_with_or_without_the_option(words: list[str], monkeypatch) -> None:
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)
    usual = "shapes" if "shapes" in words else "tiny"  # the benchmark's own world
    assert parsed(*words).model == usual
    assert parsed(*words, "folder").model == "folder"
    assert parsed(*words, "--model", "folder").model == "folder"
    assert parsed(*words, "folder", "--model", "folder").model == "folder"
    monkeypatch.setenv("DEEPGEN_MODEL", "elsewhere")
    assert parsed(*words).model == "elsewhere"


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "a"],
        ["ui", "a"],
        ["mcp", "a"],
        ["eval", "shapes", "a"],
        ["info", "a"],
        ["verify", "a"],
        ["convert", "a", "target"],
        ["rewards", "guidance", "a", "--prompts", "p.yaml"],
    ],
    ids=" ".join,
)
def test_two_different_models_are_refused(words: list[str], capsys) -> None:
    assert main([*words, "--model", "b"]) == 2
    assert "two models are named, a and --model b" in capsys.readouterr().err


def test_commands_that_only_read_take_the_option_too(tmp_path: Path, capsys) -> None:
    assert main(["verify", "--model", "tiny", "--no-scan", "--no-hashes"]) == 0
    assert main(["info", "--model", "tiny"]) == 0
    assert main(["convert", "--model", "tiny", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "model_index.json").is_file()
    for command in WITHOUT_DEFAULT:
        capsys.readouterr()
        assert main([command]) == 2
        assert f"name it: deepgen {command} tiny" in capsys.readouterr().err
    assert main(["convert", "tiny"]) == 2
    assert "deepgen convert tiny TARGET" in capsys.readouterr().err


def test_a_server_calls_its_model_by_its_own_name(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "model.pt").touch()
    monkeypatch.chdir(tmp_path / "my-model")
    assert short_name("tiny") == "tiny"
    assert short_name("deepgenteam/DeepGen-1.0-diffusers") == "DeepGen-1.0-diffusers"
    assert [short_name(name) for name in (".", "../my-model/", str(tmp_path / "my-model"))] == [
        "my-model"
    ] * 3
    assert short_name("../model.pt") == "model"
    assert parsed("serve", "tiny").public_name == "tiny"
    assert parsed("serve", "tiny", "--name", "shapes").public_name == "shapes"


@pytest.mark.parametrize(
    "option", ["--max-batch", "--max-waiting", "--max-images", "--max-steps", "--max-pixels"]
)
def test_a_server_that_would_draw_nothing_is_refused_before_its_model_is_loaded(option: str, capsys) -> None:
    assert main(["serve", "/nowhere", option, "0"]) == 2
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err
