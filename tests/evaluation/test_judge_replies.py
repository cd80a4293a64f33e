"""What judges really send: fences, words around JSON, thinking aloud, silence, and half a verdict."""

from __future__ import annotations

import json
import zlib

import pytest
from PIL import Image

from deepgen.evaluation import response_schema as schemas
from deepgen.evaluation.benchmark import Item, ItemScore, settings_with
from deepgen.evaluation.benchmarks import (
    imgedit,
    load_benchmark,
    risebench,
)
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.evaluation.statistics import intervals
from deepgen.rewards.judge import ChatOptions, CutOff, Judge, NoReply, Query
from deepgen.rewards.replies import after_thinking, json_objects
from evaluation.benchmark_files import NoiseModel, judge_answer, write_all
from rewards.reward_server import serving

GRADES = {"reasoning": "so", "Instruction": 5, "Naturalness": 4, "Preservation": 2}
SCHEMA = schemas.grades("Instruction", "Naturalness", "Preservation", low=1, high=5)


# --- one reader for all -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(GRADES),
        json.dumps(GRADES, indent=2),
        f"```json\n{json.dumps(GRADES, indent=2)}\n```",
        f"Here is my verdict:\n```\n{json.dumps(GRADES)}\n```\nI hope that helps: 1",
        f"````\n```json\n{json.dumps(GRADES)}\n```\n````",
        f'In the form {{"Instruction": 1}} you asked for: {json.dumps(GRADES)}',
        json.dumps({key.lower(): value for key, value in GRADES.items()}),
        json.dumps({key: str(value) for key, value in GRADES.items()}),
        json.dumps({key: float(value) if key != "reasoning" else value for key, value in GRADES.items()}),
        json.dumps({key: value for key, value in GRADES.items() if key != "reasoning"}),
        json.dumps(GRADES | {"reasoning": "a brace } and\nNaturalness: 1"}),
    ],
)
def test_a_judge_that_wraps_its_json_gets_the_same_grades_as_one_that_does_not(reply):
    assert imgedit.parse(SCHEMA.read(reply) or "", "fixed") == 3.67


@pytest.mark.parametrize(
    "wrong",
    [
        {"Naturalness": None},
        {"Naturalness": 6},
        {"Naturalness": 0},
        {"Naturalness": 3.5},
        {"Naturalness": True},
        {"Naturalness": "good"},
        {"Naturalness": [4]},
        {"Naturalness": "4" * 5000},
    ],
)
def test_a_verdict_with_a_part_of_the_grades_is_none(wrong):
    assert SCHEMA.read(json.dumps(GRADES | wrong)) is None
    assert SCHEMA.read(f"```json\n{json.dumps(GRADES | wrong, indent=1)}\n```") is None


def test_a_missing_grade_is_no_verdict():
    assert SCHEMA.read('{"Instruction": 5, "Naturalness": 4}') is None
    assert SCHEMA.read("Instruction: 5") == "Instruction: 5"  # no JSON: the benchmark's own rule reads it


def test_thinking_is_no_answer_and_what_is_cut_off_there_is_none():
    assert after_thinking("<think>yes, yes</think>\n\nno") == "\n\nno"
    assert after_thinking("the template opened it</think>no") == "no"
    assert after_thinking("<think>yes, perhaps") is None
    assert after_thinking("<think>yes</think>\n") is None
    assert after_thinking("<think>a</think>yes <think>or") is None
    assert after_thinking("no tags at all") == "no tags at all"


def test_json_is_found_in_any_text_and_never_raises():
    assert json_objects('a {not} {} {"a": {"b": 1}} [1, {"c": 2}]') == [{}, {"a": {"b": 1}}, {"c": 2}]
    for text in ("{" * 10_000, '{"a":' * 2_000, "}" * 100, '{"a": NaN}', "\ud800{"):
        json_objects(text)


# --- asked again --------------------------------------------------------------------------------------------


def judge(server, **options):
    return Judge(ChatOptions(url=f"{server.url}/v1", model="stub", **{"retries": 0, **options}))


def says(*replies):
    """Each once, then the last for ever; a pair is text and finish_reason. Keeps what was asked."""
    asked = []

    def answer(path, document):
        text = replies[min(len(asked), len(replies) - 1)]
        asked.append(document)
        text, reason = text if isinstance(text, tuple) else (text, "stop")
        return 200, {"model": "stub", "choices": [{"message": {"content": text}, "finish_reason": reason}]}

    return answer, asked


