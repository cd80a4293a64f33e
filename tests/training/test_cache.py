"""Caches: the same losses as without one, no work done twice, and refusals of what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepgen.cli.app import main
from deepgen.data.batches import Batches
from deepgen.data.cache import Cache, CacheError, read_manifest, shard_path
from deepgen.data.example import RowError
from deepgen.data.mixture import Mixture, open_mixture
from deepgen.data.mixture_config import ImageRule
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import recipe, run
from deepgen.training.adapters import LoraSettings
from deepgen.training.cache import CacheConfig, Filled, fill_cache, fingerprints, open_cache
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.supervised_settings import DropoutConfig
from deepgen.training.supervised_stage import SupervisedStage
from images_on_disk import write_image
from small_runs import small

MIXTURE = """
root: .
seed: 3
bad_share_limit: 0.5
image: {rule: fix_pixels, image_size: 96, unit: 32}
tasks:
  edit:
    ratio: 1
    sources:
      edits: {source: shapes, rows: 5, task: edit}
      pairs: {source: edit, path: pairs.json, image_dir: .}
  generate:
    ratio: 1
    sources:
      captions: {source: shapes, rows: 8}
"""
NUM_ROWS, SHARD_SIZE = 17, 5  # edits 5, pairs 4, captions 8
CONFIG = CacheConfig(shard_size=SHARD_SIZE, batch_size=3, num_workers=0)


@pytest.fixture(scope="module")
def mixture_path(tmp_path_factory) -> Path:
    """Captions and edits; some edits are of two references in several sizes, and one lacks a picture."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(4):
        names = [
            write_image(folder / f"{i}-{k}.png", 10 * i + k, [(96, 96), (96, 64), (60, 90)][k]).name
            for k in range(3)
        ]
        rows.append(
            {"input_image": names[1 : 2 + i % 2], "output_image": names[0], "instruction": f"edit {i}"}
        )
    rows[2]["output_image"] = "gone.png"
    (folder / "pairs.json").write_text(json.dumps(rows))
    (folder / "mixture.yaml").write_text(MIXTURE)
    return folder / "mixture.yaml"


@pytest.fixture(scope="module")
def pipe() -> DeepGenPipeline:
    return DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def cache(mixture_path, pipe) -> Path:
    folder = mixture_path.parent / "cache"
    done = fill_cache(open_mixture(mixture_path), pipe, folder, CONFIG)
    assert done == Filled(num_made=4, num_found=0, num_rows=NUM_ROWS, num_bad=1)
    return folder


def build(mixture_path: Path, cache: Path | None, name: str = "alignment", **options: Any) -> SupervisedStage:
    config = override(recipe(name), small(mixture_path, num_steps="8"))
    torch.manual_seed(0)  # of a LoRA's first weights
    stage = replace(config, **{"cache": cache, **options}).build(Processes("cpu"))
    assert isinstance(stage, SupervisedStage)
    return stage


def gradients(stage: SupervisedStage) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in stage.modules.named_parameters() if p.grad is not None}


def assert_trains_the_same(one: SupervisedStage, other: SupervisedStage, steps: int = 3) -> None:
    tasks = set()
    for step in range(steps):
        for with_cache, without in zip(one.batches(step), other.batches(step), strict=True):
            assert with_cache.samples == without.samples
            assert without.image_features is None
            losses = [stage.losses(batch) for stage, batch in ((one, with_cache), (other, without))]
            torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
            for loss in losses:
                loss.sum().backward()
            tasks.add("generate" if without.pixels is None else "edit")
    assert tasks == {"generate", "edit"}
    ours, theirs = gradients(one), gradients(other)
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5 * largest, rtol=1e-3, msg=name)


# --- the same training --------------------------------------------------------------------------------------


def test_losses_and_gradients_with_a_cache_are_those_without(mixture_path, cache) -> None:
    assert_trains_the_same(build(mixture_path, cache), build(mixture_path, None))


def test_the_same_holds_with_lora_on_every_part_and_dropped_references(mixture_path, cache) -> None:
    options = {
        "vlm_lora": LoraSettings(rank=2, dropout=0.0, targets="upstream"),
        "dropout": DropoutConfig(text=0.3, edit_text=0.3, edit_everything=0.4),
    }
    assert_trains_the_same(
        build(mixture_path, cache, "sft", **options), build(mixture_path, None, "sft", **options), steps=2
    )


def test_without_features_references_are_read_and_losses_stay(mixture_path, pipe, tmp_path) -> None:
    config = replace(CONFIG, has_features=False)
    fill_cache(open_mixture(mixture_path), pipe, tmp_path / "cache", config)
    assert_trains_the_same(build(mixture_path, tmp_path / "cache"), build(mixture_path, None), steps=1)
    mixture = open_mixture(mixture_path)
    batches = Batches(mixture, 12, 4, cache=open_cache(tmp_path / "cache", mixture, pipe))
    for plan in batches.plan(0, []):
        batch = batches.load(plan)
        assert batch is not None
        assert batch.target.is_meta
        assert not any(reference.is_meta for reference in batch.references)


