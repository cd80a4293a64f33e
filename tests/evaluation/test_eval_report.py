"""The page needs nobody, says what is partial, and keeps apart what cannot be compared."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from deepgen.cli.app import main
from deepgen.evaluation.benchmark import ItemScore, settings_with
from deepgen.evaluation.benchmarks import load_benchmark, unireditbench
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge
from deepgen.evaluation.published import PUBLISHED, differences, reference_of
from deepgen.evaluation.report import compare, groups_of, markdown, read_results
from deepgen.evaluation.report_page import bars, page
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.statistics import intervals, paired
from evaluation.benchmark_files import NoiseModel, judge_answer, write_all
from rewards.reward_server import serving


class Grey:
    """Reads as many of the words as the picture's first value says."""

    version = "grey-1"

    def __call__(self, image):
        value = image.getpixel((0, 0))[0] // 43
        return [" ".join(f"word{index}" for index in range(value))]


def go(tmp_path, output, seed=42, limit=None):
    data = tmp_path / "data"
    if not data.exists():
        write_all(data)
    benchmark = load_benchmark("cvtg2k")
    settings = settings_with(benchmark.settings, height=16, width=16, seed=seed)
    config = RunConfig(output_dir=tmp_path / output, data_dir=data, allow_altered=True, limit=limit)
    return run(benchmark, NoiseModel(), settings, config, Scorers(reader=Grey()))


def test_the_page_holds_tables_bars_and_pictures_and_asks_nobody(tmp_path, capsys):
    result = go(tmp_path, "one")
    output = tmp_path / "report.html"
    assert main(["eval", "report", str(tmp_path / "one"), "-o", str(output), "--draws", "20"]) == 0
    text = output.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    assert "url(" not in text
    assert text.count('src="data:image/jpeg;base64,') == 8
    assert f"{result['table']['word_accuracy']:.4f}" in text
    assert "GLM-Image, published" in text
    assert '"fingerprint": "noise-1"' in text.replace("&quot;", '"')
    for svg in re.findall(r"<svg.*?</svg>", text):
        assert len(ElementTree.fromstring(svg)) > 4
    table = (tmp_path / "report.md").read_text()
    assert "| noise (one) |" in table
    assert str(output) in capsys.readouterr().out


def test_partial_results_are_marked_everywhere(tmp_path):
    assert go(tmp_path, "part", limit=4)["is_partial"]
    results = read_results([tmp_path / "part"], num_draws=0)
    for text in (page(results), markdown(results)):
        assert "PARTIAL: 4 of 4 pictures judged, 4 of 8 items drawn" in text
        assert "(partial)" in text
        assert "no intervals" in text


def test_words_from_elsewhere_cannot_become_markup(tmp_path):
    go(tmp_path, "one")
    path = tmp_path / "one/cvtg2k/result.json"
    document = json.loads(path.read_text())
    for item in document["items"]:
        item["words"] = item["prompt"] = "<script>alert(1)</script>"
    document["problems"] = ["<img src=x>"]
    path.write_text(json.dumps(document))
    text = page(read_results([tmp_path / "one"], num_draws=0))
    assert "<script" not in text
    assert "<img src=x>" not in text


def test_runs_made_in_different_ways_do_not_share_a_table(tmp_path):
    go(tmp_path, "one")
    go(tmp_path, "same")
    go(tmp_path, "part", limit=4)
    results = read_results([tmp_path / name for name in ("one", "same", "part")], num_draws=0)
    assert sorted(len(group) for group in groups_of(results)) == [1, 2]
    assert markdown(results).count("## cvtg2k") == 2
    assert bars(results[:2], ["ned"]).count("<rect") == 2


