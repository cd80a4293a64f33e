"""Several processes draw one picture: the same as one process draws, with a share of the tokens each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepgen.cli.app import main
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.parallel import divide

WORKER = Path(__file__).with_name("divided_worker.py")


def launch(processes: int, *arguments: str) -> str:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    found = subprocess.run(
        [*launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


@pytest.mark.parametrize(
    ("how", "processes"),
    [("guidance", 2), ("context", 2), pytest.param("both", 4, marks=pytest.mark.slow)],
)
def test_processes_share_the_tokens_of_a_picture_and_draw_the_same(how: str, processes: int) -> None:
    (found,) = (
        json.loads(line) for line in launch(processes, str(WORKER), how).splitlines() if line[:1] == "["
    )
    assert len(found) == processes
    for name in ("picture", "edit", "balanced"):
        assert max(one[name]["apart"] for one in found) < 1e-4
    for one in found:
        assert one["picture"]["share of tokens"] == one["edit"]["share of tokens"] == 1 / processes
        # steps at which the negative branch rests are done by both halves
        assert (one["balanced"]["share of tokens"] > 1 / processes) == (how != "context")


@pytest.mark.parametrize(
    ("world", "options", "reason"),
    [
        ("2", [], "2 processes were started and would draw the same picture"),
        ("1", ["--parallel", "guidance", "--seed", "1"], "and there is one; start more: torchrun"),
        ("2", ["--parallel", "guidance"], "--parallel needs --seed"),
        ("2", ["--parallel", "guidance", "--file", "prompts.jsonl"], "leave out --parallel"),
    ],
)
def test_what_processes_cannot_share_is_refused(
    world: str, options: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", "0")
    prompt = [] if "--file" in options else ["a red circle"]
    assert main(["generate", *prompt, *options, "-o", str(tmp_path / "out.png")]) != 0
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("how", ["guidance", "context", "both"])
def test_one_process_divides_nothing(how, pipe: DeepGenPipeline) -> None:
    with pytest.raises(ValueError, match=f"dividing a picture by {how} takes .* got 1; start them with"):
        divide(pipe.transformer, how)


def test_divided_pictures_need_a_seed_and_guidance(pipe: DeepGenPipeline) -> None:
    pipe._exchange = object()  # as after `divide`, before anything is exchanged
    with pytest.raises(ValueError, match="need its seed"):
        pipe("a cat", height=32, width=32)
    with pytest.raises(ValueError, match="this call has none"):
        pipe("a cat", height=32, width=32, seed=1, guidance_scale=1.0)
    with pytest.raises(ValueError, match="divided already"):
        pipe.divide("guidance")
