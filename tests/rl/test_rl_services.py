"""Rewards on other machines that die and dawdle while a run trains on them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deepgen.recipes import recipe
from deepgen.rewards.ensemble import RewardEnsembleConfig
from deepgen.rl.recipe import RLConfig
from deepgen.sampling.windows import WindowConfig
from deepgen.training.loop import train


@contextmanager
def service(seconds: float) -> Iterator[tuple[str, subprocess.Popen]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("reward_process.py")
    process = subprocess.Popen([sys.executable, str(script), str(port), str(seconds)])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):
                break
            time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()


def lines(folder: Path) -> list[dict]:
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.mark.slow
def test_a_run_goes_on_when_one_of_three_services_is_killed_and_another_is_slow(tmp_path: Path) -> None:
    with service(0.0) as (quick, _), service(1.0) as (slow, _), service(0.0) as (doomed, process):
        mix = tmp_path / "prompts.yaml"
        named = {"quick": quick, "slow": slow, "doomed": doomed}
        made = "\n".join(
            f"  {name}: {{scorer: remote, url: {url}, reward: slow, retries: 1}}"
            for name, url in named.items()
        )
        mix.write_text(
            f"rewards:\n{made}\ndatasets:\n"
            "  - {name: all, shapes: generate, rows: 20, rewards: {quick: 1, slow: 1, doomed: 2}}\n"
        )
        base = recipe("rl-shapes")
        assert isinstance(base, RLConfig)
        config = replace(
            base,
            prompts=mix,
            device="cpu",
            num_steps=6,
            prompts_per_rollout=4,
            group_size=2,
            num_inference_steps=3,
            window=WindowConfig(kind="fixed", size=2),
            sheet_every=0,
            panel=RewardEnsembleConfig(failure_limit=1.0, timeout=20),
        )

        def kill_after_two_steps() -> None:
            while len(lines(tmp_path / "run")) < 2:
                time.sleep(0.05)
            process.kill()

        threading.Thread(target=kill_after_two_steps, daemon=True).start()
        train(config, tmp_path / "run")
    logged = lines(tmp_path / "run")
    assert len(logged) == 6
    assert logged[0]["failure_rate/doomed"] == 0
    assert logged[-1]["failure_rate/doomed"] == 1
    assert all(line["failure_rate/quick"] == line["failure_rate/slow"] == 0 for line in logged)
    assert all(line["advantage/signal_share"] == 1 for line in logged)  # judged by the others
    assert logged[0]["latency/slow"] >= 1
    # all groups were asked at once, so four of them cost one latency and not four
    assert all(line["seconds/score"] < 4 for line in logged)
