"""Prompts of reinforcement learning: which is drawn how often, and what a wrong file says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from deepgen.data.example import RowError
from deepgen.data.prompts import open_prompts


def mix(folder: Path, mode: str = "sample_proportional", weights: tuple[float, float] = (1, 1)) -> Path:
    (folder / "few.txt").write_text("a\n\nb\n")
    (folder / "many.txt").write_text("\n".join(f"m{n}" for n in range(8)))
    file = folder / "mix.yaml"
    file.write_text(
        f"""
sampling_mode: {mode}
datasets:
  - {{name: few, path: few.txt, sample_weight: {weights[0]}, rewards: [{{ocr: 0.7}}, {{clip_sim: 0.3}}]}}
  - {{name: many, path: many.txt, sample_weight: {weights[1]}, rewards: {{clip_sim: 1}}}}
"""
    )
    return file


@pytest.mark.parametrize(
    ("mode", "weights", "share"),
    [
        ("sample_proportional", (1, 1), 0.2),
        ("sample_proportional", (3, 1), 6 / 14),
        ("weight_only", (1, 1), 0.5),  # equal weights are weights too
        ("weight_only", (3, 1), 0.75),
    ],
)
def test_sets_are_drawn_as_often_as_their_mode_says(tmp_path: Path, mode, weights, share) -> None:
    prompts = open_prompts(mix(tmp_path, mode, weights))
    drawn = Counter(prompts.draw(5, n).dataset for n in range(4000))
    assert drawn["few"] / 4000 == pytest.approx(share, abs=0.03)
    assert float(prompts.shares()[0]) == pytest.approx(share)


def test_a_prompt_carries_the_weights_of_its_set_and_all_rewards_are_known(tmp_path: Path) -> None:
    prompts = open_prompts(mix(tmp_path))
    weights = {prompts.draw(0, n).dataset: dict(prompts.draw(0, n).weights) for n in range(60)}
    assert weights == {"few": {"ocr": 0.7, "clip_sim": 0.3}, "many": {"clip_sim": 1.0}}
    assert prompts.reward_names == ("clip_sim", "ocr")


def test_draws_differ_between_groups_and_seeds_and_not_between_calls(tmp_path: Path) -> None:
    prompts = open_prompts(mix(tmp_path))
    first = [prompts.draw(0, n).key for n in range(50)]
    assert first == [prompts.draw(0, n).key for n in range(50)]
    assert first != [prompts.draw(1, n).key for n in range(50)]
    assert first[:25] != first[25:]  # an epoch is never repeated


def test_records_have_a_prompt_or_a_caption_pictures_and_the_rest_as_metadata(tmp_path: Path) -> None:
    Image.new("RGB", (40, 32), "red").save(tmp_path / "red.png")
    rows = [
        {"prompt": "make it blue", "references": ["red.png"], "targets": ["SALE"]},
        {"caption": "a poster", "tag": "x"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = open_prompts(file, {"ocr": 1.0})
    found = {p.text: p for p in (prompts.draw(0, n) for n in range(40))}
    assert found["make it blue"].references[0].size == (40, 32)
    assert found["make it blue"].metadata == {"targets": ["SALE"]}
    assert found["a poster"].metadata == {"tag": "x"}
    assert found["a poster"].references == ()


def test_everything_wrong_with_a_mix_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text(
        """
sampling_mode: often
colour: red
datasets:
  - {name: gone, path: gone.txt, rewards: {ocr: 1}}
  - {name: light, shapes: generate, sample_weight: 0, rewards: {ocr: 1}}
  - {name: free, shapes: draw, rewards: {ocr: -1}}
  - {name: none, path: gone.txt, shapes: edit, rewards: ocr}
"""
    )
    with pytest.raises(ValueError, match=r"8 problem\(s\)") as error:
        open_prompts(file)
    said = str(error.value)
    for words in (
        "unknown sampling_mode 'often'",
        "unknown field 'colour'",
        "gone: there is no prompt file",
        "light: sample_weight must be above 0",
        "free: the weight of ocr must be above 0",
        "free: shapes must be generate or edit",
        "none: give either a path or shapes",
        "none: rewards must be like",
    ):
        assert words in said


def test_a_file_without_rewards_and_one_without_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\n")
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="scored with nothing"):
        open_prompts(tmp_path / "one.txt")
    with pytest.raises(ValueError, match="holds no prompts"):
        open_prompts(tmp_path / "none.txt", {"ocr": 1.0})
    with pytest.raises(RowError, match=r"expected text under prompt or caption, found: text"):
        open_prompts(tmp_path / "rows.jsonl", {"ocr": 1.0})
    with pytest.raises(FileNotFoundError, match="there is no prompt file"):
        open_prompts(tmp_path / "gone.jsonl", {"ocr": 1.0})
