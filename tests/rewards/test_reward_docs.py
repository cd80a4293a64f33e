"""What docs/rewards.md says of rewards holds: its catalogue, and the reward it shows how to write."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from deepgen.rewards import scorers
from deepgen.rewards.reward import Candidate
from deepgen.rewards.scorers import make_reward, reward_class, reward_names

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def test_the_catalogue_has_every_reward_with_its_kind_and_needs() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, flags=re.MULTILINE))
    assert sorted(rows) == reward_names()
    for name, row in rows.items():
        kind, needs, bounds = (cell.strip() for cell in row.split("|")[:3])
        made = reward_class(name)
        if name == "remote":
            continue
        assert kind == made.kind
        assert tuple(part.strip(" `") for part in needs.split(",") if part.strip()) == made.needs, name
        if name not in ("pickscore", "psnr"):
            is_bounded = math.isfinite(made.low) and math.isfinite(made.high)
            assert bounds == (f"{made.low:g} to {made.high:g}" if is_bounded else "unbounded"), name


def test_the_example_works_as_a_file_in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (c for c in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if "Brightness" in c)
    module = ModuleType("brightness")
    monkeypatch.setitem(sys.modules, "brightness", module)  # where dataclasses look their class up
    monkeypatch.setitem(sys.modules, "deepgen.rewards.scorers.brightness", module)
    exec(compile(code, "brightness.py", "exec"), module.__dict__)
    known = scorers.reward_names()
    monkeypatch.setattr(scorers.REWARDS, "names", lambda: [*known, "brightness"])
    (verdict,) = make_reward("brightness", target=255)([Candidate(image=Image.new("RGB", (4, 4)), prompt="")])
    assert verdict.score == 0
