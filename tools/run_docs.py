"""`make docs`: run every block of README.md and docs/, as somebody who follows the pages would.

Each page is one session in an empty folder: its blocks run in order, and find what earlier ones left. A
Python block is a fresh process, so is every command, and nothing is passed that the page does not say. What
needs the published weights, a card or hours runs against something smaller where a comment in the page's
source says so (see docs_blocks.py). Servers are started on a free port, waited for and stopped; where later
blocks speak to one, it lives until the page ends. Lines that install are left out, and `make` only says what
it would do.

    python tools/run_docs.py                 every page
    python tools/run_docs.py docs/edit.md    some
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from docs_blocks import Block, command_lines, read_blocks
from docs_files import hub_cache, make, published_files, small_model

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from hub_server import Hub, running  # noqa: E402 - the tests' own Hub

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIMIT_S = 900.0  # of one command
READY_S = 180.0  # of a server
USUAL_SERVER = "127.0.0.1:8000"  # where pages say that a server is
INSTALLS = ("pip install", "pip wheel", ".venv/bin/pip install", "python3 -m venv", "python -m pip install")
CHECKOUT = ("tools", "examples", "benchmarks", "constraints.txt", "Makefile", "pyproject.toml")
TWO_STEPS = ["--set", "num_steps=2", "--set", "log_every=1", "--set", "save_every=2"]

Status = Literal["ran", "substituted", "skipped", "failed"]


def _without_lengths(words: Sequence[str]) -> list[str]:
    """A command without the options that say how long it trains, logs and saves; each has one value."""
    lengths = ("--num-steps", "--log-every", "--save-every")
    return [
        word
        for number, word in enumerate(words)
        if word not in lengths and (number == 0 or words[number - 1] not in lengths)
    ]


class BlockFailed(Exception):
    """A command or a Python block did not end well; holds what it printed."""


@dataclass(kw_only=True)
class Result:
    """What became of a block."""

    block: Block
    status: Status
    notes: list[str] = field(default_factory=list)
    output: str = ""
    seconds: float = 0.0


class Session:
    """One page in one folder.

    Args:
        folder: where blocks run; empty.
        common: where small weights are kept for all pages.
        preloaded: run `deepgen` lines in copies (forks) of one process that has imported everything, which
            takes a tenth of the time of a process that imports for itself.
    """

    def __init__(self, folder: Path, common: Path, *, preloaded: bool = False) -> None:
        self.folder, self._common, self._preloaded = folder, common, preloaded
        self._server: Server | None = None
        self._notes: list[str] = []
        self._rest = ""
        self._exported: dict[str, str] = {}
        self._hub: Hub | None = None
        self._open = ExitStack()

    def run(self, blocks: Sequence[Block]) -> Iterator[Result]:
        """Run the blocks in order; after a failure the others are still tried."""
        try:
            for index, block in enumerate(blocks):
                self._rest = "".join(later.code for later in blocks[index + 1 :])
                yield self._run(block)
        finally:
            self._open.close()
            if self._server is not None:
                self._server.stop()

    def _run(self, block: Block) -> Result:
        started, self._notes = time.perf_counter(), list(block.substituted)
        absent = [name for name in block.needs if find_spec(name) is None]
        if block.skip or absent:
            reason = block.skip or f"{', '.join(absent)} is not installed"
            return Result(block=block, status="skipped", notes=[reason])
        result = Result(block=block, status="ran")
        try:
            for name, kind in block.files.items():
                with _silence():
                    make(kind, self.folder / name, self._small)
            if block.has_checkout:
                for name in CHECKOUT:
                    if not (self.folder / name).exists():
                        (self.folder / name).symlink_to(ROOT / name)
            if block.write:
                target = self.folder / block.write
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.code, encoding="utf-8")
            if block.language == "python":
                self._python(block)
            elif block.language == "bash":
                self._exported = {}
                if "<<" in block.code:  # a file written in place: only a shell knows where it ends
                    self._call(["bash", "-e", "-o", "pipefail", "-c", block.code], block)
                else:
                    for line in command_lines(block.code):
                        self._line(line, block)
            result.status = "substituted" if self._notes else "ran"
        except (BlockFailed, ValueError, OSError) as error:
            result.status, result.output = "failed", str(error)
        result.notes = self._notes
        result.seconds = time.perf_counter() - started
        return result

    def _python(self, block: Block) -> None:
        file = self.folder / f".block_{block.line}.py"
        file.write_text(self._addressed(block.code), encoding="utf-8")
        self._call([sys.executable, str(file)], block)

    def _line(self, line: str, block: Block) -> None:
        """One command."""
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            self._exported |= dict(word.split("=", 1) for word in words[1:])
            return
        if line.startswith(INSTALLS):
            self._notes.append(f"left out `{words[0]} ...`, which installs")
            return
        if words[0] == "make":
            self._notes.append(f"`{line.split('#')[0].strip()}` only said what it would do")
            self._call(["make", "-n", "-C", str(ROOT), *words[1:]], block)
            return
        if block.has_two_steps and "train" in words and not {"export", "plot", "gate", "--plan"} & set(words):
            words = [*_without_lengths(words), *TWO_STEPS]
            line = shlex.join(words)
        words = [self._addressed(word) for word in words]
        if is_server(words):
            self._serve(words, block)
        elif words[0] == "deepgen" and not set("|<>&;$`") & set(line):
            self._call([sys.executable, "-m", "deepgen", *words[1:]], block)
        else:
            self._call(["bash", "-e", "-o", "pipefail", "-c", self._addressed(line)], block)

    def _addressed(self, text: str) -> str:
        """The address pages know, as the server on its free port."""
        return text if self._server is None else text.replace(USUAL_SERVER, self._server.address)

    def _serve(self, words: list[str], block: Block) -> None:
        server = Server(words, self._environment(block), self.folder)
        is_needed = self._server is None and USUAL_SERVER in self._rest + block.code and words[1] == "serve"
        server.wait()
        if is_needed:
            self._server = server
        else:
            server.stop()

    def _call(self, command: list[str], block: Block) -> None:
        environment = self._environment(block)
        if self._preloaded and command[1:3] == ["-m", "deepgen"]:
            code, output = preloaded(command[3:], environment, self.folder)
        else:
            try:
                done = subprocess.run(
                    command,
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    timeout=LIMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise BlockFailed(f"{shlex.join(command)}\n  took more than {LIMIT_S:.0f} s") from error
            code, output = done.returncode, done.stdout
        if code not in (0, block.exit):
            shown = output.replace("\r", "\n").strip().splitlines()[-25:]
            raise BlockFailed("\n  ".join([f"{shlex.join(command)}  ended with {code}", *shown]))

    def _environment(self, block: Block) -> dict[str, str]:
        """A user's, with this checkout as the installed package, and no network."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DEEPGEN_", "HF_"))}
        cache = self._small_cache() if block.has_small_weights else self._common / "empty"
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        hub = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        if block.has_small_hub:
            hub = {"HF_HOME": str(self._common / "downloads"), "HF_ENDPOINT": self._small_hub().url}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "HOME": str(self._common),
            "BROWSER": "true",
            **hub,
            **self._exported,
        }

    def _small(self) -> Path:
        folder = self._common / "small"
        with _silence():
            return folder if folder.is_dir() else small_model(folder)

    def _small_hub(self) -> Hub:
        if self._hub is None:
            with _silence():
                repositories = published_files(self._small())
            self._hub = self._open.enter_context(running(Hub(repositories, commit="5" * 40)))
        return self._hub

    def _small_cache(self) -> Path:
        cache = self._common / "hub"
        return cache if cache.is_dir() else hub_cache(cache, self._small())


