"""What judges, services and files really send when they go wrong, tried on every judged benchmark.

Each kind of fault is a finding of its item, is asked again where that helps, and is never a grade.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.evaluation.benchmark import ItemScore, settings_with
from deepgen.evaluation.benchmark_file import load_benchmark_file
from deepgen.evaluation.benchmarks import benchmark_names, load_benchmark
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.rewards.http import Connection
from evaluation.benchmark_files import NoiseModel, image, judge_answer, judge_says, write_all, write_gedit
from rewards.reward_server import serving

JUDGED = (
    *("corebench:reasoning", "dpg", "gedit:en", "imgedit", "risebench:64", "unigenbench:en", "unireditbench"),
    *("wise:legacy", "wise:verified", "mine.yaml"),
)
FAST = ("corebench:reasoning", "gedit:en", "risebench:64", "mine.yaml")  # the way is the same in all
WITH_SLOW = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in JUDGED]
OWN = "prompts: [a red circle]\nrule: grade\nscale: [1, 5]\nquestions: [how red is it]\nsamples: 1\n"
PROSE = "What a lovely image! It has everything one could wish for, 9 stars."
GERMAN = "Das Bild erfüllt die Anweisung vollständig. Ergebnis: sehr gut."
CHINESE = "图像质量很好，得分：五分。"


def message(text: str | None, model: str = "stub", reason: str = "stop") -> tuple[int, Any]:
    return 200, {"model": model, "choices": [{"message": {"content": text}, "finish_reason": reason}]}


def half(right: str) -> str:
    return '{"reasoning": "so", "score": [9, ' if "{" in right else right[: len(right) // 3]


# name: what the endpoint answers to a question whose right answer is the argument; what the finding says
BAD: dict[str, tuple[Callable[[str], Any], str]] = {
    "prose": (lambda right: message(PROSE), "no readable answer"),
    "half a JSON": (lambda right: message('{"reasoning": "it is", "score": ['), "no readable answer"),
    "a cut reply": (lambda right: message(right[: len(right) // 2], reason="length"), "cut off"),
    "thinking without an end": (lambda right: message(f"<think>It is {right}, or rather"), "thinking"),
    "another language": (lambda right: message(GERMAN), "no readable answer"),
    "a language without blanks": (lambda right: message(CHINESE), "no readable answer"),
    "nothing in the message": (lambda right: message(""), "said nothing"),
    "no message": (lambda right: (200, {"error": {"message": "overloaded"}}), "is no chat endpoint"),
    "an empty body": (lambda right: (200, ""), "did not answer with JSON"),
    "a body cut in the middle": (lambda right: (200, '{"choices": [{"mess'), "did not answer with JSON"),
    "a refusal": (lambda right: (400, {"error": "content policy"}), "answered 400"),
}
ONCE = ("a refusal",)  # what would be answered the same way again


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_all(tmp_path_factory.mktemp("data"))
    write_gedit(folder)
    (folder / "mine.yaml").write_text(OWN)
    return folder


def says(text: str) -> str:
    return "Score: 4" if "how red" in text else judge_says(text)


@pytest.fixture(scope="module")
def endpoint():
    """A server that answers well, or as `.bad` says for as many questions as `.left`."""

    class Endpoint:
        bad: Callable[[str], Any] | None = None
        left = 0

        def __init__(self) -> None:
            self.fine = judge_answer(says=says)
            self.asked: list[Any] = []

        def __call__(self, path: str, document: Any) -> tuple[int, Any]:
            self.asked.append(document)
            if self.bad is not None and self.left > 0:
                self.left -= 1
                return self.bad(says(document["messages"][0]["content"][0]["text"]))
            return self.fine(path, document)

        def fails(self, bad: Callable[[str], Any] | None = None, times: int = 0) -> None:
            self.bad, self.left, self.asked = bad, times, []

    made = Endpoint()
    with serving(made) as server:
        made.url = f"{server.url}/v1"  # type: ignore[attr-defined]
        yield made


def judge(endpoint: Any, cache: Path | None = None, **options: Any) -> Scorers:
    given = {"retries": 0, "concurrency": 1, "replies": "words", **options}
    config = JudgeConfig(url=endpoint.url, model="stub", **given)
    return Scorers(judge=PromptedJudge(config, cache_dir=cache))


def scored(name: str, data: Path, scorers: Scorers) -> ItemScore:
    """The verdict on one picture of the benchmark's last item, which has the most questions in some."""
    if name.endswith(".yaml"):
        benchmark: Any = load_benchmark_file(data / name, "", "official")
    else:
        # officially, words of CoReBench's judge that are neither yes nor no are an answer that does not count
        benchmark = load_benchmark(name, "fixed" if name.startswith("corebench") else "official")
    items = benchmark.items(data, allow_altered=True)
    item = items[-1] if name != "risebench:64" else items[0]
    return benchmark.score(item, [Image.new("RGB", (16, 16), "red")], scorers)


