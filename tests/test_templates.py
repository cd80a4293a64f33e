"""Each template of the documentation, in an empty folder, run to its end by the commands of a user."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.training.run_folder import read_run

ROOT = Path(__file__).parents[1]
SMALL = (
    "--group-size=2",
    "--prompts-per-rollout=2",
    "--num-inference-steps=3",
    "--window.size=1",
    "--num-steps=2",
)


def written(page: str) -> dict[str, str]:
    """The files that a page has its reader write, by name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- run: write (\S+) -->\n```\w+\n(.*?)^```", text, flags=re.M | re.S))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the templates of both pages and what they are used on."""
    for page in ("docs/extend.md", "docs/rewards.md"):
        for name, content in written(page).items():
            (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for name, color in (("a_red_circle", "red"), ("a_blue_square", "blue")):
        Image.new("RGB", (96, 96), color).save(tmp_path / f"pictures/{name}.png")
    (tmp_path / "prompts.txt").write_text("a red circle on a white background\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last_row(run: Path) -> dict[str, float]:
    return json.loads((run / "log.jsonl").read_text().splitlines()[-1])


def files_run(run: Path) -> dict[str, str]:
    return {Path(row["path"]).name: row["sha256"] for row in read_run(run)["user_files"]}


def test_the_reward_scores_a_picture_and_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards", "score", "mine.py:redness", "--image", "pictures/a_red_circle.png"]) == 0
    assert "1.0000" in capsys.readouterr().out
    given = ["--prompts", "prompts.txt", "--rewards", "mine.py:redness=1", *SMALL, "-o", "red"]
    assert main(["train", "rl-shapes", *given]) == 0
    assert 0 < last_row(folder / "red")["reward/redness"] < 1
    assert "mine.py" in files_run(folder / "red")


def test_the_source_is_counted_and_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "pictures", "--source", "named.py"]) == 0
    assert re.search(r"\b2\b", capsys.readouterr().out)
    sizes = ["--num-steps=1", "--global-batch-size=2", "--micro-batch-size=2"]
    given = ["--model", "tiny", "--data", "named.yaml", "--plugins", "named.py", *sizes]
    assert main(["train", "lora", *given, "-o", "named"]) == 0
    assert last_row(folder / "named")["step"] == 1
    assert "named.py" in files_run(folder / "named")


def test_the_objective_trains(folder: Path) -> None:
    given = ["--prompts", "prompts.txt", "--rewards", "jpeg=1", "--shares-noise=false", *SMALL]
    options = ["--objective", "weighted.py", "--objective-options", "temperature=0.5"]
    assert main(["train", "rl-shapes", *given, *options, "-o", "weighted"]) == 0
    row = last_row(folder / "weighted")
    assert row["policy/weight"] > 0
    assert "weighted.py" in files_run(folder / "weighted")


def test_the_stage_and_its_recipe_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "preview.py:preview", "--num-steps=25", "--log-every=5"]) == 0
    assert "num_steps: 25, in the recipe 100" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "runs/preview/log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert "preview.py" in files_run(folder / "runs/preview")


def test_the_benchmark_draws_and_scores(folder: Path) -> None:
    section = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8").partition("\n## Add a benchmark\n")[2]
    (code,) = re.findall(r"```python\n(.*?benchmark = Redness\n)", section, flags=re.DOTALL)
    (folder / "reds.py").write_text(code, encoding="utf-8")
    assert main(["eval", "run", "reds.py", "--model", "tiny", "--num-inference-steps=2", "-o", "out"]) == 0
    (result,) = (folder / "out").glob("*/result.json")
    assert 0.3 < json.loads(result.read_text())["table"]["overall"] < 1