def test_two_runs_are_compared_item_by_item(tmp_path, capsys):
    go(tmp_path, "one")
    go(tmp_path, "two", seed=7)
    assert main(["eval", "compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    said = capsys.readouterr().out
    assert "of 8 items" in said
    assert "drawn differently: settings" in said
    path = tmp_path / "two/cvtg2k/result.json"
    path.write_text(path.read_text().replace("grey-1", "grey-2"))
    runs = [read_results([tmp_path / name], num_draws=0) for name in ("one", "two")]
    with pytest.raises(ValueError, match=r"scored by .*grey-1 and by .*grey-2"):
        compare(*runs)


def test_a_folder_without_results_is_named(tmp_path, capsys):
    assert main(["eval", "report", str(tmp_path), "-o", str(tmp_path / "x.html")]) == 2
    assert "holds no result.json" in capsys.readouterr().err


# --- statistics ---------------------------------------------------------------------------------------------


def score(name: str, value: float, category: str = "a") -> ItemScore:
    return ItemScore(item=name, category=category, value=value)


def mean_of(scores):
    return {"mean": sum(score.value for score in scores) / len(scores)}


def test_an_interval_is_about_as_wide_as_theory_says():
    scores = [score(str(index), index % 2) for index in range(400)]
    low, high = intervals(scores, mean_of, num_draws=400)["mean"]
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.2)


def test_categories_keep_their_size_and_small_ones_have_no_interval():
    scores = [score(f"a{index}", 1.0) for index in range(8)]
    scores += [score(f"b{index}", 0.0, "b") for index in range(8)]
    assert intervals(scores, mean_of, num_draws=20)["mean"] == (0.5, 0.5)
    assert intervals([*scores, score("c", 1.0, "c")], mean_of, num_draws=20) == {}


def test_a_paired_test_sees_a_steady_difference_and_no_other():
    first = {str(index): float(index % 3) for index in range(30)}
    better = {name: value + 1 for name, value in first.items()}
    test = paired(first, better)
    assert test.difference == test.interval[0] == test.interval[1] == 1
    assert test.p_value < 0.001
    assert (test.wins, test.losses, test.ties) == (30, 0, 0)
    swapped = {name: value + (1 if int(name) % 2 else -1) for name, value in first.items()}
    assert paired(first, swapped).p_value > 0.5
    assert paired(first, first).p_value == 1
    with pytest.raises(ValueError, match="no item"):
        paired({"a": 1.0}, {"b": 1.0})


def judged(tmp_path, output, name, model="stub", prompts=None):
    data = tmp_path / "data"
    if not data.exists():
        write_all(data)
    benchmark = load_benchmark(name)
    settings = settings_with(benchmark.settings, height=16, width=16)
    config = RunConfig(output_dir=tmp_path / output, data_dir=data, allow_altered=True)
    with serving(judge_answer(model)) as server:
        options = JudgeConfig(url=f"{server.url}/v1", model=model, retries=0)
        judge = PromptedJudge(options, prompts_dir=prompts)
        return run(benchmark, NoiseModel(), settings, config, Scorers(judge=judge))


def test_a_published_number_stands_beside_ours_with_judge_prompts_and_rewriting(tmp_path):
    result = judged(tmp_path, "one", "wise:legacy")
    results = read_results([tmp_path / "one"], num_draws=0)
    for text in (markdown(results), page(results).replace("&#x27;", "'")):
        assert "not stated (official: gpt-4o-2024-05-13)" in text
        assert "the official ones, not the _rewrite files" in text
        assert "the model reasons before it draws" in text, "BAGEL with its chain of thought"
        assert "stub-t0, our own wording" in text
        assert "NOT MADE LIKE THE PUBLISHED ROWS: judge: stub-t0 here, not stated" in text
    recorded = result["manifest"]["published"]
    assert recorded["judge"] == "not stated (official: gpt-4o-2024-05-13)"
    assert recorded["rewriting"]["DeepGen 1.0 SFT"] == "none"
    assert recorded["made_differently"][1].startswith("the judge was asked in our own wording")
    assert recorded["made_differently"][2].startswith("prompts: files that are not the official ones")
    assert result["manifest"]["scored_by"] == {"judge": "stub-t0"}


def test_a_run_that_was_made_like_the_published_rows_is_said_to_differ_in_nothing():
    manifest = {
        "scorer": "x prompts given",
        "scored_by": {"judge": "Qwen/Qwen3-VL-32B-Thinking-t0"},
        "drawn_prompts": "official files",
        "rewriting": "none: prompts are drawn as the benchmark has them",
        "published_settings": True,
    }
    reference = PUBLISHED["corebench-reasoning"]
    assert differences(manifest, reference) == []
    other = manifest | {"scored_by": {"judge": "gpt-5-t0"}}
    assert differences(other, reference) == ["judge: gpt-5-t0 here, Qwen3-VL-32B-Thinking there"]
    unknown = manifest | {"rewriting": "not known: pictures of another program"}
    assert "rewriting: not known" in differences(unknown, reference)[0]
    old = {key: manifest[key] for key in ("scorer", "published_settings")}
    assert any("not recorded here" in line for line in differences(old, reference))
    assert "not stated" in differences(manifest, PUBLISHED["imgedit"])[0], "not stated is not the same"


def test_variants_of_the_same_numbers_have_the_published_rows_too():
    assert reference_of("cvtg2k-clip") == PUBLISHED["cvtg2k"]
    assert reference_of("dpg-vqa") == PUBLISHED["dpg"]
    assert reference_of("shapes-edit") is None
    for label, reference in PUBLISHED.items():
        assert reference.judge, label
        assert reference.prompts, label
        assert all(reference.rewriting(name) for name in reference.rows)


# --- values by item -----------------------------------------------------------------------------------------

GEDIT_ROW = {"task_type": "ps_human", "intersection": False}
DPG_QUESTIONS = [
    {"id": 1, "parents": [], "tuple": "entity - whole (a)", "is_first_row": True},
    {"id": 2, "parents": [], "tuple": "entity - whole (b)"},
    {"id": 3, "parents": [2], "tuple": "attribute - color (c)"},
]
POINTS = ["Style", "Grammar - Negation", "Grammar - Order"]
ROWS = {  # benchmark: rows of single items, as its `row` makes them
    "geneval": [{"tag": "colors", "prompt": "1", "correct": each} for each in (True, False)],
    "dpg": [
        {"questions": DPG_QUESTIONS, "answers": {"1": one, "2": two, "3": True}}
        for one in (True, False)
        for two in (True, False)
    ],
    "unigenbench:en": [
        {"testpoints": POINTS, "scores": scores, "is_repaired": is_repaired}
        for scores in ([1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1])
        for is_repaired in (False, True)
    ],
    "wise:legacy": [{"prompt_id": 1, "score": each} for each in (0.1, 0.5, 1.0)],
    "wise:verified": [{"prompt_id": 1, "score": each} for each in (0, 1)],
    "corebench:reasoning": [{"task": "R-LR", "score": each} for each in (0.0, 0.3, 1.0)],
    "cvtg2k": [
        {"set": "CVTG", "area": 2, "words": words, "right": right, "likeness": likeness}
        for words, right, likeness in ((4, 1, 3.9), (4, 2, 2.1), (5, 2, 4.0), (3, 3, 3.0))
    ],
    "gedit:en": [
        {**GEDIT_ROW, "SC": sc, "PQ": pq, "O": (sc * pq) ** 0.5} for sc, pq in ((4, 9), (9, 1), (5, 5))
    ],
    "imgedit": [{"edit_type": "add", "score": each} for each in (1.0, 2.33, 4.0)],
    "risebench:full": [
        {"category": "temporal_reasoning", "consistency": c, "reasoning": r, "quality": q}
        for c, r, q in ((5, 5, 5), (1, 5, 5), (None, 5, 4), (5, 1, 5), (3, 4, 2))
    ],
    "unireditbench": [
        {"name": "maze", "world": "game", "consistency": c, "reasoning": r, "quality": q}
        for c, r, q in ((5, 5, 5), (1, 5, 5), (5, 1, 5), (3, 4, 2))
    ],
}


def value_of(row):
    """An item's value as `row` of its benchmark gives it, where that is what items are compared by."""
    if row.get("name") == "maze":
        return unireditbench.score(row["consistency"], row["reasoning"], row["quality"])
    return next((row[key] for key in ("score", "O", "correct") if key in row), 0.0)


def test_every_published_benchmark_is_compared_here():
    assert {name.partition(":")[0] for name in ROWS} == {label.partition("-")[0] for label in PUBLISHED}


@pytest.mark.parametrize("protocol", ["official", "fixed"])
@pytest.mark.parametrize("name", ROWS)
def test_items_are_compared_by_the_rule_of_the_aggregate(name, protocol):
    """The table of an item alone, among items that give the same context, is higher where its value is."""
    benchmark = load_benchmark(name, protocol)
    metric = benchmark.item_metric or benchmark.headline
    verdicts = [
        ItemScore(item=str(index), category="a", value=float(value_of(row)), rows=(row,))
        for index, row in enumerate(ROWS[name])
    ]
    values = benchmark.item_values(verdicts, protocol)
    context = []  # what changes a rule for all items, such as a sample that is free of consistency
    if name.startswith("risebench"):
        context = [verdict for verdict in verdicts if verdict.rows[0]["consistency"] is None]
    known = []
    for verdict in verdicts:
        value = values[verdict.item]
        if value is None:
            with pytest.raises(ValueError, match="no values"):
                benchmark.aggregate([verdict], protocol)
            continue
        table = benchmark.aggregate([verdict, *context], protocol)
        known.append((value, table.get(metric, next(iter(table.values())))))
    assert len(known) >= 2
    for (value, number), (other, second) in itertools.combinations(known, 2):
        assert (value > other) == (number > second + 1e-9), (name, value, other, number, second)
        assert (value < other) == (number + 1e-9 < second), (name, value, other, number, second)


def test_published_rows_stand_for_numbers_there_are():
    for label, reference in PUBLISHED.items():
        name, _, variant = label.partition("-")
        assert load_benchmark(f"{name}:{variant}").label == label
        assert load_benchmark(f"{name}:{variant}").headline == reference.metric