def attempts(name: str) -> int:
    return 3 if name.endswith(".yaml") else load_benchmark(name).attempts  # type: ignore[attr-defined]


def test_every_judged_benchmark_is_tried_here() -> None:
    judged = {name for name in benchmark_names() if "judge" in load_benchmark(name).needs}
    assert {name.partition(":")[0] for name in JUDGED} == judged | {"mine.yaml"}


@pytest.mark.parametrize("name", WITH_SLOW)
def test_a_bad_reply_is_a_finding_is_asked_again_and_is_never_a_grade(name, data, endpoint, tmp_path) -> None:
    endpoint.fails()
    right = scored(name, data, judge(endpoint))
    assert right.value is not None
    assert len(endpoint.asked) == right.num_questions
    for kind, (bad, reason) in BAD.items():
        tries = 1 if kind in ONCE else attempts(name)
        cache = tmp_path / kind
        endpoint.fails(bad, tries)  # the first question never gets an answer
        failed = scored(name, data, judge(endpoint, cache))
        assert failed.value is None, kind
        assert (failed.num_questions, failed.num_answered) == (right.num_questions, right.num_questions - 1)
        (problem,) = failed.problems
        assert reason in problem, kind
        assert len(endpoint.asked) == tries + right.num_questions - 1, kind
        endpoint.fails()  # the next run asks that question alone
        again = scored(name, data, judge(endpoint, cache))
        assert len(endpoint.asked) == 1, kind
        assert replace(again, words="") == replace(right, words=""), kind
        if kind not in ONCE:
            endpoint.fails(bad, tries - 1)  # an answer at the last attempt is as good as one at the first
            late = scored(name, data, judge(endpoint))
            assert replace(late, words="") == replace(right, words=""), kind


@pytest.mark.parametrize("name", JUDGED)
def test_a_fence_in_a_fence_and_whole_thinking_do_not_change_a_grade(name, data, endpoint) -> None:
    """Of our own prompts, whose replies are JSON, and of words behind thinking."""
    endpoint.fails()
    right = scored(name, data, judge(endpoint))
    endpoint.fails(lambda reply: message(f"<think>{PROSE}\nScore: 0, no.</think>\n\n{reply}"), 99)
    assert scored(name, data, judge(endpoint)).value == right.value

    def fenced(document: Any) -> tuple[int, Any]:
        wanted = document["response_format"]["json_schema"]["schema"]["properties"]
        reply = {key: _valid(schema) for key, schema in wanted.items()}
        text = json.dumps(reply, indent=1)
        return message(f"````markdown\n```json\n{text}\n```\n````") if endpoint.bad else message(text)

    values = []
    for wraps in (None, PROSE):
        endpoint.bad = None
        with serving(lambda path, document: fenced(document)) as server:
            endpoint.bad = wraps
            config = JudgeConfig(url=f"{server.url}/v1", model="stub", retries=0)
            values.append(scored(name, data, Scorers(judge=PromptedJudge(config))).value)
    endpoint.bad = None
    assert values[0] == values[1] is not None


def _valid(schema: dict[str, Any]) -> Any:
    """A value that a schema allows, and not its least."""
    if schema["type"] == "array":
        return [_valid(schema["items"])] * schema["minItems"]
    if schema["type"] == "string":
        return schema.get("enum", ["so"])[0]
    return schema["maximum"] if "maximum" in schema else schema["enum"][-1]


