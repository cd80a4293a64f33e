"""Mistakes of the keyboard: one line, exit code 2, and the nearest word of the command that was typed."""

from __future__ import annotations

from typing import Any

import pytest

from deepgen.cli.app import main

SLIPS = [
    ("generate x --step 3", "unknown option --step; did you mean --steps?"),
    ("generate x --num_image 3", "unknown option --num_image; did you mean --num-images?"),
    ("generate x --guidence 3", "unknown option --guidence; did you mean --guidance?"),
    ("generate x --no-metdata", "unknown option --no-metdata; did you mean --no-metadata?"),
    ("edit x --maks a.png", "unknown option --maks; did you mean --mask?"),
    ("serve tiny --prt 8", "unknown option --prt; did you mean --port?"),
    ("data inspect a --sorce b", "unknown option --sorce; did you mean --source?"),
    ("generate x --colour", "unknown option --colour; see deepgen generate --help"),
    ("generate x --image a.png", "deepgen generate has no option --image; deepgen edit has"),
    ("genrate x", "there is no command 'genrate'; did you mean generate?"),
    ("draw", "there is no command 'draw'; known: generate, edit, "),
    ("eval rnu geneval", "there is no command 'rnu'; did you mean run?"),
    ("--hlep", "unknown option --hlep; did you mean --help?"),
    ("", "deepgen needs a command: generate, edit, "),
    ("data", "deepgen data needs a command: inspect, "),
    ("generate x --preset balance", "--preset 'balance' is unknown; did you mean balanced?"),
    ("generate x --scheduler magic", "--scheduler 'magic' is unknown; known: euler, heun, dpm++, unipc"),
    ("generate x --steps many", "--steps 'many' is no whole number"),
    ("generate x -n many", "'many' is no whole number"),
    ("generate x --steps", "--steps needs a value"),
    ("rewards score --reward ocr=1 x.png", "rewards score needs NAME"),
    ("convert", "deepgen convert needs SOURCE; see"),
    ("help", "there is no command 'help'; did you mean deepgen --help?"),
    ("generate x --device gpu", "--device 'gpu' is unknown; known: auto, cuda, mps, cpu"),
    ("generate tiny x", "deepgen generate takes the model as an option: --model tiny"),
    ("generate a red star", "more words than it takes: 'a red star'; put a text of several words in quotes"),
]


@pytest.mark.parametrize(("typed", "message"), SLIPS, ids=[typed or "nothing" for typed, _ in SLIPS])
def test_a_slip_is_one_line_with_the_nearest_word(typed: str, message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(typed.split())
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("deepgen: error: ")
    assert (said.err.count("\n"), said.out) == (1, "")
    assert len(said.err) < 200


def test_a_prompt_without_its_command_says_which(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["a red star"])
    assert (
        "there is no command 'a red star'; to draw it: deepgen generate \"a red star\""
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", [[], ["edit"], ["eval", "run"]])
def test_help_is_printed_as_before(command: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: deepgen" in capsys.readouterr().out


def test_underscores_are_dashes_and_a_misspelt_model_is_guessed(capsys: Any) -> None:
    assert main(["generate", "x", "--num_images", "0"]) == 2
    assert "--num-images must be at least 1" in capsys.readouterr().err
    assert main(["info", "tinny"]) == 2
    assert "did you mean tiny?" in capsys.readouterr().err
