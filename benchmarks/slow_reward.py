"""What a slow reward service, and a dead one, cost a step of reinforcement learning.

    python benchmarks/slow_reward.py [--latency 2] [--output FILE]

Three reward services in processes of their own judge the rollouts of `shapes`. First all three answer at
once; then one takes `latency` seconds for every answer, and another is killed after the first step. Reported
is by how much the median step grew: requests run while the next groups are sampled, the prompts of the next
rollout are read and the supervised loss is computed, so it should be less than the latency. Measured without
a supervised loss, and with about as many of its examples as images are drawn, as in the published recipe.
"""

from __future__ import annotations

import json
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import tyro

from deepgen.recipes.rl import rl_shapes
from deepgen.rewards.ensemble import RewardEnsembleConfig
from deepgen.training.loop import train

MIXTURE = Path(str(files("deepgen.recipes"))) / "mixtures" / "shapes.yaml"
SERVICE = Path(__file__).parents[1] / "tests" / "rl" / "reward_process.py"


@dataclass(frozen=True, kw_only=True)
class SlowReward:
    """Run both, and print the growth of a step."""

    latency: float = 2.0
    steps: int = 6
    prompts: int = 8
    output: Path = Path("benchmarks/results/slow_reward.json")

    def run(self) -> None:
        """Each pair of runs, one after the other, in one process."""
        result: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "images_per_step": self.prompts * 8,
            "latency": self.latency,
        }
        for name, sft_coef in (("rewards alone", 0.0), ("with the supervised loss", 1e-4)):
            with tempfile.TemporaryDirectory() as folder:
                quick = self._step_seconds(Path(folder) / "quick", sft_coef, latency=0.0, kills=False)
                slow = self._step_seconds(Path(folder) / "slow", sft_coef, latency=self.latency, kills=True)
            result[name] = {
                "quick_step_seconds": round(quick, 3),
                "slow_and_dead_step_seconds": round(slow, 3),
                "growth_over_latency": round((slow - quick) / self.latency, 3),
            }
        self.output.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))

    def _step_seconds(self, folder: Path, sft_coef: float, *, latency: float, kills: bool) -> float:
        """Median seconds of a step after the first, which starts the services' connections."""
        with ExitStack() as stack:
            seconds = {"a": 0.0, "b": latency, "c": 0.0}
            services = {name: stack.enter_context(service(value)) for name, value in seconds.items()}
            folder.mkdir()
            rewards = "\n".join(
                f"  {name}: {{scorer: remote, url: {url!r}, reward: slow, retries: 1}}"
                for name, (url, _) in services.items()
            )
            (folder / "prompts.yaml").write_text(
                f"rewards:\n{rewards}\ndatasets:\n"
                "  - {name: all, shapes: generate, rows: 200, rewards: {a: 1, b: 1, c: 1}}\n"
            )
            log = folder / "run" / "log.jsonl"
            if kills:
                threading.Thread(target=_kill_after_a_step, args=(services["c"][1], log), daemon=True).start()
            config = replace(
                rl_shapes(),
                prompts=folder / "prompts.yaml",
                device="cpu",
                num_threads=1,
                num_steps=self.steps,
                prompts_per_rollout=self.prompts,
                rollout_batch_size=16,
                sft_coef=sft_coef,
                data=MIXTURE,
                global_batch_size=self.prompts * 8 // 3 * 3,  # two captions to one edit
                sheet_every=0,
                panel=RewardEnsembleConfig(failure_limit=1.0, timeout=60),
            )
            train(config, folder / "run")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return statistics.median(1 / line["steps_per_second"] for line in lines[1:])


def _kill_after_a_step(process: subprocess.Popen[bytes], log: Path) -> None:
    while not log.is_file() or not log.stat().st_size:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)


@contextmanager
def service(seconds: float) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and the process of a reward service that takes its time; it is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVICE), str(port), str(seconds)])
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the reward service ended with code {process.returncode} before it answered")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(f"the reward service did not answer at {url} within {seconds:.0f} s")


if __name__ == "__main__":
    tyro.cli(SlowReward).run()