def test_with_a_cache_no_picture_is_decoded_nor_encoded(mixture_path, cache, monkeypatch) -> None:
    stage = build(mixture_path, cache)

    def refuse(*_: Any) -> None:
        raise AssertionError("a cached picture was read or encoded")

    monkeypatch.setattr("deepgen.data.batches.load_image", refuse)
    monkeypatch.setattr(type(stage.pipe.vae), "encode", refuse)
    monkeypatch.setattr(type(stage.pipe.vlm), "image_features", refuse)
    for batch in stage.batches(0):
        assert stage.loss(batch).loss.isfinite()


def test_workers_read_the_cache_too(mixture_path, cache) -> None:
    here, there = build(mixture_path, cache), build(mixture_path, cache, num_workers=1)
    for one, other in zip(here.batches(0), there.batches(0), strict=True):
        assert torch.equal(one.clean, other.clean)


def test_a_row_that_could_not_be_used_is_counted_as_without_a_cache(mixture_path, cache, pipe) -> None:
    mixture = open_mixture(mixture_path)
    found = open_cache(cache, mixture, pipe)
    key = mixture.sources["pairs"][2].key
    with pytest.raises(RowError, match=r"there is no picture at .*gone.png .*run again: deepgen data cache"):
        found.read("pairs", 2, key, [(96, 96), (96, 96)])


def test_half_precision_is_kept_where_it_is_asked_for(mixture_path, pipe, tmp_path) -> None:
    fill_cache(open_mixture(mixture_path), pipe, tmp_path, replace(CONFIG, dtype="bfloat16"))
    tensors = load_file(shard_path(tmp_path, 0))
    assert tensors["0.moments.0"].shape[0] == 2
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


# --- interrupts ---------------------------------------------------------------------------------------------