@contextmanager
def _silence() -> Iterator[None]:
    """What libraries say while inputs are made is of no interest here."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        yield


def is_server(words: Sequence[str]) -> bool:
    """Whether a command listens until it is stopped."""
    if words[:1] != ["deepgen"]:
        return False
    is_mcp = words[1] == "mcp" and "--http" in words
    return words[1] in ("serve", "ui") or words[1:3] == ["rewards", "serve"] or is_mcp


class Server:
    """A command that listens, on a free port instead of the one it says."""

    def __init__(self, words: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        words = [*words, "--port", str(self.port)]
        self.command, self.address = shlex.join(words), f"127.0.0.1:{self.port}"
        self._has_ready = words[1] in ("serve", "ui")
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deepgen", *words[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Until it takes requests; BlockFailed where it ends or says nothing for long."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise BlockFailed(f"{self.command}  ended with {self._process.returncode}\n{self._said()}")
            if self._is_ready():
                return
            time.sleep(0.2)
        self._process.kill()
        raise BlockFailed(f"{self.command}  was not ready after {READY_S:.0f} s\n{self._said()}")

    def stop(self) -> None:
        """In order, as Ctrl-C or a supervisor would; BlockFailed where it does not end well."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise BlockFailed(f"{self.command}  did not stop within a minute\n{self._said()}") from None
        if code not in (0, -signal.SIGTERM):
            raise BlockFailed(f"{self.command}  ended with {code}\n{self._said()}")

    def _is_ready(self) -> bool:
        try:
            if self._has_ready:
                with urllib.request.urlopen(f"http://{self.address}/ready", timeout=5):
                    return True
            with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
        except urllib.error.HTTPError:  # 503 until the model is there
            return False
        except OSError:
            return False

    def _said(self) -> str:
        self._log.seek(0)
        return "\n".join(f"  {line}" for line in self._log.read().strip().splitlines()[-25:])


