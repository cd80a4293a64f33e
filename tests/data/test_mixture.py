"""Every sample number has one row, sources get their shares, and mixture files say all that is wrong."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import deepgen.recipes
from deepgen.data.example import Example, Task
from deepgen.data.mixture import Mixture, open_mixture
from deepgen.data.mixture_config import ImageRule, MixtureConfig, SourceEntry
from deepgen.data.mixture_file import read_mixture

SHIPPED = Path(deepgen.recipes.__file__).parent / "mixtures"


@dataclass(frozen=True)
class Rows:
    """A source without files."""

    num_rows: int
    task: Task = "generate"

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Example:
        references = (Path("b"),) if self.task == "edit" else ()
        return Example(
            task=self.task, text=str(index), target=Path("a"), key=f"{index}", references=references
        )


def mixture(
    sizes: dict[str, int],
    weights: dict[str, float] | None = None,
    ratios: dict[Task, int] | None = None,
    seed: int = 0,
) -> Mixture:
    """Sources whose names begin with "edit" are for edits."""
    tasks: dict[str, Task] = {name: "edit" if name.startswith("edit") else "generate" for name in sizes}
    entries = tuple(
        SourceEntry(name=name, source="", task=tasks[name], options={}, weight=(weights or {}).get(name))
        for name in sizes
    )
    config = MixtureConfig(
        sources=entries, ratios=ratios or dict.fromkeys(dict.fromkeys(tasks.values()), 1), seed=seed
    )
    return Mixture(config, {name: Rows(size, tasks[name]) for name, size in sizes.items()})


# --- tasks ---


def test_one_edit_to_three_generations_is_the_cycle_of_the_original() -> None:
    mixed = mixture({"edit": 5, "a": 5}, ratios={"edit": 1, "generate": 3})
    assert mixed.cycle == ("edit", "generate", "generate", "generate")
    tasks = [mixed.draw(sample, block_size=4).task for sample in range(32)]
    assert tasks == 2 * (4 * ["edit"] + 12 * ["generate"])


def test_tasks_are_interleaved_evenly() -> None:
    mixed = mixture({"edit": 5, "a": 5}, ratios={"edit": 2, "generate": 3})
    assert mixed.cycle == ("edit", "generate", "generate", "edit", "generate")


# --- sources ---


def test_without_weights_every_row_of_a_task_is_drawn_once_a_pass() -> None:
    mixed = mixture({"a": 7, "b": 20, "c": 1})
    for epoch in range(3):
        draws = [mixed.draw(28 * epoch + place, block_size=5) for place in range(28)]
        assert len({(draw.source, draw.index) for draw in draws}) == 28


@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_with_several_tasks_no_row_is_dropped_or_repeated_in_a_pass(block_size: int) -> None:
    mixed = mixture({"edit": 12, "a": 10, "b": 26}, ratios={"edit": 1, "generate": 3})
    draws = [mixed.draw(sample, block_size) for sample in range(4 * 24)]
    counts = Counter((draw.source, draw.index) for draw in draws)
    assert len(counts) == 48
    assert set(counts.values()) == {2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_are_honoured_at_every_length(seed: int) -> None:
    weights = {"a": 3.0, "b": 1.0, "c": 0.5, "d": 0.001}
    mixed = mixture({"a": 5, "b": 50, "c": 500, "d": 5}, weights, seed=seed)
    counts = Counter()
    for sample in range(9000):
        counts[mixed.draw(sample, block_size=8).source] += 1
        if sample % 500 == 499:
            for name, weight in weights.items():
                assert abs(counts[name] - weight / 4.501 * (sample + 1)) < 4


def test_a_weighted_source_runs_through_its_own_passes() -> None:
    mixed = mixture({"a": 10, "b": 1000}, {"a": 1, "b": 1})
    rows = [draw.index for draw in (mixed.draw(s, 4) for s in range(60)) if draw.source == "a"]
    assert len(rows) == 30
    assert all(sorted(rows[start : start + 10]) == list(range(10)) for start in (0, 10, 20))


def test_a_row_weight_makes_every_row_of_a_source_count_so_often() -> None:
    rows = {"general": 300, "text": 100, "banana": 200, "empty": 0}
    weights = {"text": 3.0, "banana": 0.5, "empty": 3.0}  # general: 1
    entries = tuple(
        SourceEntry(name=name, source="", task="generate", options={}, row_weight=weights.get(name))
        for name in rows
    )
    config = MixtureConfig(sources=entries, ratios={"generate": 1})
    mixed = Mixture(config, {name: Rows(count) for name, count in rows.items()})
    assert [round(mixed.share(name), 4) for name in rows] == [0.4286, 0.4286, 0.1429, 0]
    drawn = [mixed.draw(sample, 1) for sample in range(700)]
    assert Counter(draw.source for draw in drawn) == {"general": 300, "text": 300, "banana": 100}
    seen = Counter((draw.source, draw.index) for draw in drawn)
    assert {count for (name, _), count in seen.items() if name == "text"} == {3}
    assert {count for (name, _), count in seen.items() if name != "text"} == {1}


def test_weights_of_sources_and_of_rows_are_not_mixed_in_a_task() -> None:
    def entry(name: str, **weights: float) -> SourceEntry:
        return SourceEntry(name=name, source="", task="generate", options={}, **weights)

    with pytest.raises(ValueError, match="sources have a weight, and rows of b have one; give one kind"):
        MixtureConfig(
            sources=(entry("a", weight=1), entry("b", weight=1, row_weight=2)), ratios={"generate": 1}
        )
    with pytest.raises(ValueError, match="the row_weight of b must be positive and finite, got 0"):
        MixtureConfig(sources=(entry("a"), entry("b", row_weight=0)), ratios={"generate": 1})


def test_one_task_can_have_weights_and_another_none() -> None:
    some = mixture({"a": 5, "b": 5, "edits": 3}, weights={"a": 3, "b": 1})
    drawn = Counter(some.draw(sample, 2).source for sample in range(80))
    assert drawn == {"a": 30, "b": 10, "edits": 40}


def test_the_shares_reported_are_the_shares_drawn() -> None:
    mixed = mixture({"edit": 30, "a": 10, "b": 30}, ratios={"edit": 1, "generate": 3})
    counts = Counter(mixed.draw(sample, 1).source for sample in range(1600))
    for name in ("edit", "a", "b"):
        assert counts[name] / 1600 == pytest.approx(mixed.share(name), abs=0.02)
    assert sum(mixed.share(name) for name in mixed.sources) == pytest.approx(1)


def test_another_seed_is_another_order() -> None:
    orders = {
        tuple(mixture({"a": 50}, seed=seed).draw(sample, 1).index for sample in range(50))
        for seed in range(5)
    }
    assert len(orders) == 5


def test_a_sample_far_out_is_found_at_once() -> None:
    mixed = mixture({"a": 35_000_000, "b": 10**9}, {"a": 0.1, "b": 0.7})
    started = time.perf_counter()
    for sample in range(10**12, 10**12 + 100):
        mixed.draw(sample, 512)
    assert time.perf_counter() - started < 0.5


# --- configs that contradict themselves ---


def test_a_source_of_another_task_is_refused() -> None:
    entry = SourceEntry(name="a", source="", task="edit", options={})
    with pytest.raises(ValueError, match="listed under edit but holds rows to generate"):
        Mixture(MixtureConfig(sources=(entry,), ratios={"edit": 1}), {"a": Rows(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": {"generate": 0}}, "ratio of generate must be a whole number"),
        ({"ratios": {"generate": 1, "edit": 1}}, "task edit has no sources"),
        ({"ratios": {}}, "at least one task"),
        ({"bad_share_limit": 2}, "bad_share_limit is a share"),
    ],
)
def test_impossible_mixtures_are_refused(change, message) -> None:
    entry = SourceEntry(name="a", source="", task="generate", options={})
    with pytest.raises(ValueError, match=message):
        MixtureConfig(**{"sources": (entry,), "ratios": {"generate": 1}, **change})


def test_weights_are_given_to_all_or_none() -> None:
    with pytest.raises(ValueError, match="these have none: b"):
        mixture({"a": 1, "b": 1}, {"a": 1.0})
    with pytest.raises(ValueError, match="weight of a must be positive"):
        mixture({"a": 1}, {"a": -1.0})


def test_a_crop_is_refused_for_edits() -> None:
    entry = SourceEntry(name="a", source="", task="edit", options={})
    with pytest.raises(ValueError, match="crop2square cuts each picture elsewhere"):
        MixtureConfig(sources=(entry,), ratios={"edit": 1}, image=ImageRule(rule="crop2square"))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"rule": "fit"}, "unknown resize rule"), ({"unit": 20}, "of 16"), ({"image_size": 8}, "at least one")],
)  # fmt: skip
def test_impossible_image_rules_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        ImageRule(**values)


# --- files ---


def write_mixture(folder: Path, text: str) -> Path:
    (folder / "sets").mkdir()
    (folder / "sets" / "a.json").write_text(json.dumps([{"txt": "a", "image_path": "a.png"}] * 3))
    path = folder / "mixture.yaml"
    path.write_text(text)
    return path


GOOD = """
root: sets
seed: 7
image: {rule: fix_pixels, image_size: 256}
bad_share_limit: 0.05
tasks:
  generate:
    ratio: 2
    sources:
      first: {source: t2i_sft, path: a.json, weight: 2}
      second: {source: t2i_sft, path: a.json, image_dir: ., weight: 1}
