"""A server under load: errors, lost requests, latency, what batching gains, and whether memory is flat.

    python benchmarks/serve_load.py --output benchmarks/results/serve_load.json

Four parts, each with a server process of its own on `tiny`: as many clients as asked draw for a time in
batches (`--exact`, so that each picture can be compared bit for bit with itself drawn alone), the same with
one picture to a forward, many short requests with the memory of all the server's processes looked at now and
then, and batches again with each preset's own number of steps. Clients and server share the machine.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro

PROMPTS = ("a red circle", "two blue squares on a white background", "a green star above a yellow cross")


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load a server and write down how it fared."""

    clients: int = 64
    """Clients that each ask for a picture, and for the next as soon as it has come."""
    seconds: float = 120.0
    """How long they do, with batches; with one at a time they do so half as long."""
    steps: int | None = 20
    """Solver steps of each picture; None: the server's own."""
    max_batch: int = 8
    """Pictures in one forward."""
    workers: int = 1
    """Worker processes."""
    compared: int = 20
    """Pictures that are drawn again alone and compared."""
    requests: int = 5000
    """Short requests (1 step) over which memory is looked at; 0 leaves that part out."""
    presets: tuple[str, ...] = ("exact", "balanced", "fast")
    """What servers draw with in the last part, half as long each; none leaves it out."""
    against: Path | None = None
    """Another checkout, such as a worktree of an older commit: instead of all parts, servers of both draw in
    turns, four times each, and the ratio of their pictures per second is what is asked for."""
    output: Path | None = None
    """Where the figures go, as JSON; printed in any case."""


@dataclass
class Outcome:
    """What the clients saw."""

    sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    images: dict[int, bytes] = field(default_factory=dict)  # by seed

    def figures(self) -> dict[str, Any]:
        """For the file."""
        p50, p99 = np.percentile(self.latencies, [50, 99]) if self.latencies else (float("nan"),) * 2
        return {
            "requests": self.sent,
            "errors": dict(self.errors),
            "lost": self.sent - self.answered - sum(self.errors.values()),
            "p50_s": round(float(p50), 3),
            "p99_s": round(float(p99), 3),
            "pictures_per_s": round(self.answered / self.seconds, 3),
        }


def main(options: Load) -> None:
    """Run the parts."""
    room = ("--max-waiting", str(2 * options.clients), "--max-running", str(2 * options.max_batch))
    batched = ("--max-batch", str(options.max_batch), "--exact")
    results: dict[str, Any] = {"options": {**asdict(options), "output": None}, "machine": machine()}
    if options.against is not None:
        results["options"]["against"] = options.against.name
        results |= asyncio.run(in_turns(options, options.against, [*room, *batched]))
        write(options, results)
        return
    with server(options, *room, *batched) as (url, _):
        outcome = asyncio.run(load(url, options, options.seconds))
        results["batches"] = outcome.figures()
        results["equal_alone"] = asyncio.run(compare(url, options, outcome))
    with server(options, *room, "--max-batch", "1") as (url, _):
        results["one_at_a_time"] = asyncio.run(load(url, options, options.seconds / 2)).figures()
    ratio = results["batches"]["pictures_per_s"] / results["one_at_a_time"]["pictures_per_s"]
    results["batches_gain"] = round(ratio, 2)
    if options.requests:
        with server(options, *room, "--max-batch", str(options.max_batch)) as (url, pid):
            results["memory"] = asyncio.run(watch_memory(url, pid, options))
    if options.presets:
        results["presets"] = {}
    for preset in options.presets:
        with server(options, *room, "--max-batch", str(options.max_batch), "--preset", preset) as (url, _):
            outcome = asyncio.run(load(url, replace(options, steps=None), options.seconds / 2))
            results["presets"][preset] = outcome.figures()
    write(options, results)


