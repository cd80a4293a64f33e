"""What docs/rewards.md says of rewards holds: its catalogue, and the reward it shows how to write."""

from __future__ import annotations

import math
import re
from pathlib import Path

from PIL import Image

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


def test_the_class_of_the_page_is_a_reward_by_its_path(tmp_path: Path) -> None:
    (code,) = (c for c in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if "class Brightness" in c)
    path = tmp_path / "brightness.py"
    path.write_text(code)
    black = Candidate(image=Image.new("RGB", (4, 4)), prompt="")
    for target, score in ((255, 0), (0, 1)):
        (verdict,) = make_reward(str(path), target=float(target))([black])
        assert verdict.score == score
