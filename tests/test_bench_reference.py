"""The benchmark's rendering of the original: it has to draw the same picture, or its time says nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deepgen.pipeline import DeepGenPipeline

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("image", [None, Image.new("RGB", (64, 64), (200, 30, 30))], ids=["draw", "edit"])
def test_the_original_path_draws_our_picture(pipe: DeepGenPipeline, image: Image.Image | None) -> None:
    from harness.reference import reference_of

    arguments = {"image": image, "negative_prompt": "blurry", "seed": 1, "output_type": "pt"}
    ours = pipe("two cats", **arguments).images
    theirs = reference_of(pipe)("two cats", **arguments).images
    assert (ours - theirs).abs().max() < 1e-4
    assert torch.equal(pipe("two cats", **arguments).images, ours), "the reference must leave ours as it was"


def test_what_compare_times_is_the_decoding_of_a_picture(pipe: DeepGenPipeline) -> None:
    from harness.reference import decoded, reference_of

    latents = pipe("two cats", seed=1, output_type="latent").images
    picture = pipe("two cats", seed=1, output_type="pt").images
    with torch.no_grad():
        ours, theirs = decoded(pipe, latents), decoded(reference_of(pipe), latents)
    assert torch.equal((ours / 2 + 0.5).clamp(0, 1), picture)
    assert (ours - theirs).abs().max() < 1e-4


def test_a_prompt_has_as_many_tokens_as_are_asked_for() -> None:
    from types import SimpleNamespace

    from harness.inputs import prompt_of

    subject: Any = SimpleNamespace(pipe=DeepGenPipeline.from_pretrained("tiny"))
    for tokens in (40, 80, 256):
        assert subject.pipe._tokenize([prompt_of(subject, tokens)], None).lengths[0] == tokens


def test_the_service_of_slow_rewards_is_there() -> None:
    import slow_reward

    assert slow_reward.SERVICE.is_file()
    assert slow_reward.MIXTURE.is_file()


def test_a_stopped_run_goes_on_and_other_settings_start_anew(tmp_path: Path) -> None:
    from harness.store import Store

    store = Store(tmp_path, "parts", {"side": 512})
    assert store.cell("peak", lambda: 1) == 1
    again = Store(tmp_path, "parts", {"side": 512})
    assert again.cell("peak", lambda: pytest.fail("measured twice")) == 1
    assert Store(tmp_path, "parts", {"side": 256}).cells == {}
    assert json.loads((tmp_path / "parts.json").read_text())["cells"] == {"peak": 1}


def test_shortened_models_keep_six_taps_and_count_less() -> None:
    from harness.models import _counted, part_flops, shortened

    from deepgen.models.config import DEEPGEN_1_0, tap_indices
    from deepgen.planning.flops import SampleShape

    for by in (2, 4, 8, 12):
        connector = shortened(DEEPGEN_1_0, by).connector
        assert len(tap_indices(connector["vlm_num_layers"], connector["tap_stride"])) == 6
    short, whole = _counted(shortened(DEEPGEN_1_0, 8)), _counted(DEEPGEN_1_0)
    ratio = part_flops(whole, "dit", SampleShape()) / part_flops(short, "dit", SampleShape())
    assert 6 < ratio < 10


def test_the_solver_that_is_chosen_is_as_exact_as_fifty_euler_steps() -> None:
    from harness.quality import as_exact_as_euler_50

    cells = {
        "euler 50": {"error": 0.10, "calls": 50},
        "euler 24": {"error": 0.20, "calls": 24},
        "dpm++ 12": {"error": 0.09, "calls": 12},
        "dpm++ 8": {"error": 0.11, "calls": 8},
    }
    assert as_exact_as_euler_50(cells)["name"] == "dpm++ 12"


def test_the_page_is_filled_where_something_was_measured_and_says_so_where_not(tmp_path: Path) -> None:
    from harness.page import NOT_MEASURED, write_page

    cell = {"flop": 1e9, "seconds": 0.5, "peak": 1e10, "attention_flop": 2.5e8, "attention_seconds": 0.2}
    cell |= {"excess": 1.0, "explained": 1.0}
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    names = ("machine", "compare", "parts", "growth", "memory", "startup", "quality")
    (docs / "performance.md").write_text(
        "".join(f"<!-- bench:{n} -->\nold\n<!-- /bench -->\n" for n in names)
    )
    (results / "growth.json").write_text(
        json.dumps({"cells": {"batch 1": cell, "batch 2": {**cell, "excess": 1.2}}})
    )
    part = {"flop": 1e9, "seconds": 0.5, "flop_per_second": 2e9, "arithmetic": "bfloat16", "share": 0.5}
    (results / "parts.json").write_text(
        json.dumps(
            {"cells": {"DiT step": {**part, "rows": 2}}, "attention": {"pytorch": 0.1, "two_products": 0.07}}
        )
    )
    pytest.importorskip("matplotlib")
    write_page(results, docs)
    page = (docs / "performance.md").read_text()
    assert "| batch 2 | 1.0 | 25% | 0.500 | 40% | 1.20 | 1.00 |" in page
    assert "above the count: batch 2. With attention counted by its time: none." in page
    assert "| DiT step | 2 | 1.0 | 0.500 | 2.0 | bfloat16 | 0.50 |" in page
    assert "(`models/cpu_attention.py`): pytorch 100 ms, two_products 70 ms." in page
    assert page.count(NOT_MEASURED) == len(names) - 2
    assert (docs / "performance_growth.png").stat().st_size > 1000


def test_the_published_page_has_a_place_for_every_table(tmp_path: Path) -> None:
    from harness.page import write_page

    page = tmp_path / "performance.md"
    page.write_text((BENCHMARKS.parent / "docs" / "performance.md").read_text())
    write_page(tmp_path / "nothing", tmp_path)  # raises for a mark that is missing


def test_a_preset_costs_its_calls_of_both_branches_and_of_one() -> None:
    from harness.report import balanced_ratio

    once = {"condition": 1.0, "references": 0.0, "decode": 1.0, "first_step": 2.0, "step": 2.0}
    images = {"reference": {"total": 52.0}, "ours": once, "single_step": 1.0}
    assert balanced_ratio(images, both=10, single=4) == pytest.approx(52 / (2 + 20 + 4))


@pytest.mark.slow
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path) -> None:
    from harness.startup import load_in_a_process, random_folder

    from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_TINY

    layers = {"num_layers": 3, "dual_attention_layers": (0,)}
    architecture = replace(
        DEEPGEN_1_0,
        vlm=DEEPGEN_TINY.vlm,
        connector={**DEEPGEN_1_0.connector, "num_hidden_layers": 1},
        transformer={**DEEPGEN_1_0.transformer, **layers},
    )
    found = load_in_a_process(random_folder(architecture, tmp_path / "model"))
    assert found["weights"] > 1e9
    modules = 150e6  # what loading imports, which a real model's 13 GB make nothing of
    assert found["peak"] - modules < 1.1 * found["weights"]


def test_the_balanced_ratio_needs_no_section_but_compare_and_stands_beside_its_error(tmp_path: Path) -> None:
    from harness.quality import preset_calls
    from harness.report import balanced_ratio, summarize, table

    stages = {"condition": 1.0, "references": 0.0, "first_step": 2.0, "step": 1.0, "decode": 1.0}
    image = {
        "reference": {"total": 90.0},
        "ours": {**stages, "total": 54.0},
        "single_step": 0.5,
        "ratio": 1.6,
    }
    difference = {"relative_difference": 1e-6}
    compare = {
        "pictures": {"t2i": image, "edit": image},
        "cells": {"t2i": difference, "edit": difference},
    }
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    summary = summarize(tmp_path, {})
    both, single = preset_calls()["balanced"]
    assert summary["t2i_balanced_ratio"] == balanced_ratio(image, both, single)
    assert "balanced_error              not measured" in table(summary)
    cells = {"preset balanced": {"error": 0.01}, "euler 50": {"error": 0.02}}
    (tmp_path / "quality.json").write_text(json.dumps({"cells": cells}))
    summary = summarize(tmp_path, {})
    assert (summary["balanced_error"], summary["euler_50_error"]) == (0.01, 0.02)
    assert "not measured" not in table(summary)
