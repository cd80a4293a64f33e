"""Batches: every sample of a step once, stacked without padding, whoever reads them."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepgen.data.bad_rows import BadRowTracker, TooManyBadRows
from deepgen.data.batches import Batches, BatchPlan, MicroBatch, micro_batch_parts
from deepgen.data.example import RowError
from deepgen.data.images import ImageError, open_image
from deepgen.data.loader import deal, micro_batches
from deepgen.data.mixture import Mixture
from deepgen.data.mixture_config import ImageRule, MixtureConfig, SourceEntry
from deepgen.data.pixels import bytes_to_pixels, to_pixels
from images_on_disk import scene_image, write_image

SHAPES = [(96, 96), (96, 64), (60, 90), (40, 100)]
RULE = ImageRule(image_size=64, unit=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eleven pictures to generate and nine edits, some of two references, in several shapes."""
    folder = tmp_path_factory.mktemp("data")
    generate = [
        {"txt": f"scene {i}", "image_path": write_image(folder / f"g{i}.png", i, SHAPES[i % 3]).name}
        for i in range(11)
    ]
    edit = []
    for i in range(9):
        names = [
            write_image(folder / f"e{i}-{k}.png", 100 * i + k, SHAPES[(i + k) % 4]).name for k in range(3)
        ]
        edit.append(
            {"input_image": names[1 : 2 + i % 2], "output_image": names[0], "instruction": f"edit {i}"}
        )
    (folder / "generate.json").write_text(json.dumps(generate))
    (folder / "edit.json").write_text(json.dumps(edit))
    return folder


def open_batches(
    folder: Path,
    *,
    size: int = 8,
    most: int = 3,
    seed: int = 0,
    image: ImageRule = RULE,
    blocks: int = 1,
    **settings,
) -> Batches:
    sources = tuple(
        SourceEntry(
            name=task,
            source=source,
            task=task,
            options={"path": str(folder / f"{task}.json"), "image_dir": str(folder)},
        )
        for task, source in (("edit", "edit"), ("generate", "t2i_sft"))
        if (folder / f"{task}.json").exists()
    )
    ratios = {entry.task: {"edit": 1, "generate": 2}[entry.task] for entry in sources}
    config = MixtureConfig(sources=sources, ratios=ratios, seed=seed, image=image, **settings)
    return Batches(Mixture(config), size, most, blocks_per_step=blocks)


def by_sample(micro: list[MicroBatch]) -> dict[int, tuple[str, str, list[Tensor]]]:
    """(text, key, pictures) of each sample."""
    return {
        sample: (batch.texts[row], batch.keys[row], [batch.target[row], *(r[row] for r in batch.references)])
        for batch in micro
        for row, sample in enumerate(batch.samples)
    }


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for sample, (text, key, images) in one.items():
        assert (text, key) == other[sample][:2]
        assert all(torch.equal(a, b) for a, b in zip(images, other[sample][2], strict=True))


# --- plans ---


def test_a_step_holds_each_of_its_samples_once(folder) -> None:
    batches = open_batches(folder)
    for step in range(6):
        samples = [sample for plan in batches.plan(step) for sample in plan.samples]
        assert sorted(samples) == list(range(8 * step, 8 * step + 8))


def test_a_plan_has_one_task_one_size_and_no_more_samples_than_allowed(folder) -> None:
    batches = open_batches(folder)
    tasks = []
    for step in range(6):
        plans = batches.plan(step)
        tasks.append({plan.task for plan in plans})
        assert all(1 <= len(plan.samples) <= 3 for plan in plans)
        for plan in plans:
            assert all(side % 32 == 0 for size in (plan.target_size, *plan.reference_sizes) for side in size)
    assert tasks == 2 * [{"edit"}, {"generate"}, {"generate"}]


def test_a_whole_cycle_fits_in_a_step_as_in_the_original(folder) -> None:
    batches = open_batches(folder, size=12, blocks=3)
    counts = Counter(plan.task for plan in batches.plan(5) for _ in plan.samples)
    assert counts == {"edit": 4, "generate": 8}


def test_micro_batches_of_a_bucket_are_as_few_and_as_equal_as_may_be(folder) -> None:
    batches = open_batches(folder, image=ImageRule(rule="resize2square", image_size=64), size=10, most=4)
    assert [len(plan.samples) for plan in batches.plan(1)] == [3, 3, 4]


def test_texts_of_about_equal_length_go_together() -> None:
    lengths = {0: 90, 1: 12, 2: 85, 3: 10, 4: 11, 5: 80, 6: 40}
    assert micro_batch_parts(list(lengths), lengths, 4) == [(1, 3, 4), (0, 2, 5, 6)]