def write(options: Load, results: dict[str, Any]) -> None:
    """The figures, on the terminal and into the file."""
    text = json.dumps(results, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n")


async def in_turns(options: Load, other: Path, arguments: list[str]) -> dict[str, Any]:
    """Figures of this server and of another checkout's, which take turns on the same machine."""
    rounds: dict[str, list[dict[str, Any]]] = {"this": [], "other": []}
    with (
        server(options, *arguments, source=Path(__file__).parents[1] / "src") as (mine, _),
        server(options, *arguments, source=other / "src") as (theirs, _),
    ):
        for _ in range(4):
            for name, url in (("this", mine), ("other", theirs)):
                outcome = await load(url, options, options.seconds / 8)
                rounds[name].append(outcome.figures())
    rates = {name: [one["pictures_per_s"] for one in found] for name, found in rounds.items()}
    ratios = [this / that for this, that in zip(rates["this"], rates["other"], strict=True)]
    return {
        **rounds,
        "ratios": [round(one, 3) for one in ratios],
        "median_ratio": round(np.median(ratios), 3),
    }


@contextmanager
def server(options: Load, *arguments: str, source: Path | None = None) -> Iterator[tuple[str, int]]:
    """Address and process id of a fresh server, of the package below `source` where that is given."""
    environment = {**os.environ, "PYTHONPATH": str(source)} if source else None
    command = [sys.executable, "-m", "deepgen", "serve", "shapes", "--port", "0"]
    command += ["--device", "cpu", "--workers", str(options.workers), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            found = (re.search(r"serving on (http://\S+)", line) for line in process.stderr)
            match = next(filter(None, found), None)
            if match is None:
                raise RuntimeError("the server did not start")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # its log never blocks it
            yield match[1], process.pid
        finally:
            process.terminate()
            process.wait(120)


async def load(url: str, options: Load, seconds: float) -> Outcome:
    """All clients at once, until the time is up and the last has its answer."""
    outcome, seeds = Outcome(), itertools.count()
    started = time.perf_counter()

    async def client(http: httpx.AsyncClient) -> None:
        while time.perf_counter() - started < seconds:
            seed = next(seeds)
            image = await ask(http, outcome, seed, options.steps)
            if image is not None and len(outcome.images) < options.compared:
                outcome.images[seed] = image

    async with connect(url, options.clients) as http:
        await asyncio.gather(*(client(http) for _ in range(options.clients)))
    outcome.seconds = time.perf_counter() - started
    return outcome


def connect(url: str, num: int) -> httpx.AsyncClient:
    """A client that is as patient as the official one."""
    limits = httpx.Limits(max_connections=num, max_keepalive_connections=num)
    return httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=limits)


async def ask(http: httpx.AsyncClient, outcome: Outcome, seed: int, steps: int | None) -> bytes | None:
    """One picture; what goes wrong is counted."""
    body = {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": steps}
    outcome.sent += 1
    started = time.perf_counter()
    try:
        answer = await http.post("/v1/images/generations", json=body)
    except httpx.HTTPError as error:
        outcome.errors[type(error).__name__] += 1
        return None
    if answer.status_code != 200:
        outcome.errors[str(answer.status_code)] += 1
        return None
    outcome.latencies.append(time.perf_counter() - started)
    outcome.answered += 1
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


async def compare(url: str, options: Load, outcome: Outcome) -> dict[str, int]:
    """Draw some of the pictures again, one after the other, with nobody else there."""
    again, equal = Outcome(), 0
    async with connect(url, 1) as http:
        for seed, image in outcome.images.items():
            equal += await ask(http, again, seed, options.steps) == image
    return {"compared": len(outcome.images), "bit_equal": equal}


async def watch_memory(url: str, pid: int, options: Load) -> dict[str, Any]:
    """Short requests by eight clients, and the resident memory of the server with its workers."""
    outcome, seeds, samples = Outcome(), itertools.count(), []
    every = max(1, options.requests // 20)

    async def client(http: httpx.AsyncClient) -> None:
        while (seed := next(seeds)) < options.requests:
            if seed % every == 0:
                samples.append({"requests": seed, "mib": resident_mib(pid)})
            await ask(http, outcome, seed, 1)

    started = time.perf_counter()
    async with connect(url, 8) as http:
        await asyncio.gather(*(client(http) for _ in range(8)))
    outcome.seconds = time.perf_counter() - started
    samples.append({"requests": options.requests, "mib": resident_mib(pid)})
    return {**outcome.figures(), "samples": samples}


def resident_mib(pid: int) -> float:
    """Of a process and its children, from /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in [str(pid), *children])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def machine() -> dict[str, Any]:
    """Where this was."""
    return {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}


if __name__ == "__main__":
    main(tyro.cli(Load))