def test_silence_is_asked_again_in_rewards_too():
    answer, asked = says("", None, "7")
    with serving(answer) as server:
        assert judge(server).ask_all([Query(content=("how good?",))]) == ["7"]
    assert len(asked) == 3


def test_a_reply_that_was_cut_off_is_asked_again_with_more_tokens():
    answer, asked = says("<think>well", ("yes, but", "length"), "<think>well</think>no")
    with serving(answer) as server:
        assert next(judge(server, max_tokens=100).replies(Query(content=("?",)))) == "no"
    assert [document["max_tokens"] for document in asked] == [100, 400, 1600]


def test_a_judge_that_never_ends_its_thinking_has_no_answer():
    answer, asked = says("<think>yes yes yes")
    with serving(answer) as server, pytest.raises(CutOff, match="thinking"):
        next(judge(server).replies(Query(content=("?",))))
    with serving(says("")[0]) as server, pytest.raises(NoReply, match="said nothing"):
        next(judge(server).replies(Query(content=("?",))))
    assert len(asked) == 3


def test_extra_fields_are_sent_and_replies_without_them_are_not_reused(tmp_path):
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    answer, asked = says("yes")
    with serving(answer) as server:
        for options in ({}, {"extra": extra}, {"extra": extra}):
            config = ChatOptions(url=f"{server.url}/v1", model="stub", **options)
            Judge(config, cache_dir=tmp_path).ask(Query(content=("?",)))
    assert [document.get("chat_template_kwargs") for document in asked] == [
        None,
        extra["chat_template_kwargs"],
    ]
    with pytest.raises(ValueError, match="cannot be temperature"):
        ChatOptions(url="http://x", model="m", extra={"temperature": 1})


# --- coverage is per question -------------------------------------------------------------------------------


def go(name, data, output, server, **config):
    benchmark = load_benchmark(name, "fixed")
    settings = settings_with(benchmark.settings, height=16, width=16, num_inference_steps=1, num_samples=1)
    options = JudgeConfig(url=f"{server.url}/v1", model="stub", retries=0, replies="words")
    scorers = Scorers(judge=PromptedJudge(options, cache_dir=output / "judge_cache"))
    given = {"output_dir": output, "data_dir": data, "allow_altered": True, **config}
    return run(benchmark, NoiseModel(), settings, RunConfig(**given), scorers)


