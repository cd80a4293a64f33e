"""What a served image and a rollout cost, at two commits, in one run.

    python benchmarks/sampling_speed.py --before COMMIT --output FILE

Each commit has a process of its own on the model of flat shapes with one thread, and the two take turns:
before, after, before, ... A round draws one served image, four served together, and the groups of one
rollout of the recipe `rl-shapes`. Both wall and CPU seconds are written down, because other work on a machine
changes the former; ratios are those of medians, above 1 where the later commit is faster.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parent.parent
MIX = """\
rewards: {right: {scorer: shapes}}
datasets:
  - {name: shapes, shapes: generate, kinds: [relation], rows: 1000, rewards: {right: 1}}
"""
WORKER = "--worker"  # the one argument of this script's own processes


@dataclass(frozen=True, kw_only=True)
class SamplingSpeed:
    """Compare two commits."""

    before: str = "5d6ad9d"
    """Commit to compare with; its sources are taken out of git. What is checked out here is "after"."""
    rounds: int = 5
    """Measurements of each; one more before them is not counted."""
    output: Path | None = None
    """Where the figures go, as JSON; printed in any case."""

    def run(self) -> None:
        """Measure in turns, and write down."""
        with tempfile.TemporaryDirectory() as folder:
            command = ["git", "archive", self.before, "src"]
            archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
            with worker(Path(folder) / "src") as before, worker(ROOT / "src") as after:
                both = {"before": before, "after": after}
                rounds = []
                for number in range(self.rounds + 1):
                    rounds.append({name: ask() for name, ask in both.items()})
                    print(f"round {number} of {self.rounds}", file=sys.stderr, flush=True)
                rounds = rounds[1:]
        figures = {
            kind: {
                clock: {
                    **{name: _rounded(median(one[name][kind][clock] for one in rounds)) for name in both},
                    "ratio": _rounded(
                        median(one["before"][kind][clock] for one in rounds)
                        / median(one["after"][kind][clock] for one in rounds)
                    ),
                }
                for clock in ("wall_ms", "cpu_ms")
            }
            for kind in rounds[0]["before"]
        }
        result = {
            "date": date.today().isoformat(),
            "machine": f"{_processor()}, {os.cpu_count()} cores, one thread used",
            "load_average": os.getloadavg(),
            "before": self.before,
            "rounds": self.rounds,
            "figures": figures,
        }
        text = json.dumps(result, indent=1)
        print(text)
        if self.output is not None:
            self.output.write_text(text + "\n")


def _processor() -> str:
    """Its name, with what it multiplies bfloat16 with."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in text]
    return f"{names[0] if names else platform.machine()} ({', '.join(features)})"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


@contextmanager
def worker(source: Path) -> Iterator[Callable[[], dict[str, dict[str, float]]]]:
    """A process with these sources; calling it measures a round."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, WORKER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> dict[str, dict[str, float]]:
            print("go", file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        try:
            yield ask
        finally:
            process.stdin.close()


def work() -> None:
    """Measure a round for every line that comes in. Uses only what both commits have under one name."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing else may stand between the answers
    import torch

    from deepgen.pipeline import DeepGenPipeline
    from deepgen.recipes import rl
    from deepgen.serving.engine import Engine, EngineConfig
    from deepgen.serving.jobs import GenerationRequest
    from deepgen.training.parallel import Processes

    torch.set_num_threads(1)
    flat = "shapes" if hasattr(rl, "rl_shapes") else "tiny"  # as older commits call it
    pipe = DeepGenPipeline.from_pretrained(flat)
    with tempfile.TemporaryDirectory() as folder, Engine(pipe, EngineConfig()) as engine:
        mix = Path(folder) / "prompts.yaml"
        mix.write_text(MIX)
        changes: dict[str, Any] = {"model": flat, "prompts": mix, "prompts_per_rollout": 2}
        config = replace(getattr(rl, f"rl_{flat}")(), **changes, sheet_every=0, device="cpu", num_threads=1)
        stage = config.build(Processes("cpu"))

        def served(count: int) -> Any:
            requests = [GenerationRequest(prompt="a red circle", seed=seed) for seed in range(count)]
            return [job.result() for job in [engine.submit(request) for request in requests]]

        for number, _ in enumerate(sys.stdin):
            found = {
                "served image": _timed(lambda: served(1)),
                "4 images served together": _timed(lambda: served(4)),
                "rollout": _timed(lambda number=number: stage.sample(number)),
            }
            stage.ensemble.collect()  # so that rewards of this round do not take from the next
            print(json.dumps(found), file=answers, flush=True)


def _timed(call: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {
        "wall_ms": 1000 * (time.perf_counter() - wall),
        "cpu_ms": 1000 * (time.process_time() - cpu),
    }


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        work()
    else:
        tyro.cli(SamplingSpeed).run()