@pytest.mark.parametrize("name", JUDGED)
def test_replies_of_another_model_half_way_are_findings_and_no_grades(name, data, endpoint) -> None:
    endpoint.fails()
    scorers = judge(endpoint)
    right = scored(name, data, scorers)
    endpoint.fails(lambda reply: message(reply, model="another"), 99)
    failed = scored(name, data, scorers)
    assert failed.value is None
    assert failed.num_answered == 0
    assert len(failed.problems) == right.num_questions
    assert all("as 'stub' and now as 'another'" in problem for problem in failed.problems)
    endpoint.fails()
    assert scored(name, data, judge(endpoint)).value == right.value


@pytest.mark.parametrize("name", JUDGED)
def test_429_for_ten_minutes_is_waited_for_as_told_and_then_a_finding(name, data, endpoint) -> None:
    """The clock is one of the test: each pause moves it on."""
    endpoint.fails()
    right = scored(name, data, judge(endpoint))
    clock, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    def answer(path: str, document: Any) -> tuple[Any, ...]:
        if clock[0] < 600:
            return 429, {"error": "too many requests"}, {"Retry-After": "100"}
        return endpoint.fine(path, document)

    with serving(answer) as server:
        config = JudgeConfig(url=f"{server.url}/v1", model="stub", replies="words", concurrency=1)
        waiting = Connection(
            url=config.url, retries=config.retries, longest_backoff=config.longest_pause, sleep=sleep
        )
        scorers = Scorers(judge=PromptedJudge(config, connection=waiting))
        first = scored(name, data, scorers)
        assert pauses[:4] == [100.0] * 4, "four times as long as the answer says, and then the next question"
        assert "answered 429" in first.problems[0]
        assert first.value is None
        while clock[0] < 600:
            scored(name, data, scorers)
        assert scored(name, data, scorers).value == right.value


def test_the_command_says_how_many_questions_are_open_and_asks_them_next_time(
    tmp_path: Path, endpoint, capsys
) -> None:
    data = write_all(tmp_path / "data")
    for item in load_benchmark("wise:legacy").items(data, allow_altered=True):
        image(tmp_path / f"theirs/{item.id}.png")
    command = ["eval", "run", "wise:legacy", "--model", f"images:{tmp_path / 'theirs'}", "--data", str(data)]
    command += ["--allow-altered-data", "-o", str(tmp_path / "run"), "--judge-url", endpoint.url]
    command += ["--judge-model", "stub", "--judge-replies", "words", "--judge-concurrency", "1"]
    endpoint.fails(BAD["prose"][0], 3)
    assert main(command) == 2
    assert "6 of 7 questions answered; start the run again to ask the rest" in capsys.readouterr().err
    endpoint.fails(BAD["prose"][0], 3)
    assert main([*command, "--allow-partial"]) == 0
    assert len(endpoint.asked) == 3
    assert "6 of 7 questions answered; start the run again to ask the rest" in capsys.readouterr().out
    endpoint.fails()
    assert main(command) == 0
    assert len(endpoint.asked) == 1
    said = capsys.readouterr().out
    assert "questions answered" not in said
    assert "(7 of 7 pictures)" in said


# --- data with null fields ----------------------------------------------------------------------------------

DATA = {
    "corebench:reasoning": "corebench/R-LR.json",
    "cvtg2k": "cvtg2k/CVTG/2.json",
    "dpg": "dpg/prompts.jsonl",
    "geneval": "geneval/evaluation_metadata.jsonl",
    "imgedit": "imgedit/basic_edit.json",
    "risebench:64": "risebench/data_total.json",
    "unireditbench": "unireditbench/data.json",
    "wise:legacy": "wise/legacy/natural_science.json",
    "wise:verified": "wise/verified/natural_science_verified.json",
}
FREE = {  # fields without which an item is whole, by the rule of the benchmark
    *("Category", "Subcategory", "carrier_list", "sentence_list", "tags", "rules"),
    *("reference", "reference_txt", "reference_img", "reference_effect", "consistency_free"),
}


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a document."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in pairs for place in ((*at, key), *places(value, (*at, key)))]