def test_the_second_run_asks_what_a_judge_left_open_and_ends_like_one_that_never_failed(tmp_path):
    data = write_all(tmp_path / "data")
    for number, path in enumerate(sorted((data / "corebench").glob("R-*.json"))):
        checklist = [{"question": f"is {number} so {place}?"} for place in range(1 + number % 3)]
        entry = {"Prompt": f"riddle {number}", "Checklist": checklist}
        path.write_text(json.dumps({f"{path.stem}-001": entry}))
    fine, asked, failing = judge_answer(), [], [True]

    def unreliable(path, document):
        text = str(document["messages"][-1]["content"][0])
        asked.append(text)
        if failing[0] and zlib.crc32(text.encode()) % 3 == 0:
            return 200, {"model": "stub", "choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}
        return fine(path, document)

    with serving(unreliable) as server:
        first = go("corebench:reasoning", data, tmp_path / "one", server, allow_partial=True)
        open_questions = {text for text in asked if zlib.crc32(text.encode()) % 3 == 0}
        assert 3 < len(open_questions) < len(set(asked)) / 2
        assert first["num_answered"] < first["num_questions"]
        assert first["num_judged"] < first["num_expected"]
        failing[0] = False
        asked.clear()
        second = go("corebench:reasoning", data, tmp_path / "one", server, allow_partial=True)
        assert set(asked) == open_questions
        assert len(asked) == first["num_questions"] - first["num_answered"]
        whole = go("corebench:reasoning", data, tmp_path / "two", server)
    assert second["num_answered"] == second["num_questions"] == whole["num_questions"]
    assert second["table"] == whole["table"]
    assert [item["value"] for item in second["items"]] == [item["value"] for item in whole["items"]]


def test_items_with_one_prompt_are_one_piece_of_evidence():
    def mean(scores):
        return {"overall": sum(score.value for score in scores) / len(scores)}

    scores = [ItemScore(item=str(i), category="a", value=float(i % 2)) for i in range(40)]
    prompts = {str(i): f"prompt {i % 8}" for i in range(40)}
    alone, together = intervals(scores, mean), intervals(scores, mean, claims=prompts)
    widths = [high - low for low, high in (alone["overall"], together["overall"])]
    assert widths[1] > 1.5 * widths[0]
    assert intervals(scores, mean, claims=dict.fromkeys(prompts, "one")) == {}


# --- RISEBench: what is shown -------------------------------------------------------------------------------

SOURCE, TARGET, RESULT = (Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue"))
NAMES = {id(SOURCE): "source", id(TARGET): "reference", id(RESULT): "result"}


def shown(category, protocol="official", **fields):
    """{key: (prompt, images)} of a sample."""
    benchmark = risebench.RISEBench(protocol=protocol)
    item = Item(
        id="1", category=f"{category}_reasoning", prompt="do it", metadata={"image": "a.png", **fields}
    )
    references = [SOURCE, *([TARGET] if risebench.is_set(fields, "reference_img") else [])]
    questions = benchmark.questions(item, RESULT, references)
    return {q.key: (q.prompt, [NAMES[id(image)] for image in q.images]) for q in questions}


@pytest.mark.parametrize(
    "unset", [{}, {"reasoning_img": None}, {"reasoning_img": float("nan")}, {"reasoning_img": ""}]
)
def test_temporal_edits_show_the_source_for_reasoning_only_where_the_data_says_so(unset):
    asked = shown("temporal", **unset)
    assert asked["consistency"] == ("consistency", ["source", "result"])
    assert asked["reasoning"] == ("reasoning", ["result"])
    assert asked["quality"] == ("quality", ["result"])
    assert shown("causal", reasoning_img=True)["reasoning"] == ("reasoning_two", ["source", "result"])


def test_spatial_edits_are_compared_with_the_reference_picture():
    asked = shown("spatial", reference_img="r.png", reasoning_img=True)
    assert asked["consistency"] == ("spatial_consistency", ["reference", "result"])
    assert asked["reasoning"] == ("spatial_reasoning_picture", ["reference", "result"])
    assert shown("spatial", "fixed", reference_img="r.png")["consistency"][1] == ["source", "result"]
    assert shown("spatial", reasoning_img=True)["reasoning"] == (
        "spatial_reasoning_two",
        ["source", "result"],
    )
    assert shown("spatial")["reasoning"] == ("spatial_reasoning", ["result"])
    assert "consistency" not in shown("spatial", consistency_free=True)
    assert "consistency" in shown("spatial", consistency_free=None)


def test_logical_edits_have_a_text_or_a_picture_as_reference():
    asked = shown("logical", reference_txt="42", reference_img="r.png")
    assert asked == {
        "consistency": ("logical_consistency_answer", ["source", "result"]),
        "reasoning": ("logical_reasoning", ["result"]),
    }
    asked = shown("logical", reference_img="r.png")
    assert asked["consistency"] == ("logical_consistency", ["reference", "result"])
    assert asked["reasoning"] == ("logical_reasoning_picture", ["reference", "result"])
    asked = shown("logical", reference_img="r.png", reasoning_wo_ins=None)
    assert asked["reasoning"][0] == "logical_reasoning_picture_alone"


def test_every_question_of_risebench_has_a_prompt():
    for protocol in ("official", "fixed"):
        for category in ("temporal", "causal", "spatial", "logical"):
            for fields in ({}, {"reasoning_img": 1}, {"reference_img": "r"}, {"reference_txt": "t"}):
                for prompt, _ in shown(category, protocol, **fields).values():
                    assert prompt in risebench.RISEBench.rubrics


def test_samples_that_failed_count_in_their_subtask_and_values_follow_the_protocol():
    def verdict(name, **grades):
        row = {"category": "temporal_reasoning", "subtask": "A", **grades}
        return ItemScore(item=name, category="temporal_reasoning", value=0.0, rows=(row,))

    free = verdict("free", consistency=None, reasoning=5, quality=5)
    held = verdict("held", consistency=1, reasoning=5, quality=5)
    failed = verdict("failed")
    benchmark = risebench.RISEBench(protocol="official")
    table = benchmark.aggregate([free, held, failed], "official")
    assert table["accuracy_new subtask A"] == pytest.approx(100 / 3)
    assert benchmark.item_values([free, held, failed], "official") == {
        "free": 5.0,
        "held": 5.0,
        "failed": None,
    }
    assert benchmark.item_values([free, held], "fixed")["held"] == pytest.approx(3.8)
