"""How many pictures a second a running server draws, and what its clients see when more are asked for.

    DEEPGEN_API_KEY=... python benchmarks/load_test.py https://images.example.org --rates 0.5 1 2 4

Requests come at each rate for a while, whether or not the earlier ones are answered, as those of strangers
do. So a rate the server cannot keep up with shows: answers take longer and longer, and then requests are
refused with 429. Nothing is tried again, so that every refusal is counted. Ask through the proxy, and for the
sizes, steps and references that people will ask for. `serve_load.py` is another thing: it starts its own
servers and compares ways to batch.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import tyro

PROMPTS = ("a cat", "two apples on a white background", "an owl above a bicycle")


@dataclass(frozen=True, kw_only=True)
class LoadTest:
    """Ask a running server for pictures at growing rates."""

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """Where it is; its key is read from $DEEPGEN_API_KEY."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Requests a second, one after the other."""
    seconds: float = 30.0
    """How long at each rate."""
    steps: int | None = None
    """Solver steps of each picture; default the server's own."""
    size: str = "auto"
    """WIDTHxHEIGHT of each picture."""
    edit: Path | None = None
    """A picture that each request edits; default draws from words."""
    output: Path | None = None
    """Where the figures go, as JSON; printed in any case."""

    def __post_init__(self) -> None:
        """Refuse rates and times that are none."""
        if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
            raise ValueError(f"--rates must be numbers above 0, got {self.rates}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"--seconds must be above 0, got {self.seconds}")


@dataclass
class Seen:
    """What the clients saw at one rate."""

    rate: float
    latencies: list[float] = field(default_factory=list)  # of pictures that came, seconds
    answers: Counter[str] = field(default_factory=Counter)  # by status, or the name of a failure
    seconds: float = 0.0  # until the last answer

    def figures(self) -> dict[str, Any]:
        """For the table and the file."""
        places = {f"p{share}_s": percentile(self.latencies, share / 100) for share in (50, 95, 99)}
        return {
            "requests_per_s": self.rate,
            "requests": sum(self.answers.values()),
            "answers": dict(sorted(self.answers.items())),
            "pictures_per_s": round(len(self.latencies) / self.seconds, 3),
            **places,
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so many are not above; None of no values."""
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 3) if values else None


async def load(options: LoadTest, http: httpx.AsyncClient, rate: float) -> Seen:
    """Requests at one rate, until the last is answered."""
    seen, started = Seen(rate), time.perf_counter()
    asked = [
        asyncio.create_task(ask(options, http, seen, number, started + number / rate))
        for number in range(max(1, round(options.seconds * rate)))
    ]
    await asyncio.gather(*asked)
    seen.seconds = time.perf_counter() - started
    return seen


async def ask(options: LoadTest, http: httpx.AsyncClient, seen: Seen, number: int, when: float) -> None:
    """One request at its time."""
    await asyncio.sleep(when - time.perf_counter())
    fields: dict[str, Any] = {"prompt": PROMPTS[number % len(PROMPTS)], "size": options.size, "seed": number}
    if options.steps is not None:
        fields["num_inference_steps"] = options.steps
    begun = time.perf_counter()
    try:
        if options.edit is None:
            answer = await http.post("/v1/images/generations", json=fields)
        else:
            form = {name: str(value) for name, value in fields.items()}
            files = {"image": (options.edit.name, options.edit.read_bytes())}
            answer = await http.post("/v1/images/edits", data=form, files=files)
    except httpx.HTTPError as error:
        seen.answers[type(error).__name__] += 1
        return
    seen.answers[str(answer.status_code)] += 1
    if answer.status_code == 200:
        seen.latencies.append(time.perf_counter() - begun)


async def run(options: LoadTest) -> list[dict[str, Any]]:
    """All rates, a line each; the server is idle between them."""
    key = os.environ.get("DEEPGEN_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    url = options.url.rstrip("/").removesuffix("/v1")
    results = []
    print("requests/s  requests  pictures/s  p50 s   p95 s   p99 s   answers")
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=900, limits=limits) as http:
        for rate in options.rates:
            one = (await load(options, http, rate)).figures()
            results.append(one)
            seconds = "".join(f"{one[name] or math.nan:<8.2f}" for name in ("p50_s", "p95_s", "p99_s"))
            answers = ", ".join(f"{count} x {kind}" for kind, count in one["answers"].items())
            print(f"{rate:<12g}{one['requests']:<10}{one['pictures_per_s']:<12.2f}{seconds}{answers}")
    return results


def main(options: LoadTest) -> int:
    """Exit code 1 where a request got no answer, or one that is neither a picture nor "come back later"."""
    results = asyncio.run(run(options))
    if options.output is not None:
        about = {"options": {**asdict(options), "edit": str(options.edit or ""), "output": None}}
        options.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
    kinds = set(itertools.chain.from_iterable(one["answers"] for one in results))
    return int(bool(kinds - {"200", "429", "503"}))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(LoadTest)))