def test_an_interrupted_cache_goes_on_without_redoing_what_is_done(
    mixture_path, cache, pipe, tmp_path
) -> None:
    mixture = open_mixture(mixture_path)

    def interrupt(shard: int, *_: int) -> None:
        if shard == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_cache(mixture, pipe, tmp_path, CONFIG, interrupt)
    done = [shard_path(tmp_path, shard) for shard in (0, 1)]
    times = [path.stat().st_mtime_ns for path in done]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.json", *(path.name for path in done)]

    (tmp_path / ".shard-00002.safetensors.abcd.part").write_bytes(b"half a shard")  # of a kill -9
    assert fill_cache(mixture, pipe, tmp_path, CONFIG) == Filled(2, 2, NUM_ROWS - 2 * SHARD_SIZE, 0)
    assert [path.stat().st_mtime_ns for path in done] == times
    for shard in range(4):
        whole, halves = load_file(shard_path(cache, shard)), load_file(shard_path(tmp_path, shard))
        assert whole.keys() == halves.keys()
        assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_a_shard_that_breaks_while_it_is_written_never_has_its_name(
    mixture_path, pipe, tmp_path, monkeypatch
) -> None:
    def half(_: Any, path: Path, __: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("deepgen.data.cache.save_file", half)
    with pytest.raises(OSError, match="no space left"):
        fill_cache(open_mixture(mixture_path), pipe, tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]


def test_processes_share_the_shards(mixture_path, pipe, tmp_path) -> None:
    made = [
        fill_cache(
            open_mixture(mixture_path), pipe, tmp_path, replace(CONFIG, process=process, num_processes=3)
        ).num_made
        for process in range(3)
    ]
    assert made == [2, 1, 1]
    assert len(list(tmp_path.glob("shard-*.safetensors"))) == 4


# --- refusals -----------------------------------------------------------------------------------------------


def test_another_resize_rule_is_refused(mixture_path, cache, pipe, tmp_path) -> None:
    mixture = open_mixture(mixture_path)
    larger = Mixture(replace(mixture.config, image=ImageRule(image_size=128)), mixture.sources)
    with pytest.raises(
        CacheError, match=r"size mismatch between cache and rule.* fix_pixels of 96 .* fix_pixels of 128"
    ):
        open_cache(cache, larger, pipe)
    with pytest.raises(CacheError, match=r"another cache: image was .*; choose another --output"):
        fill_cache(larger, pipe, cache, CONFIG)
    cropped = Mixture(
        replace(
            mixture.config,
            image=ImageRule(rule="crop2square", image_size=96),
            sources=mixture.config.of_task("generate"),
            ratios={"generate": 1},
        ),
        {"captions": mixture.sources["captions"]},
    )
    with pytest.raises(ValueError, match="cuts a picture elsewhere each time"):
        fill_cache(cropped, pipe, tmp_path, CONFIG)


def test_other_weights_are_refused_by_the_name_of_their_part(mixture_path, cache) -> None:
    mixture = open_mixture(mixture_path)
    for part in ("VAE", "vision tower"):
        other = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
        module = other.vae.encoder if part == "VAE" else other.vlm.visual
        next(module.parameters()).data.view(-1)[0] += 1
        with pytest.raises(CacheError, match=f"the {part} is another: .* float32 weights"):
            open_cache(cache, mixture, other)


def test_another_decoder_is_accepted_because_nothing_kept_depends_on_it(mixture_path, cache) -> None:
    other = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    next(other.vae.decoder.parameters()).data.add_(1)
    open_cache(cache, open_mixture(mixture_path), other)


def test_changed_sources_are_refused_and_other_ratios_are_not(mixture_path, cache, pipe, tmp_path) -> None:
    def changed(old: str, new: str) -> Mixture:
        path = tmp_path / "mixture.yaml"
        path.write_text(MIXTURE.replace(old, new))
        return open_mixture(path, mixture_path.parent)

    open_cache(cache, changed("seed: 3", "seed: 4"), pipe)
    with pytest.raises(CacheError, match="source captions has changed: rows was 8 and is 9"):
        open_cache(cache, changed("rows: 8", "rows: 9"), pipe)
    with pytest.raises(CacheError, match="source words is not in it; it holds: edits, pairs, captions"):
        open_cache(cache, changed("captions:", "words:"), pipe)


def test_a_missing_row_is_named_with_the_command_that_makes_it(mixture_path, cache, tmp_path) -> None:
    copy = copytree(cache, tmp_path / "cache")
    for shard in range(4):
        shard_path(copy, shard).unlink()
    stage = build(mixture_path, copy)
    with pytest.raises(
        CacheError, match=r"row \d of source \w+ \(.*:\d\) is not cached: .*; run: deepgen data cache MIXTURE"
    ):
        list(stage.batches(0))


def test_a_row_that_is_another_than_was_cached_is_refused(mixture_path, cache, pipe) -> None:
    mixture = open_mixture(mixture_path)
    found = Cache(cache, mixture, fingerprints(pipe))
    with pytest.raises(CacheError, match=r"row 1 of source captions is shapes:2 of 96x96, but shapes:1 of"):
        found.read("captions", 1, "shapes:2", [(96, 96)])
    with pytest.raises(CacheError, match="of 64x96, but shapes:1 of 96x96 was cached"):
        found.read("captions", 1, "shapes:1", [(96, 64)])


def test_a_truncated_shard_is_an_error(mixture_path, cache, tmp_path) -> None:
    copy = copytree(cache, tmp_path / "cache")
    for shard in range(4):
        path = shard_path(copy, shard)
        path.write_bytes(path.read_bytes()[: -1 - 100 * shard])
    stage = build(mixture_path, copy)
    with pytest.raises(CacheError, match=r"is truncated or no shard .* delete that file and run again"):
        list(stage.batches(0))


def test_a_folder_without_a_cache_is_refused_before_anything_is_loaded(mixture_path, tmp_path) -> None:
    with pytest.raises(CacheError, match=r"there is no cache in .*; make it with: deepgen data cache"):
        build(mixture_path, tmp_path, model="nowhere")
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(CacheError, match=r"cache.json is damaged"):
        build(mixture_path, tmp_path)
    with pytest.raises(ValueError, match=r"expected process in \[0, 2\), got 2"):
        CacheConfig(process=2, num_processes=2)


# --- from the command line ----------------------------------------------------------------------------------


def test_the_command_makes_a_cache_that_a_recipe_trains_on(mixture_path, tmp_path, capsys) -> None:
    cache = tmp_path / "cache"
    command = [
        "data",
        "cache",
        str(mixture_path),
        "--model",
        "shapes",
        "--output",
        str(cache),
        "--device",
        "cpu",
    ]
    assert main([*command, "--num-workers", "0", "--shard-size", "8"]) == 0
    out, err = capsys.readouterr()
    assert "3 shards made, 0 were there, 17 rows encoded, 1 of them cannot be used" in out
    assert "shard 3 of 3: 17 rows" in err
    assert read_manifest(cache).num_rows == NUM_ROWS
    assert main([*command, "--num-workers", "0", "--shard-size", "8"]) == 0
    assert "0 shards made, 3 were there" in capsys.readouterr().out
    assert main([*command, "--no-features", "--shard-size", "8"]) == 2
    assert "holds another cache" in capsys.readouterr().err
    for name in ("cached", "plain"):
        changes = {"cache": str(cache)} if name == "cached" else {}
        run("alignment", tmp_path / name, overrides=small(mixture_path, log_every="1", **changes))
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("cached", "plain")
    ]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