"""


def test_a_file_is_read_with_its_paths_joined_to_its_root(tmp_path) -> None:
    mixed = open_mixture(write_mixture(tmp_path, GOOD))
    config = mixed.config
    assert (config.seed, config.bad_share_limit, dict(config.ratios)) == (7, 0.05, {"generate": 2})
    assert config.image == ImageRule(image_size=256)
    assert [(entry.name, entry.weight) for entry in config.sources] == [("first", 2), ("second", 1)]
    assert mixed.sources["second"][0].target == tmp_path / "sets" / "a.png"


def test_the_root_can_be_given_from_outside_or_left_out(tmp_path) -> None:
    path = write_mixture(tmp_path, GOOD.replace("root: sets", "root:"))
    with pytest.raises(ValueError, match=r"1 problem\(s\):\n  - `root` is empty: fill in the folder"):
        read_mixture(path)
    assert len(open_mixture(path, root=tmp_path / "sets").sources["first"]) == 3
    path.write_text(GOOD.replace("root: sets", "").replace("a.json", "sets/a.json"))
    assert len(open_mixture(path).sources["first"]) == 3


def test_everything_wrong_is_reported_at_once(tmp_path) -> None:
    path = write_mixture(
        tmp_path,
        """
colour: 1
image: {rule: fix_pixels, size: 3}
tasks:
  paint: {}
  edit: {ratio: half, sources: {e: {source: edits}}}
  generate:
    sources:
      a: {source: t2i_sft, path: gone.json, imagedir: x}
      b: {path: a.json}
      c: {source: t2i_sft, path: sets/a.json, weight: 1}
