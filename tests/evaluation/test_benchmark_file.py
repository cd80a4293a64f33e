"""Benchmarks without editing the package: a .py or .yaml file by its path, and entry points of packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deepgen import registry
from deepgen.cli.app import main
from deepgen.evaluation.benchmark_file import split_name
from deepgen.evaluation.benchmarks import benchmark_names, load_benchmark
from deepgen.evaluation.report import read_results
from evaluation.benchmark_files import image, judge_answer, write
from rewards.reward_server import serving

PYTHON = '''
from dataclasses import dataclass
from deepgen.evaluation.benchmark import Benchmark, Item, ItemScore, Settings, mean

@dataclass(frozen=True, kw_only=True)
class Light(Benchmark):
    """How light pictures are, in [0, 1]."""

    name = "light"
    variants = ("day", "night")
    settings = Settings(num_inference_steps=1, height=96, width=96)

    def read_items(self, data_dir):
        return [Item(id=str(n), category="all", prompt=f"a red circle {n}") for n in range(2)], []

    def image_path(self, item, sample):
        return f"images/{item.id}-{sample}.png"

    def score(self, item, images, scorers):
        values = [sum(image.resize((1, 1)).getpixel((0, 0))) / 765 for image in images]
        rows = tuple({"light": value} for value in values)
        return ItemScore(item=item.id, category=item.category, value=mean(values), rows=rows)

    def aggregate(self, scores, protocol):
        return {"overall": mean([row["light"] for score in scores for row in score.rows])}

benchmark = Light
'''
JUDGED = """
prompts:
  - a red circle
  - prompt: a blue square
    category: squares
    questions:
      - Is it blue?
      - Is it a square?
      - Is it night?
rule: yes-no
questions:
  - Is it red?
