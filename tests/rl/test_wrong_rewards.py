"""What a run says and does where a reward is wrong, through the command itself; docs/rewards.md shows it."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from deepgen.cli import main
from deepgen.rewards import scorers
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
SMALL = "device=cpu group_size=4 prompts_per_rollout=2 num_inference_steps=2 window.size=1 sheet_every=0"


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Nothing can be set."""


def red(candidate: Candidate) -> float:
    """Mean of the red channel, 0 to 255."""
    return float(np.asarray(candidate.image.convert("RGB"))[..., 0].mean())


@pytest.fixture
def redness(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Candidate], Any]], None]:
    """Puts a reward `redness` into the folder, which judges a candidate so and declares 0 to 1."""

    def define(judge: Callable[[Candidate], Any]) -> None:
        class Redness(EachAlone):
            """How red a picture is."""

            version = "redness-1"

            def __init__(self, options: NoOptions) -> None:
                pass

            def judge(self, candidate: Candidate) -> RewardResult:
                return RewardResult(judge(candidate))

        module = ModuleType("redness")
        module.__dict__.update(options=NoOptions, reward=Redness)
        own = scorers.REWARDS._own()
        monkeypatch.setitem(sys.modules, "deepgen.rewards.scorers.redness", module)
        monkeypatch.setattr(scorers.REWARDS, "_own", lambda: [*own, "redness"])

    return define


def train(folder: Path, num_steps: int, *more: str) -> int:
    (folder / "prompts.txt").write_text("a red circle on a white background\ntwo blue squares\n")
    arguments = ["train", "rl-shapes", "--prompts", str(folder / "prompts.txt"), "--rewards", "redness=1"]
    settings = [*SMALL.split(), f"num_steps={num_steps}", *more]
    return main([*arguments, "-o", str(folder / "run"), "--set", *settings])


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def is_on_the_page(said: str) -> bool:
    """Whether the page shows it in code, whatever the numbers."""

    def plain(text: str) -> str:
        return re.sub(r"\d+(\.\d+)?", "#", text)

    return f"`{plain(said)}`" in plain(PAGE.read_text(encoding="utf-8"))


def test_a_score_outside_the_declared_range_stops_the_run_before_the_first_step(
    redness, tmp_path: Path, capsys
) -> None:
    redness(red)
    assert train(tmp_path, 2) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepgen: error")]
    said = error.removeprefix("deepgen: error: ")
    assert re.match(
        r"reward redness: 8 of its 8 scores are outside the range it declares, 0 to 1; the first is \d+", said
    )
    assert is_on_the_page(said)
    assert log_of(tmp_path) == []
    assert not list((tmp_path / "run").glob("step-*"))


def test_a_reward_that_returns_nan_is_masked_with_the_reason_and_stops_past_the_share(
    redness, tmp_path: Path, capsys
) -> None:
    redness(lambda candidate: float("nan"))
    assert train(tmp_path, 2) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepgen: error")]
    said = error.removeprefix("deepgen: error: ")
    assert said.startswith("reward redness: 100% of its last 8 verdicts have no score, and the limit is 50%")
    assert "got nan" in said
    assert is_on_the_page(said)
    assert log_of(tmp_path) == []


def test_a_reward_that_is_always_equal_is_said_to_teach_nothing(
    redness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redness(lambda candidate: 0.93 + 1e-7 * (red(candidate) % 1))
    assert train(tmp_path, 1) == 0
    (said,) = [record.getMessage() for record in caplog.records if "teaches nothing" in record.getMessage()]
    assert said == "rollout 0: reward redness: all 8 scores are 0.93; so it teaches nothing"
    assert is_on_the_page(said)
    (line,) = log_of(tmp_path)
    assert (line["groups/flat_share"], line["groups/flat_share of redness"]) == (1, 1)
    assert (line["grad_norm"], line["advantage/abs"]) == (0, 0)
    assert (line["scored/redness"], line["masked/redness"]) == (8, 0)


def test_a_reward_that_throws_every_third_time_loses_these_alone_and_each_is_counted(
    redness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def judge(candidate: Candidate) -> float:
        calls.append(red(candidate))
        if len(calls) % 3 == 0:
            raise RuntimeError(f"cannot judge picture {len(calls)}")
        return calls[-1] / 255

    redness(judge)
    caplog.set_level(logging.INFO, "deepgen")  # as the command sets it where no test listens
    assert train(tmp_path, 3, "log_every=2") == 0
    remarks = [record.getMessage() for record in caplog.records if "no score for" in record.getMessage()]
    said = "reward redness: 6 of 8 images scored; no score for 2: RuntimeError: cannot judge picture # (2)"
    assert remarks[0] == f"rollout 0: {said}"
    assert remarks[1].endswith("(so in 2 rollouts)")
    assert len(remarks) == 2  # not after every rollout
    assert is_on_the_page(remarks[0])
    first, second = log_of(tmp_path)
    # Two rollouts and one: what is counted is added up, a mean is over the images that have a score.
    assert (first["scored/redness"], first["masked/redness"]) == (11, 5)
    assert first["masked/redness/RuntimeError: cannot judge picture #"] == 5
    scores = [value / 255 for n, value in enumerate(calls, 1) if n % 3]
    assert first["reward/redness"] == pytest.approx(np.mean(scores[:11]), abs=1e-4)
    assert first["reward"] == pytest.approx(first["reward/redness"], abs=1e-4)  # both are rounded in the log
    assert second["scored/redness"] + second["masked/redness"] == second["scored"] + 3 == 8
    steps = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step 2")]
    assert "scored/redness 11  masked/redness 5" in steps[0]


def test_a_run_with_more_failures_than_the_limit_stops_and_one_may_allow_them(
    redness, tmp_path: Path, capsys
) -> None:
    def judge(candidate: Candidate) -> float:
        raise RuntimeError("no colours here")

    redness(judge)
    assert train(tmp_path, 1, "panel.failure_limit=1") == 0
    (line,) = log_of(tmp_path)
    assert "reward/redness" not in line
    assert (line["scored"], line["scored/redness"], line["masked/redness"]) == (0, 0, 8)
    assert line["masked/redness/RuntimeError: no colours here"] == 8


def test_rewards_score_checks_the_same(redness, tmp_path: Path, capsys) -> None:
    from PIL import Image

    for name, grey in (("dark", 0), ("light", 255), ("grey", 100)):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(tmp_path / f"{name}.png")
    images = [f"--image={tmp_path / name}.png" for name in ("dark", "light", "grey")]

    def score(*which: str) -> tuple[int, str]:
        code = main(["rewards", "score", "redness", *which])
        return code, capsys.readouterr().err.strip()

    redness(red)
    code, said = score(*images)
    assert code == 2
    assert (
        "reward redness: 2 of its 3 scores are outside the range it declares, 0 to 1; the first is 255"
        in said
    )
    redness(lambda candidate: float("nan") if red(candidate) > 99 else 0.5)
    code, said = score(*images)
    assert code == 1
    assert (
        "redness: 1 of 3 images scored; no score for 2: ValueError: a score must be finite, got nan" in said
    )
    redness(lambda candidate: 0.5)
    code, said = score(*images)
    assert (code, said) == (0, "redness: all 3 scores are 0.5; a group of equal scores teaches nothing")