def preloaded(arguments: Sequence[str], environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Run `deepgen` in a fork of this process: (exit code, what it printed)."""
    import deepgen.cli
    import deepgen.pipeline  # noqa: F401 - what takes seconds to import, once

    with tempfile.TemporaryFile("w+", errors="replace") as output:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os._exit(_in_child(list(arguments), environment, folder, output.fileno()))
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read()


def _in_child(arguments: list[str], environment: dict[str, str], folder: Path, output: int) -> int:
    import traceback

    from huggingface_hub import constants

    import deepgen.cli

    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = environment["HF_HUB_CACHE"], True
        sys.argv = ["deepgen", *arguments]
        code = deepgen.cli.main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def run_page(
    page: Path, *, into: Path | None = None, preloaded: bool = False, fast: bool = False
) -> Iterator[Result]:
    """Run a page in an empty folder, which is removed afterwards.

    Args:
        page: a Markdown file.
        into: use and keep this folder instead; it must not exist yet.
        preloaded: see `Session`.
        fast: leave out the blocks marked as slow.
    """
    blocks = [block for block in read_blocks(page) if not (fast and block.is_slow)]
    with tempfile.TemporaryDirectory(prefix="deepgen-docs-") as place:
        folder = into or Path(place) / "page"
        folder.mkdir(parents=True)
        yield from Session(folder, Path(place), preloaded=preloaded).run(blocks)


def summary(results: Sequence[Result]) -> str:
    """How many blocks ran, as they stand and substituted, and why others did not."""
    counts = {
        name: [r for r in results if r.status == name] for name in ("ran", "substituted", "skipped", "failed")
    }
    ran, substituted, skipped, failed = map(len, counts.values())
    lines = [
        f"{len(results)} blocks: {ran} ran as they stand, {substituted} with something substituted, "
        f"{skipped} were skipped, {failed} failed"
    ]
    lines += [f"  skipped {r.block}: {r.notes[0]}" for r in counts["skipped"]]
    lines += [f"  failed {r.block}" for r in counts["failed"]]
    return "\n".join(lines)


def main() -> int:
    """Exit code 1 when a block failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: README.md and docs/")
    parser.add_argument("--preloaded", action="store_true", help="fork commands from one process: quicker")
    parser.add_argument("--fast", action="store_true", help="leave out blocks that are marked as slow")
    parser.add_argument("--into", type=Path, help="a new folder for the files of one page, which is kept")
    options = parser.parse_args()
    results = []
    for page in [page.resolve() for page in options.pages] or PAGES:
        for result in run_page(page, into=options.into, preloaded=options.preloaded, fast=options.fast):
            results.append(result)
            print(
                f"{result.status:11} {result.block} {result.block.language}, {result.seconds:.1f} s",
                flush=True,
            )
            for note in result.notes:
                print(f"            {note}")
            if result.output:
                print(f"  {result.output}", flush=True)
    print(summary(results))
    return int(any(result.status == "failed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
