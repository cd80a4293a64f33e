"""Progress is a bar on a terminal and lines elsewhere, by one helper."""

from __future__ import annotations

import ast
import io
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from deepgen import progress
from deepgen.progress import PlainProgress, progress_bar
from test_architecture import SOURCE, imports, modules

PROGRAM = """
from deepgen.progress import progress_bar
bar = progress_bar(4, "draw", "pictures", initial=1)
for _ in range(3):
    bar.update()
bar.close()
"""


def test_in_a_pipe_progress_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(4, "shapes: draw", "pictures", initial=1)
    for _ in range(3):
        bar.update()
    bar.close()
    bar.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert err.startswith("deepgen: shapes: draw: 4 of 4 pictures, 0 s")
    assert err.count("\n") == 1


def test_on_a_terminal_progress_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\r" in shown
    assert "4/4" in shown


def test_lines_come_once_in_a_while_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    written = io.StringIO()
    with PlainProgress(200_000_000, "hashing", "B", 0, written) as bar:
        for _ in range(200):
            now[0] += 0.5
            bar.update(1_000_000)
    assert written.getvalue().splitlines() == [
        "deepgen: hashing: 60 of 200 MB, 30 s, 2 MB/s",
        "deepgen: hashing: 120 of 200 MB, 60 s, 2 MB/s",
        "deepgen: hashing: 180 of 200 MB, 90 s, 2 MB/s",
        "deepgen: hashing: 200 of 200 MB, 100 s, 2 MB/s",
    ]


def test_other_processes_than_the_first_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2, "draw", "pictures", is_shown=False) as bar:
        bar.update(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_bar_goes_through_the_one_helper(path: Path) -> None:
    if path != SOURCE / "progress.py":
        found = [name for name, _ in imports(ast.parse(path.read_text())) if name.split(".")[0] == "tqdm"]
        assert not found, f"{path}: use deepgen.progress"


@pytest.mark.slow
def test_a_command_in_a_pipe_prints_no_bar_of_ours_or_of_a_library(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepgen", "eval", "run", "shapes", "--model", "tiny", "--limit", "2"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    environment.pop("TQDM_DISABLE", None)
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert b"\r" not in done.stderr + done.stdout
    assert b"deepgen: shapes-generation: draw: 2 of 2 pictures" in done.stderr
