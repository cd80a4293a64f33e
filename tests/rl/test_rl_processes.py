"""Reinforcement learning on several processes is the run on one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from launched_runs import finish, weights

PROMPTS = """
rewards: {right: {scorer: shapes, credit: partial}}
datasets:
  - {name: counting, shapes: generate, kinds: [counting], rows: 8, rewards: {right: 1}}
  - {name: recolor, shapes: edit, kinds: [recolor], rows: 8, rewards: {right: 1}}
"""


@pytest.mark.slow
def test_two_processes_draw_the_same_images_and_learn_the_same(mixture: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(PROMPTS)
    changes = {
        "prompts": str(prompts),
        "prompts_per_rollout": "5",  # not a multiple of two
        "group_size": "2",
        "num_inference_steps": "3",
        "window.kind": "fixed",
        "window.size": "2",
        "sheet_every": "0",
        "optim.eps": "1e-5",  # far above the gradients, so that Adam does not amplify their rounding
    }
    for count in (1, 2):
        folder = tmp_path / str(count)
        finish(mixture, folder, steps=3, processes=count, recipe="rl-shapes", changes=changes)
    one, two = (
        [json.loads(line) for line in (tmp_path / str(count) / "log.jsonl").read_text().splitlines()]
        for count in (1, 2)
    )
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["reward"] == pytest.approx(ours["reward"], abs=1e-6)
        assert theirs["advantage/abs"] == pytest.approx(ours["advantage/abs"], abs=1e-5)
        assert theirs["dit_passes"] == ours["dit_passes"]
        assert theirs["reward/right"] == pytest.approx(ours["reward/right"], abs=1e-6)
        for name in ("scored", "scored/right", "masked/right"):  # counted once, whoever was asked
            assert theirs[name] == ours[name] == (0 if name.startswith("masked") else 10)
        gaps = [line.get("log_prob_gap/largest") for line in (ours, theirs)]
        if ours["groups/flat_share"] == 1:  # nothing was trained
            assert gaps == [None, None]
        else:
            assert max(gaps) < 1e-6
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-3)
    alone, together = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert alone.keys() == together.keys()
    for name in (name for name in alone if name.startswith("model/")):
        torch.testing.assert_close(together[name], alone[name], atol=1e-6, rtol=1e-4, msg=name)
