"""How much memory a server of `tiny` takes while it is sent the largest pictures it reads, and afterwards.

    python benchmarks/serve_memory.py --output benchmarks/results/serve_memory.json

A server process with its worker gets edits of eight pictures of 8000x8000 pixels, and then 20 clients at the
same time send one such picture each; who is told to come later (429) does. Resident memory of all the
server's processes is looked at every 20 ms; pages that processes share are counted in each of them.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import tyro
from PIL import Image

SIDE = 8000  # pixels: 64 million of a picture are allowed
_LOOK_S = 0.02
_REST_S = 6.0  # until freed memory has gone back


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Send large pictures, and write down what the server held."""

    references: int = 8
    """Pictures of one edit."""
    clients: int = 20
    """Clients at the same time, each with one picture."""
    kinds: tuple[str, ...] = ("png", "jpeg")
    """Files that are sent: a flat PNG with transparency, or a JPEG of noise."""
    output: Path | None = None
    """Where the figures go, as JSON; printed in any case."""


def picture(kind: str) -> bytes:
    """A file of SIDE x SIDE pixels."""
    content = io.BytesIO()
    if kind == "png":
        Image.new("RGBA", (SIDE, SIDE), (200, 30, 30, 255)).save(content, "PNG")
        return content.getvalue()
    small = np.random.default_rng(0).integers(0, 255, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((SIDE, SIDE)).save(content, "JPEG")
    return content.getvalue()


class Watch:
    """Resident bytes of a process and its children."""

    def __init__(self, pid: int) -> None:
        process = psutil.Process(pid)
        self._processes = [process, *process.children(recursive=True)]
        self.peak, self._is_on = 0, True
        threading.Thread(target=self._look, daemon=True).start()

    def now(self) -> int:
        """MiB."""
        return sum(process.memory_info().rss for process in self._processes) >> 20

    def _look(self) -> None:
        while self._is_on:
            try:
                self.peak = max(self.peak, self.now())
            except psutil.NoSuchProcess:
                return
            time.sleep(_LOOK_S)

    def take(self) -> int:
        """The peak since the last one that was taken, MiB."""
        peak, self.peak = self.peak, 0
        return peak


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """A server's address and process."""
    command = [sys.executable, "-m", "deepgen", "serve", "shapes", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"serving on (\S+)", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[1], process.pid
                return
        raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait()


def edit(url: str, files: list[bytes]) -> tuple[str, int]:
    """What became of an edit, and how often it was told to come later."""
    parts = [("image[]", (f"{index}.png", file)) for index, file in enumerate(files)]
    for attempt in range(200):
        reply = httpx.post(
            f"{url}/v1/images/edits",
            data={"prompt": "make the circle blue", "num_inference_steps": "2"},
            files=parts,
            timeout=900,
            trust_env=False,
        )
        if reply.status_code != 429:
            return (reply.json()["size"] if reply.is_success else str(reply.status_code)), attempt
        time.sleep(float(reply.headers["retry-after"]))
    return "given up", 200


def main(options: Memory) -> None:
    """Print the figures."""
    figures: dict[str, Any] = {"unit": "MiB, resident, all processes", "parts": []}
    with server() as (url, pid):
        drawn = httpx.post(
            f"{url}/v1/images/generations", json={"prompt": "a red circle"}, timeout=300, trust_env=False
        )
        drawn.raise_for_status()
        time.sleep(_REST_S)
        watch = Watch(pid)
        figures["start"] = watch.now()
        for kind in options.kinds:
            file = picture(kind)
            for clients, files in ((1, [file] * options.references), (options.clients, [file])):
                watch.take()
                began = time.monotonic()
                with ThreadPoolExecutor(clients) as pool:
                    outcomes = list(pool.map(lambda _: edit(url, files), range(clients)))  # noqa: B023
                part = {
                    "kind": kind,
                    "clients": clients,
                    "pictures": len(files),
                    "file_kib": len(file) >> 10,
                    "outcomes": dict(Counter(outcome for outcome, _ in outcomes)),
                    "told_to_come_later": sum(times for _, times in outcomes),
                    "seconds": round(time.monotonic() - began, 1),
                    "peak": watch.take(),
                }
                time.sleep(_REST_S)
                part["afterwards"] = watch.now()
                print(json.dumps(part), flush=True)
                figures["parts"].append(part)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Memory))