"""


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    for index, color in enumerate([(255, 255, 255), (0, 0, 0)]):
        image(tmp_path / "pictures" / f"{index}.png", color)
    return f"images:{tmp_path / 'pictures'}"


def run(name: Path | str, model: str, output: Path, *more: str) -> int:
    return main(["eval", "run", str(name), "--model", model, "-o", str(output), *more])


def result(output: Path, label: str) -> dict[str, Any]:
    return json.loads((output / label / "result.json").read_text())


def test_a_path_is_told_from_a_name() -> None:
    assert split_name("wise:legacy") is None
    assert split_name("my/signs.yaml") == (Path("my/signs.yaml"), "")
    assert split_name("signs.py:long") == (Path("signs.py"), "long")
    assert split_name("signs.yml:") == (Path("signs.yml"), "")


def test_a_python_file_is_a_benchmark_with_its_variants(pictures: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.py", PYTHON)
    assert run(f"{tmp_path / 'mine.py'}:night", pictures, tmp_path / "run") == 0
    document = result(tmp_path / "run", "light-night")
    assert document["table"] == {"overall": 0.5}
    assert document["manifest"]["source"] == f"{tmp_path / 'mine.py'}:night"
    (read,) = read_results([tmp_path / "run"], num_draws=5)
    assert read.document["table"] == {"overall": 0.5}


def test_verdicts_of_an_edited_file_are_not_reused_and_other_prompts_are_another_run(
    pictures: str, tmp_path: Path, capsys
) -> None:
    write(tmp_path / "mine.py", PYTHON)
    assert run(tmp_path / "mine.py", pictures, tmp_path / "run") == 0
    write(tmp_path / "mine.py", PYTHON.replace("/ 765", "/ 1530"))
    assert run(tmp_path / "mine.py", pictures, tmp_path / "run") == 0
    assert result(tmp_path / "run", "light-day")["table"] == {"overall": 0.25}
    write(tmp_path / "mine.py", PYTHON.replace("a red circle", "a green circle"))
    assert run(tmp_path / "mine.py", pictures, tmp_path / "run") == 2
    assert "holds pictures of another run: items differ" in capsys.readouterr().err


def says(text: str) -> str:
    return "No." if "night" in text else "Yes, it is."


def test_a_yaml_asks_a_judge_its_questions(pictures: str, tmp_path: Path) -> None:
    write(tmp_path / "signs.yaml", JUDGED)
    with serving(judge_answer(says=says)) as server:
        judge = ["--judge-url", f"{server.url}/v1", "--judge-model", "stub", "--judge-replies", "words"]
        assert run(tmp_path / "signs.yaml", pictures, tmp_path / "run", *judge) == 0
        asked = [document["messages"][0]["content"][0]["text"] for _, document in server.requests]
    assert len(asked) == 4
    assert sum("a blue square" in text for text in asked) == 3
    table = result(tmp_path / "run", "signs")["table"]
    assert table == pytest.approx({"overall": 5 / 6, "all": 1.0, "squares": 2 / 3})


def test_a_yaml_asks_for_grades_within_its_scale(pictures: str, tmp_path: Path) -> None:
    write(tmp_path / "prompts.txt", "a red circle\n\na blue square\n")
    content = "prompts: prompts.txt\nrule: grade\nscale: [0, 10]\nquestions:\n- How round is it?\n"
    write(tmp_path / "round.yaml", content)
    benchmark = load_benchmark(str(tmp_path / "round.yaml"))
    (first, second) = benchmark.items(tmp_path)
    assert (first.id, second.prompt) == ("00000", "a blue square")
    read = benchmark.read  # pyright: ignore[reportAttributeAccessIssue]
    assert read(first, "0", "It is round.\nScore: 8") == 8
    assert read(first, "0", "**Score**: 8") == 8
    for reply in ("Score: 11", "8", "", "Score: eight"):
        assert read(first, "0", reply) is None, reply
    with serving(judge_answer(says=lambda text: "Score: 4" if "square" in text else "Score: 8")) as server:
        judge = ["--judge-url", f"{server.url}/v1", "--judge-model", "stub"]
        assert run(tmp_path / "round.yaml", pictures, tmp_path / "run", *judge) == 0
    assert result(tmp_path / "run", "round")["table"] == {"overall": 6.0}


def test_an_unclear_word_is_no_answer(tmp_path: Path) -> None:
    write(tmp_path / "signs.yaml", JUDGED)
    benchmark = load_benchmark(str(tmp_path / "signs.yaml"))
    item = benchmark.items(tmp_path)[0]
    replies = {"Yes": 1, "no.": 0, "yes or no": None, "perhaps": None, "<think>no?</think>\nyes": 1}
    read = benchmark.read  # pyright: ignore[reportAttributeAccessIssue]
    assert {reply: read(item, "0", reply) for reply in replies} == replies


def test_a_yaml_scores_with_a_reward_and_the_fields_of_its_rows(pictures: str, tmp_path: Path) -> None:
    image(tmp_path / "white.png", (255, 255, 255))
    rows = [{"prompt": text, "references": "white.png"} for text in ("keep it", "paint it black")]
    write(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "kept.yaml", "prompts: rows.jsonl\nrule: reward\nreward: psnr\noptions: {most: 50}\n")
    assert load_benchmark(str(tmp_path / "kept.yaml")).is_edit
    assert run(tmp_path / "kept.yaml", pictures, tmp_path / "run") == 0
    assert result(tmp_path / "run", "kept")["table"] == {"overall": 25.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompts: [a]\nrule: yes-no", "needs questions, a list; row 0 has none"),
        ("prompts: [a]\nrule: yes-no\nquestions: Is it?", "questions are a list of texts"),
        ("prompts: [a]\nrule: yesno\nquestions: [x]", "unknown rule 'yesno'; did you mean yes-no"),
        ("prompts: [a]\nrule: reward", "rule: reward needs the name of one"),
        ("prompts: [a]\nrule: reward\nreward: occr", "unknown reward 'occr'; did you mean ocr"),
        ("prompts: [a]\nrule: reward\nreward: unifiedreward_think", "compares pictures"),
        ("prompts: [a]\nrule: grade\nquestions: [x]\nscale: [5, 1]", "scale is"),
        ("prompts: no.txt\nrule: yes-no\nquestions: [x]", "no.txt is missing"),
        ("prompt: [a]\nrule: yes-no", "unknown field 'prompt'; did you mean prompts"),
        ("rule: yes-no", "lacks prompts"),
        ("prompts: [a]\nrule: yes-no\nquestions: [x]\nname: ../up", "no plain name"),
        ("prompts: [a]\nrule: yes-no\nquestions: [x]\nsettings: {hight: 3}", "settings: "),
        ("prompts: [{text: a}]\nrule: yes-no\nquestions: [x]", "row 0 has no prompt"),
        ("prompts: [a\nrule", "is not valid YAML"),
        ("just words", "is no benchmark"),
    ],
)
def test_what_is_wrong_with_a_yaml_is_said_in_one_line(
    content: str, message: str, tmp_path: Path, capsys
) -> None:
    write(tmp_path / "mine.yaml", content)
    assert run(tmp_path / "mine.yaml", "tiny", tmp_path / "run", "--judge-url", "http://127.0.0.1:9") == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "defines no benchmark"),
        ("\nimport nothing_of_that_name", r"mine\.py:2: ModuleNotFoundError: No module named"),
        ("benchmark = 3", "defines no benchmark"),
        (PYTHON.replace('name = "light"', ""), "says no plain name"),
    ],
)
def test_what_is_wrong_with_a_python_file_is_said(content: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.py", content)
    with pytest.raises(ValueError, match=message):
        load_benchmark(str(tmp_path / "mine.py"))
    with pytest.raises(FileNotFoundError, match="there is no benchmark at"):
        load_benchmark(str(tmp_path / "other.py"))


def test_benchmarks_of_installed_packages_are_found(tmp_path: Path, monkeypatch, capsys, caplog) -> None:
    """An installed distribution as pip leaves one: metadata with entry points, and a module."""
    write(tmp_path / "site/light_bench.py", PYTHON)
    info = tmp_path / "site/light_bench-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: light-bench\nVersion: 1.0\n")
    points = "light = light_bench:Light\nbroken = light_bench:Nothing\nwise = light_bench:Light\n"
    write(info / "entry_points.txt", f"[deepgen.benchmarks]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry._entry_points.cache_clear()
    try:
        assert {"light", "wise", "broken"} <= set(benchmark_names())
        assert benchmark_names().count("wise") == 1
        assert "offers a benchmark wise, which deepgen has itself" in caplog.text
        assert load_benchmark("light:night").label == "light-night"
        assert load_benchmark("wise").label == "wise-legacy"
        with pytest.raises(ValueError, match=r"benchmark broken of light_bench:Nothing cannot be loaded"):
            load_benchmark("broken")
        (info / "entry_points.txt").write_text(f"[deepgen.benchmarks]\n{points.splitlines()[0]}\n")
        registry._entry_points.cache_clear()
        assert main(["eval", "list", "--json"]) == 0
        assert "light" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    finally:
        registry._entry_points.cache_clear()
        sys.modules.pop("light_bench", None)


def test_the_list_shows_every_benchmark(capsys) -> None:
    assert main(["eval", "list"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:-1]] == benchmark_names()