def test_epochs_cover_every_row_once(folder) -> None:
    batches = open_batches(folder, size=3)
    texts = Counter()
    for step in range(3 * 11):
        for plan in batches.plan(step):
            texts.update(batches.load(plan).texts)
    assert {texts[f"scene {i}"] for i in range(11)} == {6}  # 2 of 3 blocks of 3 samples, 33 blocks, 11 rows


# --- pixels ---


def test_pictures_are_those_of_the_rule_resized_whole(folder) -> None:
    batches = open_batches(folder)
    batch = batches.load(next(plan for plan in batches.plan(0) if len(plan.reference_sizes) == 2))
    row = int(batch.texts[0].removeprefix("edit "))
    names = [f"e{row}-{k}.png" for k in range(3)]
    for name, pixels in zip(names, (batch.target, *batch.references), strict=True):
        image = open_image(folder / name)
        size = RULE.size((image.height, image.width))
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (len(batch.samples), 3, *size)
        assert torch.allclose(bytes_to_pixels(pixels[0]), to_pixels(image, size), atol=1e-6)


def test_bytes_become_the_pixels_a_model_reads() -> None:
    values = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert bytes_to_pixels(values).tolist() == pytest.approx([-1, -0.6, 1])


def test_orientation_and_transparency_are_as_a_viewer_shows_them(tmp_path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    scene_image(0, (64, 128)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    rows = [{"txt": name, "image_path": name} for name in ("turned.jpg", "clear.png")]
    (tmp_path / "generate.json").write_text(json.dumps(rows))
    batches = open_batches(tmp_path, size=2)
    loaded = {batch.texts[0]: batch.target for batch in map(batches.load, batches.plan(0))}
    assert loaded["turned.jpg"].shape[2:] == (96, 64)
    assert (loaded["clear.png"] == 255).all()


def test_a_crop_depends_on_the_sample_number_alone(tmp_path) -> None:
    write_image(tmp_path / "wide.png", 0, (64, 640))
    (tmp_path / "generate.json").write_text(json.dumps([{"txt": "a", "image_path": "wide.png"}]))
    batches = open_batches(tmp_path, size=6, most=6, image=ImageRule(rule="crop2square", image_size=64))
    (plan,) = batches.plan(0)
    together = batches.load(plan)
    assert together.target.shape == (6, 3, 64, 64)
    assert len({row.numpy().tobytes() for row in together.target}) > 1
    alone = batches.load(BatchPlan(plan.task, plan.samples[4:5], plan.target_size))
    assert torch.equal(alone.target[0], together.target[4])


# --- who reads ---


def test_one_process_and_two_read_the_same_samples(folder) -> None:
    batches = open_batches(folder)
    alone = list(micro_batches(batches, 0, 4))
    shared = [list(micro_batches(batches, 0, 4, rank=rank, world_size=2)) for rank in range(2)]
    for step in range(4):
        halves = [shared[rank][step] for rank in range(2)]
        assert len(halves[0]) == len(halves[1])
        assert_same(by_sample(alone[step]), by_sample(halves[0]) | by_sample(halves[1]))


def test_a_run_goes_on_where_it_was_left(folder) -> None:
    whole = list(micro_batches(open_batches(folder), 0, 6))
    rest = list(micro_batches(open_batches(folder), 4, 2))
    for step in range(2):
        assert [batch.samples for batch in whole[4 + step]] == [batch.samples for batch in rest[step]]
        assert_same(by_sample(whole[4 + step]), by_sample(rest[step]))


def test_reading_leaves_everybodys_random_numbers_alone(folder) -> None:
    before = torch.get_rng_state()
    list(micro_batches(open_batches(folder), 0, 2))
    assert torch.equal(before, torch.get_rng_state())


def assert_workers_change_nothing(folder: Path, **settings) -> None:
    here = list(micro_batches(open_batches(folder), 3, 5))
    there = list(micro_batches(open_batches(folder), 3, 5, num_workers=2, **settings))
    for one, other in zip(here, there, strict=True):
        assert [batch.samples for batch in one] == [batch.samples for batch in other]
        assert_same(by_sample(one), by_sample(other))


def test_workers_change_nothing(folder) -> None:
    assert_workers_change_nothing(folder, start_method="fork")


@pytest.mark.slow
def test_spawned_workers_change_nothing(folder) -> None:
    assert_workers_change_nothing(folder, start_method="spawn")


def test_batches_can_be_sent_to_a_worker(folder) -> None:
    batches = open_batches(folder)
    assert pickle.loads(pickle.dumps(batches)).plan(3) == batches.plan(3)


def test_another_seed_is_another_order(folder) -> None:
    def texts(seed: int) -> list[str]:
        batches = open_batches(folder, seed=seed)
        return [text for plan in batches.plan(1) for text in batches.load(plan).texts]

    assert texts(0) == texts(0)
    assert texts(0) != texts(1)


def plan_of(cost: int, *samples: int) -> BatchPlan:
    return BatchPlan("generate", samples, (cost, 1))


def test_plans_are_dealt_by_cost() -> None:
    plans = [plan_of(7, 0), plan_of(5, 1), plan_of(4, 2), plan_of(3, 3), plan_of(2, 4), plan_of(1, 5)]
    dealt = deal(plans, 2)
    assert [sum(plan.cost for plan in part) for part in dealt] == [11, 11]
    assert [len(part) for part in dealt] == [3, 3]


@pytest.mark.parametrize("world_size", range(1, 9))
def test_all_processes_get_equally_many_plans_while_there_are_samples(world_size) -> None:
    plans = [plan_of(4, 0, 1, 2, 3), plan_of(3, 4, 5, 6), plan_of(9, 7)]
    dealt = deal(plans, world_size)
    assert len({len(part) for part in dealt}) == 1
    assert sorted(s for part in dealt for plan in part for s in plan.samples) == list(range(8))


def test_more_processes_than_samples_leave_some_without() -> None:
    dealt = deal([plan_of(1, 0, 1)], 3)
    assert [len(part) for part in dealt] == [1, 1, 0]


# --- bad rows ---


@pytest.fixture
def broken(tmp_path) -> Path:
    """Four pictures: one missing, one cut short (its header is whole), two good."""
    rows = [{"txt": f"t{i}", "image_path": f"{i}.png"} for i in range(4)]
    for i in range(3):
        write_image(tmp_path / f"{i}.png", i)
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "generate.json").write_text(json.dumps(rows))
    return tmp_path


def test_bad_rows_are_left_out_and_counted(broken) -> None:
    bad_rows = BadRowTracker(limit=1, path=broken / "bad.jsonl")
    steps = list(micro_batches(open_batches(broken, size=4, most=4), 0, 3, bad_rows=bad_rows))
    assert [[sorted(batch.texts) for batch in step] for step in steps] == 3 * [[["t0", "t1"]]]
    assert (bad_rows.num_samples, bad_rows.num_bad) == (12, 6)
    lines = [json.loads(line) for line in (broken / "bad.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {f"{broken / 'generate.json'}:{row}" for row in (2, 3)}
    assert any("no picture at" in line["reason"] for line in lines)
    assert any("damaged or cut short" in line["reason"] for line in lines)


def test_a_micro_batch_of_bad_rows_is_dropped(broken) -> None:
    bad_rows = BadRowTracker(limit=1)
    steps = list(micro_batches(open_batches(broken, size=1, most=1), 0, 4, bad_rows=bad_rows))
    assert sorted(len(step) for step in steps) == [0, 0, 1, 1]


def test_two_processes_count_each_bad_row_once(broken) -> None:
    trackers = [BadRowTracker(limit=1), BadRowTracker(limit=1)]
    for rank, bad_rows in enumerate(trackers):
        list(micro_batches(open_batches(broken, size=4), 0, 5, rank=rank, world_size=2, bad_rows=bad_rows))
    assert sum(bad_rows.num_samples for bad_rows in trackers) == 20
    assert sum(bad_rows.num_bad for bad_rows in trackers) == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_rows_stop_the_run(broken, num_workers) -> None:
    with pytest.raises(TooManyBadRows, match=r"more than the 10.0% allowed"):
        list(micro_batches(open_batches(broken, size=4, bad_share_limit=0.1), 0, 50, num_workers=num_workers))


def test_whoever_collects_no_bad_rows_gets_the_first_as_an_error(broken) -> None:
    batches = open_batches(broken, size=4)
    with pytest.raises(ImageError, match="no picture at"):
        batches.plan(0)
    plans = batches.plan(0, bad=[])
    with pytest.raises(ImageError, match="damaged or cut short"):
        [batches.load(plan) for plan in plans]


def test_a_wrong_size_in_the_manifest_is_a_bad_row(tmp_path) -> None:
    write_image(tmp_path / "a.png", 0, (96, 96))
    row = {"task": "generate", "text": "a", "target": "a.png", "size": [96, 200]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    entry = SourceEntry(
        name="a", source="jsonl", task="generate", options={"path": str(tmp_path / "a.jsonl")}
    )
    config = MixtureConfig(sources=(entry,), ratios={"generate": 1}, image=RULE)
    batches = Batches(Mixture(config), 1, 1)
    with pytest.raises(RowError, match="correct the manifest's sizes"):
        batches.load(batches.plan(0)[0])


# --- arguments ---


def test_impossible_sizes_are_refused(folder) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        open_batches(folder, size=0)
    with pytest.raises(ValueError, match="try 9"):
        open_batches(folder, size=8, blocks=3)
    with pytest.raises(ValueError, match=r"rank in \[0, 2\)"):
        next(micro_batches(open_batches(folder), 0, 1, rank=2, world_size=2))