""",
    )
    with pytest.raises(ValueError, match="problem") as error:
        read_mixture(path)
    for message in (
        "unknown field 'colour'; known: root, seed",
        "image has an unknown field 'size'; known: rule, image_size, unit",
        "unknown task 'paint'; known: generate, edit",
        "e: unknown source 'edits'; did you mean edit?",
        f"a: there is nothing at {tmp_path / 'gone.json'} (path)",
        "a: unknown option 'imagedir'; t2i_sft has: path, image_dir",
        "b: `source` is missing",
        "ratio of edit must be a whole number of at least 1, got 'half'",
        "these have none: a, b; give all or none",
    ):
        assert message in str(error.value)


def test_every_source_that_cannot_be_opened_is_named(tmp_path) -> None:
    path = write_mixture(tmp_path, GOOD)
    (tmp_path / "sets" / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"cannot be opened \(2\)") as error:
        open_mixture(path)
    assert "first: " in str(error.value)
    assert "second: " in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [", "not valid YAML"),
        ("- a", "expected fields such as"),
        ("tasks: {generate: {sources: {a: 1, a: 2}}}", "'a' is given twice"),
        ("seed: x\ntasks: {}", "seed must be a number"),
        ("image: {image_size: big}\ntasks: {}", "image.image_size must be like 512"),
        ("tasks: {generate: }", "tasks.generate must be fields with values, found nothing"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, text, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_mixture(write_mixture(tmp_path, text))
    assert "mixture.yaml" in str(error.value)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no mixture file"):
        read_mixture(tmp_path / "gone.yaml")


# --- what we ship ---


@pytest.mark.parametrize(
    ("name", "ratios", "counts"),
    [
        ("stage1", {"edit": 1, "generate": 3}, {"edit": 12, "generate": 6}),
        ("stage2", {"edit": 1, "generate": 2}, {"edit": 12, "generate": 8}),
        ("rl-supervised", {"generate": 1}, {"generate": 13}),
    ],
)
def test_the_originals_mixtures_lack_nothing_but_the_files(tmp_path, name, ratios, counts) -> None:
    with pytest.raises(ValueError, match="root` is empty") as error:
        read_mixture(SHIPPED / f"{name}.yaml")
    assert len(str(error.value).splitlines()) == 2
    with pytest.raises(ValueError, match="there is nothing at"):
        read_mixture(SHIPPED / f"{name}.yaml", root=tmp_path)
    for line in (SHIPPED / f"{name}.yaml").read_text().splitlines():
        if line.strip().startswith(("path:", "image_dir:", "caption_dir:")):
            place = tmp_path / line.split(":")[1].strip()
            (place if "." not in place.name[-5:] else place.parent).mkdir(parents=True, exist_ok=True)
            if place.suffix == ".json":
                place.touch()
    config = read_mixture(SHIPPED / f"{name}.yaml", root=tmp_path)
    assert dict(config.ratios) == ratios
    assert Counter(entry.task for entry in config.sources) == counts
    assert config.image == ImageRule(rule="fix_pixels", image_size=512, unit=32)


def test_the_example_of_the_documentation_lacks_nothing_but_the_files(tmp_path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "mixture.yaml").write_text(example)
    for name in ("photos", "pictures"):
        (tmp_path / name).mkdir()
    for name in ("edits.json", "posters.parquet"):
        (tmp_path / name).touch()
    config = read_mixture(tmp_path / "mixture.yaml", root=tmp_path)
    assert [entry.name for entry in config.sources] == ["my_edits", "photos", "posters"]


def test_both_stages_share_their_edits(tmp_path) -> None:
    texts = [(SHIPPED / f"{name}.yaml").read_text() for name in ("stage1", "stage2")]
    edits = [text.split("  edit:\n")[1].split("  generate:\n")[0] for text in texts]
    assert edits[0] == edits[1]
