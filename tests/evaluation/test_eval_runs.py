"""Runs: nothing is drawn or scored twice, nothing is lost, and what is wrong is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from deepgen.evaluation.benchmark import settings_with
from deepgen.evaluation.benchmarks import benchmark_names, load_benchmark
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge
from deepgen.evaluation.models import ImageFolder
from deepgen.evaluation.runner import RunConfig, Workers, run, select
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.seeds import seed_of
from evaluation.benchmark_files import NoiseModel, hashes, judge_answer, write, write_all, write_gedit
from rewards.reward_server import serving


class FixedDetector:
    """Sees one red cat in everything."""

    version = "fixed-1"

    def __call__(self, image):
        return {"cat": [(0, 0, 9, 9, 0.95), (0, 0, 9, 9, 0.2)]}

    def colors(self, image, name, indices):
        return ["red" for _ in indices]


class FixedReader:
    version = "reader-1"

    def __call__(self, image):
        return ["Word0 WORD1"]


SIGHT = Scorers(detector=FixedDetector(), reader=FixedReader())


@pytest.fixture
def data(tmp_path):
    return write_all(tmp_path / "data")


def go(name, data, output, model, scorers=SIGHT, team=None, config=None, **changes):
    benchmark = load_benchmark(name)
    settings = settings_with(benchmark.settings, height=16, width=16, num_inference_steps=1, **changes)
    given = {"output_dir": output, "data_dir": data, "allow_altered": True, **(config or {})}
    return run(benchmark, model, settings, RunConfig(**given), scorers, team)


class RefusingModel(NoiseModel):
    """Cannot draw such pictures at all, as a pipeline that refuses a size."""

    name = "refusing"

    def draw(self, items, seeds, settings, generator=None):
        raise ValueError("height 16 is not a multiple of 32")


def test_a_run_that_is_refused_leaves_no_manifest_and_its_folder_is_free(data, tmp_path):
    with pytest.raises(ValueError, match="not a multiple"):
        go("geneval", data, tmp_path / "out", RefusingModel())
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="needs a detector"):
        go("geneval", data, tmp_path / "out", NoiseModel(), Scorers())
    assert not (tmp_path / "out").exists(), "what scoring lacks is said before anything is drawn"
    with pytest.raises(KeyboardInterrupt):
        go("geneval", data, tmp_path / "out", NoiseModel(killed_after=0))
    assert not (tmp_path / "out").exists()
    go("geneval", data, tmp_path / "out", NoiseModel(), num_samples=1)
    with pytest.raises(ValueError, match="not a multiple"):
        go("cvtg2k", data, tmp_path / "out", RefusingModel())
    assert (tmp_path / "out/geneval/result.json").is_file(), "others in the same output stay"


def test_a_manifest_without_a_picture_blocks_nothing(data, tmp_path):
    """What a kill leaves, which has no moment to tidy up."""
    go("geneval", data, tmp_path / "out", NoiseModel(), num_samples=1)
    for path in (tmp_path / "out/geneval").glob("pictures-*.jsonl"):
        path.unlink()
    assert go("geneval", data, tmp_path / "out", NoiseModel(), num_samples=2)["num_expected"] == 8
    with pytest.raises(ValueError, match="holds pictures of another run"):
        go("geneval", data, tmp_path / "out", NoiseModel(), num_samples=1)


def test_a_run_killed_twice_draws_every_picture_once_and_equals_a_whole_one(data, tmp_path):
    whole = go("geneval", data, tmp_path / "whole", NoiseModel())
    drawn = []
    for limit in (5, 6, None):
        model = NoiseModel(killed_after=limit)
        if limit is None:
            result = go("geneval", data, tmp_path / "parts", model, config={"batch_size": 1})
        else:
            with pytest.raises(KeyboardInterrupt):
                go("geneval", data, tmp_path / "parts", model, config={"batch_size": 1})
        drawn += model.drawn
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "parts")
    assert result["table"] == whole["table"]
    again = NoiseModel()
    go("geneval", data, tmp_path / "parts", again)
    assert again.drawn == []
    kept = 16  # 4 prompts of 4 samples
    assert len(drawn) <= kept + 2 * 3  # of a call that was killed, up to 3 pictures were not written yet


def test_geneval_is_written_in_its_layout_and_scored_by_its_rules(data, tmp_path):
    result = go("geneval", data, tmp_path, NoiseModel())
    folder = tmp_path / "geneval" / "images" / "00003"
    assert json.loads((folder / "metadata.jsonl").read_text())["prompt"] == "two cats"
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [f"000{i}.png" for i in range(4)]
    assert result["table"]["single_object"] == 0.5  # the cat, not the dog
    assert result["table"]["colors"] == 1
    assert result["table"]["counting"] == 0
    assert result["table"]["overall"] == pytest.approx(0.5)


def test_a_lost_or_changed_picture_is_drawn_again_and_nothing_else(data, tmp_path):
    go("geneval", data, tmp_path, NoiseModel())
    before = hashes(tmp_path)
    (tmp_path / "geneval/images/00001/samples/0002.png").unlink()
    (tmp_path / "geneval/images/00002/samples/0000.png").write_bytes(b"half")
    (tmp_path / "geneval/images/00000/.0123.part").write_bytes(b"half")
    with (tmp_path / "geneval/pictures-0.jsonl").open("a") as file:
        file.write('{"item": "0000')  # a line a kill cut off
    model = NoiseModel()
    go("geneval", data, tmp_path, model)
    assert sorted(model.drawn) == ["00001", "00002"]
    assert hashes(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))


def test_pictures_and_scores_do_not_depend_on_batch_size_or_processes(data, tmp_path):
    one = go("geneval", data, tmp_path / "one", NoiseModel())
    go("geneval", data, tmp_path / "big", NoiseModel(), config={"batch_size": 3})
    # rank 1 first, then rank 0, which adds up what both have done
    config = {"batch_size": 1}
    drawn = []
    (tmp_path / "two/geneval").mkdir(parents=True)  # the first process makes it, and here it comes last
    for rank in (1, 0):
        model = NoiseModel()
        team = Workers(rank=rank, count=2)
        result = go("geneval", data, tmp_path / "two", model, team=team, config=config)
        drawn.append(set(model.drawn))
    assert drawn[0].isdisjoint(drawn[1])
    assert hashes(tmp_path / "one") == hashes(tmp_path / "big") == hashes(tmp_path / "two")
    assert result["table"] == one["table"]


def test_seeds_are_of_the_item_and_the_sample_alone():
    assert seed_of(42, "geneval", "00000", 0) == seed_of(42, "geneval", "00000", 0)
    others = {seed_of(*key) for key in [(42, "geneval", "00000", 1), (43, "geneval", "00000", 0)]}
    others |= {seed_of(42, "dpg", "00000", 0), seed_of(42, "geneval", "00001", 0)}
    assert len(others) == 4
    assert all(0 <= seed < 2**53 for seed in others)
    assert seed_of(42, "geneval", "00000", 0) not in others


def test_a_sequence_goes_on_where_it_was_killed(data, tmp_path):
    config = {"seeds": "sequential", "batch_size": 1}
    go("geneval", data, tmp_path / "whole", NoiseModel(), config=config)
    with pytest.raises(KeyboardInterrupt):
        go("geneval", data, tmp_path / "parts", NoiseModel(killed_after=6), config=config)
    go("geneval", data, tmp_path / "parts", NoiseModel(), config=config)
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "parts")
    with pytest.raises(ValueError, match="set_up differ"):
        go("geneval", data, tmp_path / "parts", NoiseModel(), config={**config, "batch_size": 2})


def test_a_folder_of_another_run_is_refused_by_name(data, tmp_path):
    go("geneval", data, tmp_path, NoiseModel())
    with pytest.raises(ValueError, match="settings differ"):
        go("geneval", data, tmp_path, NoiseModel(), seed=1)
    other = NoiseModel()
    other.fingerprint = "noise-2"
    with pytest.raises(ValueError, match="fingerprint differ"):
        go("geneval", data, tmp_path, other)


def test_too_few_verdicts_are_no_score_unless_partial_is_allowed(data, tmp_path):
    model = NoiseModel(refuses="a dog")
    with pytest.raises(ValueError, match=r"00001: sample 0: refused for its content"):
        go("geneval", data, tmp_path, model, config={"batch_size": 1})
    document = json.loads((tmp_path / "geneval/result.json").read_text())
    assert document["table"] == {}
    result = go("geneval", data, tmp_path, model, config={"batch_size": 1, "allow_partial": True})
    assert result["is_partial"]
    assert result["coverage"] == 0.75
    assert result["table"]["single_object"] == 1


def test_a_folder_with_gaps_and_broken_and_doubled_pictures_is_described(data, tmp_path):
    go("geneval", data, tmp_path / "drawn", NoiseModel())
    samples = tmp_path / "drawn/geneval/images/00000/samples"
    (samples / "0001.png").write_bytes((samples / "0000.png").read_bytes())
    (samples / "0002.png").write_bytes((samples / "0000.png").read_bytes()[:300])
    (samples / "0003.png").unlink()
    model = ImageFolder("images:drawn", tmp_path / "drawn")
    result = go("geneval", data, tmp_path / "scored", model, config={"allow_partial": True})
    problems = "\n".join(result["problems"])
    assert "0002.png is no whole picture" in problems or "0003.png is missing" in problems
    assert result["num_judged"] < result["num_expected"] == 16


def test_a_limit_takes_its_share_of_every_category():
    benchmark = load_benchmark("shapes")
    items = benchmark.items(Path())
    chosen = select(items, 24)
    assert [sum(item.category == kind for item in chosen) for kind in ("single", "two", "all")] == [3, 3, 3]
    assert len(chosen) == 24
    assert [item.id for item in chosen] == sorted(item.id for item in chosen)
    assert len(select(items, 3)) == 3
    assert select(items, 24) == chosen
    assert select(items, None) == items


def test_missing_altered_and_doubled_data_are_all_named(data, tmp_path):
    with pytest.raises(ValueError, match=r"is altered.*prompts of single_object instead of 80"):
        load_benchmark("geneval").items(data)
    (data / "cvtg2k/CVTG/2.json").unlink()
    (data / "cvtg2k/CVTG/3.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.json is missing.*3\.json is missing"):
        load_benchmark("cvtg2k").items(data, allow_altered=True)
    row = {"id": "animal/none.jpg", "prompt": "add", "edit_type": "add"}
    write(data / "imgedit/basic_edit.json", {"1": row})
    with pytest.raises(ValueError, match=r"none\.jpg, which is missing"):
        load_benchmark("imgedit").items(data, allow_altered=True)
    rows = json.loads((data / "risebench/data_total.json").read_text())
    write(data / "risebench/data_total.json", [rows[0], rows[0]])
    with pytest.raises(ValueError, match="temporal_reasoning_1 is there twice"):
        load_benchmark("risebench:64").items(data, allow_altered=True)


def test_cvtg_reads_what_the_engine_found(data, tmp_path):
    result = go("cvtg2k", data, tmp_path, NoiseModel())
    assert result["table"]["word_accuracy area 2"] == 1
    assert result["table"]["word_accuracy"] == pytest.approx(8 * 2 / (2 * (2 + 3 + 4 + 5)))
    assert (tmp_path / "cvtg2k/images/CVTG-Style/5/0.png").is_file()


# --- judges -------------------------------------------------------------------------------------------------

JUDGED = {
    "wise:legacy": ("overall", (0.7 * 2 + 0.2 + 0.1) / 2),
    "wise:verified": ("overall", 1.0),
    "dpg": ("overall", 100.0),
    "unigenbench": ("overall", 50.0),
    "corebench:reasoning": ("reasoning", 100.0),
    "gedit:en": ("G_O", 6.0),
    "imgedit": ("overall", 3.0),
    "risebench:64": ("accuracy", 75.0),  # the one free of consistency is wrong by the old rule
    "unireditbench": ("overall", 100.0),
}


def judge(server, cache, **options):
    config = JudgeConfig(url=f"{server.url}/v1", model="stub", retries=0, **options)
    return Scorers(judge=PromptedJudge(config, cache_dir=cache))


def test_every_benchmark_with_a_judge_is_tried_here():
    named = {name.partition(":")[0] for name in JUDGED}
    assert named == {name for name in benchmark_names() if "judge" in load_benchmark(name).needs}


@pytest.mark.parametrize("name", JUDGED)
def test_a_judged_benchmark_goes_end_to_end_and_a_second_scoring_asks_nothing(name, data, tmp_path):
    if name == "gedit:en":
        write_gedit(data)
    metric, expected = JUDGED[name]
    folder = tmp_path / "run"
    with serving(judge_answer()) as server:
        scorers = judge(server, tmp_path / "cache", concurrency=4)
        with pytest.raises(KeyboardInterrupt):
            go(name, data, folder, NoiseModel(killed_after=1), scorers, config={"batch_size": 1})
        result = go(name, data, folder, NoiseModel(), scorers, config={"batch_size": 1})
        asked = len(server.requests)
        benchmark = load_benchmark(name)
        assert asked == benchmark.num_questions(benchmark.items(data, allow_altered=True))
        for file in folder.rglob("scores-*.jsonl"):
            file.unlink()
        other = judge(server, tmp_path / "cache")
        assert go(name, data, folder, NoiseModel(), other)["table"] == result["table"]
        assert len(server.requests) == asked
        assert other.judge.usage.cached == asked
    assert result["table"][metric] == pytest.approx(expected)
    assert "prompts ours" in result["manifest"]["scorer"]


def test_dpg_without_its_table_draws_but_does_not_score(data, tmp_path):
    (data / "dpg/dpg_bench.csv").unlink()
    with pytest.raises(ValueError, match=r"put dpg_bench\.csv there"):
        go("dpg", data, tmp_path, NoiseModel())
    assert go("dpg", data, tmp_path, NoiseModel(), config={"has_scoring": False}) is None
    with Image.open(tmp_path / "dpg/images/partiprompts97.png") as grid:
        assert grid.size == (32, 32)
    assert len(list((tmp_path / "dpg/images").iterdir())) == 2


@pytest.mark.parametrize(("protocol", "overall"), [("official", 100.0), ("fixed", 50.0)])
def test_a_protocol_repeats_or_mends_the_fault_of_the_official_scorer(protocol, overall, data, tmp_path):
    def says(text):  # the first row of the table is partiprompts97's, and its other question depends on it
        return "no" if "partiprompts97" in text else "yes"

    benchmark = replace(load_benchmark("dpg"), protocol=protocol)
    settings = settings_with(benchmark.settings, height=16, width=16, num_samples=1)
    config = RunConfig(output_dir=tmp_path, data_dir=data, allow_altered=True)
    with serving(judge_answer(says=says)) as server:
        result = run(benchmark, NoiseModel(), settings, config, judge(server, None))
    assert result["table"]["overall"] == overall
    assert result["manifest"]["protocol"] == protocol
    assert result["manifest"]["protocol_note"] == benchmark.notes[protocol]


@pytest.mark.slow
def test_two_real_processes_give_the_pictures_and_scores_of_one(data, tmp_path):
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, "-m", "deepgen", "eval", "run", "shapes", "wise"]
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with serving(judge_answer()) as server:
        options = ["--limit", "6", "--steps", "2", "--size", "96", "--data", str(data)]
        options += ["--allow-altered-data", "--judge-url", f"{server.url}/v1", "--judge-model", "stub", "-o"]
        subprocess.run([*alone, *options, str(tmp_path / "one")], check=True, env=environment)
        both = [*together, "--master-port", "29761", *alone[1:], *options, str(tmp_path / "two")]
        subprocess.run(both, check=True, env=environment)
    assert len(hashes(tmp_path / "one")) == 12
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    for folder in ("shapes-generation", "wise-legacy"):
        one, two = (
            json.loads((tmp_path / name / folder / "result.json").read_text()) for name in ("one", "two")
        )
        assert one["table"] == two["table"]
        assert one["items"] == two["items"]
        assert (one["manifest"]["processes"], two["manifest"]["processes"]) == (1, 2)
    assert (tmp_path / "two/wise-legacy/pictures-1.jsonl").is_file(), "the second process drew its share"