def read(path: Path) -> Any:
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def write(path: Path, document: Any) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in document) if path.suffix == ".jsonl" else ""
    path.write_text(lines or json.dumps(document))


@pytest.mark.parametrize("name", DATA)
def test_a_null_field_is_a_finding_of_its_item(name: str, tmp_path: Path) -> None:
    data = write_all(tmp_path)
    path, benchmark = data / DATA[name], load_benchmark(name)
    whole, count = read(path), len(benchmark.items(data, allow_altered=True))
    for place in places(whole):
        document = json.loads(json.dumps(whole))
        parent = document
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = None
        write(path, document)
        if place == ("data_list",):  # not one row, but all of them
            with pytest.raises(ValueError, match="holds no list 'data_list'"):
                benchmark.items(data, allow_altered=True)
            continue
        items = benchmark.items(data, allow_altered=True)
        faults = [item.fault for item in items if item.fault]
        assert len(items) == count, place
        if place[-1] in FREE:
            assert faults == [], place
        else:
            assert len(faults) == 1, place
            assert any(faults[0] in problem for problem in benchmark.read_items(data)[1])
            with pytest.raises(ValueError, match=r"altered|cannot be read"):
                benchmark.items(data)


@pytest.mark.parametrize("name", ["geneval", "wise:legacy", "risebench:64", "dpg"])
def test_an_item_with_a_fault_is_neither_drawn_nor_graded(name, tmp_path, endpoint) -> None:
    data = write_all(tmp_path / "data")
    path = data / DATA[name]
    rows = read(path)
    field = next(key for key in ("prompt", "Prompt", "instruction", "text") if key in rows[1])
    rows[1][field] = None
    write(path, rows)
    endpoint.fails()
    benchmark, model = load_benchmark(name), NoiseModel()
    settings = settings_with(benchmark.settings, height=16, width=16, num_inference_steps=1, num_samples=1)
    config = RunConfig(output_dir=tmp_path / "run", data_dir=data, allow_altered=True, allow_partial=True)
    scorers = replace(judge(endpoint), detector=Detector())
    result = run(benchmark, model, settings, config, scorers)
    assert result is not None
    faults = [item for item in result["items"] if item["category"] == "unreadable rows"]
    assert [item["value"] for item in faults] == [None]
    assert f"{field} is null instead of a text" in result["problems"][0]
    assert result["num_judged"] == result["num_expected"] - 1 == len(model.drawn)
    assert result["is_partial"]
    assert result["table"]


class Detector:
    version = "stub"

    def __call__(self, image: Image.Image) -> dict[str, Any]:
        return {"cat": [[0, 0, 9, 9, 0.95]]}

    def colors(self, image: Image.Image, name: str, boxes: Any) -> list[str]:
        return ["red"] * len(boxes)


def test_a_source_that_is_no_picture_is_a_finding_of_its_item(tmp_path: Path, endpoint) -> None:
    data = write_all(tmp_path / "data")
    shutil.copy(data / "imgedit/animal/1.jpg", data / "imgedit/animal/2.jpg")
    rows = read(data / "imgedit/basic_edit.json")
    rows["11"]["id"] = "animal/2.jpg"
    write(data / "imgedit/basic_edit.json", rows)
    (data / "imgedit/animal/2.jpg").write_bytes(b"\xff\xd8 no picture")
    image(tmp_path / "theirs/10.png")
    image(tmp_path / "theirs/11.png")
    from deepgen.evaluation.image_folder import ImageFolder

    endpoint.fails()
    benchmark = load_benchmark("imgedit")
    config = RunConfig(output_dir=tmp_path / "run", data_dir=data, allow_altered=True, allow_partial=True)
    theirs = ImageFolder("theirs", tmp_path / "theirs")
    result = run(benchmark, theirs, benchmark.settings, config, judge(endpoint))
    assert result is not None
    assert result["num_judged"] == 1
    (problem,) = result["problems"]
    assert problem.startswith("11: ")
    assert "2.jpg cannot be opened" in problem
