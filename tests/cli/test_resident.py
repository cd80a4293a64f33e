"""A command in a copy of the resident process is the command, and starts without importing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepgen.cli import resident as server
from deepgen.cli.app import main
from deepgen.resident import is_private, run_there, socket_path, surroundings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")

DEEPGEN = (sys.executable, "-m", "deepgen")
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
CALLER = """
import sys
from deepgen.cli import main
code = main()
heavy = {"torch", "transformers", "diffusers", "numpy", "PIL", "tyro", "httpx"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """In which a resident process listens."""
    folder = tmp_path_factory.mktemp("run")
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    environment |= {"XDG_RUNTIME_DIR": str(folder)}
    with subprocess.Popen(
        [*DEEPGEN, "resident"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert "is ready" in first, first + process.stderr.read()
        yield environment
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        assert not socket_path(environment).exists()
        assert process.stderr.read() == ""


def called(
    environment: dict[str, str], folder: Path, *words: str, **options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CALLER, *words],
        cwd=folder,
        env=environment | options,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_picture_is_the_same_and_the_caller_imports_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    words = ("generate", "a red circle", "--seed", "1", "--steps", "2", "-o")
    done = called(environment, tmp_path, *words, "there.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("there.png  96x96, seed 1")
    assert "loaded tiny on cpu" in done.stderr
    assert main([*words, str(tmp_path / "here.png")]) == 0
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_errors_come_as_lines_and_exit_codes(environment: dict[str, str], tmp_path: Path) -> None:
    done = called(environment, tmp_path, "info", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith(f"deepgen: error: no such file or folder: {tmp_path}/nothing")
    assert done.stderr.count("\n") == 1
    assert called(environment, tmp_path, "info").returncode == 2
    assert called(environment, tmp_path, "info", "--help").returncode == 0


def test_a_variable_that_libraries_read_once_is_compared(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEEPGEN, "--version"],
        env=environment | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "not used: it was started with another HF_HOME" in done.stderr
    assert done.stdout.startswith("deepgen ")


def test_it_can_be_switched_off(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", environment["XDG_RUNTIME_DIR"])
    assert run_there(["--version"]) == 0
    assert capfd.readouterr().out.startswith("deepgen ")
    assert run_there(["resident"]) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_there(["--version"]) is None
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("DEEPGEN_RESIDENT", "off")
    assert run_there(["--version"]) is None


def drawing(environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    """A command that draws one picture after the other, once the first is there."""
    words = ("generate", "a red circle", "--num-images", "5000", "--steps", "1", "-o", "x.png")
    process = subprocess.Popen(
        [*DEEPGEN, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waited(lambda: len(list(folder.glob("*.png"))) > 1)
    return process


def waited(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_ctrl_c_reaches_the_command(environment: dict[str, str], tmp_path: Path) -> None:
    with drawing(environment, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "pictures are kept" in errors


def test_a_command_ends_with_its_caller(environment: dict[str, str], tmp_path: Path) -> None:
    with drawing(environment, tmp_path) as process:
        process.kill()
        # Both ends of the pipes are closed once the copy, which has them too, is gone.
        process.communicate(timeout=30)
    number = len(list(tmp_path.glob("*.png")))
    time.sleep(0.3)
    assert len(list(tmp_path.glob("*.png"))) == number < 5000


def test_a_second_one_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="listens at"):
        server._listening(socket_path(environment))


# --- the parts, without a process


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    assert not is_private(place)
    with pytest.raises(ValueError, match="not this user's alone"):
        server._listening(place / "a.sock")
    place.chmod(0o700)
    assert is_private(place)
    link = tmp_path / "link"
    link.symlink_to(place)
    assert not is_private(link)


def test_a_socket_that_a_process_left_behind_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "deepgen" / "a.sock"
    server._listening(path).close()
    assert path.exists()
    server._listening(path).close()


def test_it_is_not_used_where_it_would_be_another_process() -> None:
    here = surroundings()
    newest = server._newest_source()
    assert server._difference(here, here, newest) == ""
    assert "files were changed" in server._difference(here, here, newest - 1)
    niced = here | {"priority (nice)": 19}
    assert "another priority (nice)" in server._difference(here, niced, newest)
    assert "another OMP_NUM_THREADS" in server._difference(
        surroundings({"OMP_NUM_THREADS": "1"}), surroundings({}), newest
    )


def test_it_ends_when_nobody_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    try:
        with server._listening(tmp_path / "deepgen" / "a.sock") as listener:
            server._serve(listener, {}, 0.0, idle_minutes=0.001)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "it was idle" in capsys.readouterr().err


def test_idle_minutes_are_checked() -> None:
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        server.Resident(idle_minutes=0).run()


def test_without_a_resident_process_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert run_there(["--version"]) is None
    path = socket_path()
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))
    assert run_there(["--version"]) is None  # what is left of one that was killed
