"""The official prompt files, where they are (DEEPGEN_BENCHDATA, or shared/benchdata beside the checkout)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepgen.evaluation.benchmarks import load_benchmark

FOLDER = Path(os.environ.get("DEEPGEN_BENCHDATA") or Path(__file__).parents[3] / "shared" / "benchdata")
NUM_ITEMS = {
    "geneval": 553,
    "cvtg2k": 2000,
    "dpg": 1065,
    "wise:legacy": 1000,
    "wise:verified": 1000,
    "corebench:all": 1080,
    "corebench:reasoning": 720,
    **{f"unigenbench:{variant}": 600 for variant in ("en", "en_long", "zh", "zh_long")},
}
here = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no official files in {FOLDER}")


@here
@pytest.mark.parametrize("name", NUM_ITEMS)
def test_official_files_have_the_hashes_and_counts_they_should(name):
    benchmark = load_benchmark(name)
    items = benchmark.items(FOLDER)
    assert len(items) == NUM_ITEMS[name]
    paths = {benchmark.image_path(item, 0) for item in items}
    assert len(paths) == len(items)


@here
@pytest.mark.parametrize(("name", "num_edits"), [("imgedit", 737), ("risebench:64", 64)])
def test_only_the_pictures_of_official_edits_are_missing_there(name, num_edits):
    benchmark = load_benchmark(name)
    assert benchmark.check_files(FOLDER) == ([], [])
    items, problems = benchmark.read_items(FOLDER)
    assert len(items) == num_edits
    assert problems == []


@here
def test_one_row_of_the_long_prompts_is_repaired_and_left_out_officially():
    items = load_benchmark("unigenbench:en_long").items(FOLDER)
    assert [item.id for item in items if item.metadata["is_repaired"]] == ["509"]
    kept = sum(len(item.metadata["points"]) for item in items if not item.metadata["is_repaired"])
    assert kept == 3915


@here
def test_the_words_of_cvtg_are_as_many_as_its_authors_state():
    from deepgen.evaluation.benchmarks.cvtg2k import target_words

    items = load_benchmark("cvtg2k").items(FOLDER)
    assert sum(len(target_words(item.prompt)) for item in items) == 16_206


@here
def test_the_questions_of_corebench_are_13536():
    assert load_benchmark("corebench:all").num_questions(load_benchmark("corebench:all").items(FOLDER)) == (
        4 * 13_536
    )
