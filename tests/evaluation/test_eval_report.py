"""The page needs nobody, says what is partial, and keeps apart what cannot be compared."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from deepgen.cli.app import main
from deepgen.evaluation.benchmark import ItemScore, settings_with
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.published import PUBLISHED
from deepgen.evaluation.report import compare, groups_of, markdown, read_results
from deepgen.evaluation.report_page import bars, page
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.statistics import intervals, paired
from evaluation.benchmark_files import NoiseModel, write_all


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


def test_published_rows_stand_for_numbers_there_are():
    for label, reference in PUBLISHED.items():
        name, _, variant = label.partition("-")
        assert load_benchmark(f"{name}:{variant}").label == label
        assert load_benchmark(f"{name}:{variant}").headline == reference.metric
