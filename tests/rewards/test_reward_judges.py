"""Judges behind a chat endpoint: what they are asked, how answers are read, and what rubbish becomes."""

from __future__ import annotations

import base64
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reward_server import serving

from deepgen.rewards.http import Connection
from deepgen.rewards.judge import answer_in, number_in
from deepgen.rewards.pairs import (
    all_pairs,
    anchor_pairs,
    expected_win_rates,
    num_swiss_rounds,
    swiss_pairs,
    win_rates,
)
from deepgen.rewards.reward import Candidate, RewardResult, RewardUnavailable
from deepgen.rewards.scorers import make_reward
from deepgen.rewards.scorers.instruction_following import InstructionFollowing, InstructionFollowingOptions
from deepgen.rewards.scorers.ocr_vlm import lines_in
from deepgen.rewards.scorers.unifiedreward import score_named
from deepgen.rewards.scorers.unifiedreward_think import winner_of


def grey(value: int, **fields: Any) -> Candidate:
    return Candidate(image=Image.new("RGB", (16, 16), (value,) * 3), prompt="a {grey} wall", **fields)


def said(text: str | None) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": text}}]}


def images_of(document: Any) -> list[int]:
    """The greys a judge was shown, in their order."""
    greys = []
    for part in document["messages"][0]["content"]:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
            greys.append(round(float(np.mean(np.asarray(Image.open(BytesIO(data)))))))
    return greys


def words_of(document: Any) -> str:
    return " ".join(part["text"] for part in document["messages"][0]["content"] if part["type"] == "text")


def brighter(path: str, document: Any) -> tuple[int, Any]:
    """An honest judge: the brighter picture is better."""
    first, second = images_of(document)[-2:]
    return said(f"<think>1 or 2?</think><answer>Image {1 if first > second else 2} is better</answer>")


def judged(
    answer: Any, candidates: list[Candidate], name: str = "unifiedreward_think", **options: Any
) -> list[RewardResult]:
    with serving(answer) as server:
        return make_reward(name, url=server.url, model="m", retries=0, **options)(candidates)


# --- the client ---


def test_a_judge_is_asked_with_pictures_its_wording_and_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "rubric.txt").write_text("Grade {prompt}, please.", encoding="utf-8")
    files = {"api_key_path": str(tmp_path / "key"), "rubric_path": str(tmp_path / "rubric.txt")}
    with serving(lambda path, document: said("Alignment Score (1-5): 4\nStyle Score (1-5): 3")) as server:
        own = make_reward(
            "unifiedreward", url=server.url + "/v1", model="m", temperature=0.5, max_tokens=9, **files
        )
        assert own([grey(90)])[0].score == 3.5
        ((path, document),) = server.requests
        assert server.headers[0]["Authorization"] == "Bearer secret"
    assert path == "/v1/chat/completions"
    assert (document["model"], document["temperature"], document["max_tokens"]) == ("m", 0.5, 9)
    assert words_of(document) == "Grade a {grey} wall, please."
    assert images_of(document) == [90]
    assert own.version != make_reward("unifiedreward", url="http://x", model="m", temperature=0.5).version
    assert "secret" not in repr(own.options)


def test_a_rubric_without_a_place_for_the_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rubric.txt").write_text("Grade this.")
    with pytest.raises(ValueError, match="does not say where the prompt goes"):
        make_reward("unifiedreward", url="http://x", model="m", rubric_path=str(tmp_path / "rubric.txt"))


@pytest.mark.parametrize(
    "answer", [(500, "down"), (200, "<html>"), (200, {"choices": []}), (200, []), (401, "no")]
)
@pytest.mark.parametrize("name", ["unifiedreward", "unifiedreward_think"])
def test_a_judge_that_cannot_be_reached_is_an_error_not_a_tie(name: str, answer: Any) -> None:
    with pytest.raises(RewardUnavailable):
        judged(lambda path, document: answer, [grey(1), grey(2)], name)


def test_a_question_that_fails_costs_only_its_own_candidate() -> None:
    def answer(path: str, document: Any) -> tuple[int, Any]:
        return (500, "down") if images_of(document) == [9] else said("Alignment Score: 5 Style Score: 5")

    good, bad = judged(answer, [grey(100), grey(9)], "unifiedreward")
    assert good.score == 5
    assert bad == RewardResult(None, "the judge could not be reached", 1, 0)


def test_a_judge_is_asked_again_after_an_error() -> None:
    answers = iter([(503, "busy"), said("Alignment Score: 2 Style Score: 4")])
    with serving(lambda path, document: next(answers)) as server:
        from deepgen.rewards.scorers.unifiedreward import UnifiedReward, UnifiedRewardOptions

        connection = Connection(url=server.url, sleep=lambda seconds: None)
        reward = UnifiedReward(UnifiedRewardOptions(url=server.url, model="m"), connection)
        assert reward([grey(1)])[0].score == 3


# --- reading answers ---


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>x</think><answer> 7 </answer>", "7"),
        ("<answer>1</answer> no, <ANSWER>2</ANSWER>", "2"),
        ("I say 7", None),
        ("<answer>7", None),
    ],
)
def test_an_answer_is_what_the_last_tag_holds(text: str, answer: str | None) -> None:
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("7.5", 7.5), ("8/10", 8), ("**9**", 9), ("11", None), ("7 or 8", None), ("", None)],
)
def test_a_number_stands_alone_and_within_its_range(text: str, number: float | None) -> None:
    assert number_in(text, 0, 10) == number


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Style Score (1-5): 4.5", 4.5),
        ("**Style Score (1–5):** 3", 3),
        ("style score: 2, then Style Score (1-5): 3", 3),
        ("Style Score (1-5): 9", None),
        ("Style is fine", None),
        ("Coherence Score (1-5): 4", None),
    ],
)
def test_a_named_score_is_found_in_free_text(text: str, score: float | None) -> None:
    assert score_named("Style", text) == score


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("<answer>Image 1 is better</answer>", 4),
        ("<answer>image 2 is better.</answer>", 7),
        ("Image 1 is better", None),
        ("<answer>Image 1 is better, no, Image 2 is better</answer>", None),
        ("<answer>both</answer>", None),
        (None, None),
    ],
)
def test_a_winner_is_named_in_the_tag_or_there_is_none(text: str | None, winner: int | None) -> None:
    assert winner_of(text, (4, 7)) == winner


def test_lines_are_found_in_json_between_other_words() -> None:
    assert lines_in('```json\n{"lines": ["A", "B"]}\n```') == ["A", "B"]
    assert lines_in('{"lines": []}') == []
    for rubbish in ("none", '{"lines": "A"}', '{"lines": [1]}', "{A}", '{"text": []}'):
        assert lines_in(rubbish) is None


# --- comparing ---


@pytest.mark.parametrize("pairing", ["all", "anchor", "swiss"])
@pytest.mark.parametrize("swap", [True, False])
def test_an_honest_judge_ranks_a_group(pairing: str, swap: bool) -> None:
    verdicts = judged(brighter, [grey(v) for v in (80, 200, 120, 20)], pairing=pairing, swap=swap)
    scores = [verdict.score for verdict in verdicts]
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    if pairing == "all":
        assert scores == pytest.approx([1 / 3, 1, 2 / 3, 0])
    if pairing == "anchor":
        assert scores[1:] == [1, 1, 0]
    if pairing == "swiss":
        assert scores[1] == max(scores)
        assert scores[3] == min(scores)
    assert all(verdict.num_answers == verdict.num_questions for verdict in verdicts)


def test_a_judge_that_always_prefers_a_place_makes_everyone_equal() -> None:
    first = lambda path, document: said("<answer>Image 1 is better</answer>")  # noqa: E731
    assert [v.score for v in judged(first, [grey(v) for v in (1, 2, 3, 4)])] == [0.5] * 4
    once = judged(first, [grey(v) for v in (1, 2, 3, 4, 5)], swap=False)
    assert sum(v.score or 0 for v in once) / 5 == pytest.approx(0.5)


def test_an_answer_without_the_tag_is_no_tie() -> None:
    def silent_about_20(path: str, document: Any) -> tuple[int, Any]:
        return said("Image 1 is better") if 20 in images_of(document) else brighter(path, document)

    low, high, silent = judged(silent_about_20, [grey(80), grey(200), grey(20)])
    assert (low.score, high.score, silent.score) == (0, 1, None)
    assert silent.reason == "0 of 2 pairs decided"
    assert (silent.num_questions, silent.num_answers) == (4, 0)
    assert (high.num_questions, high.num_answers) == (4, 2)


def test_half_an_answered_pair_is_not_decided() -> None:
    """One way round alone would bring the preference for a place back."""

    def answers_one_way(path: str, document: Any) -> tuple[int, Any]:
        return brighter(path, document) if images_of(document) == [80, 200] else said("hm")

    verdicts = judged(answers_one_way, [grey(80), grey(200)])
    assert [verdict.score for verdict in verdicts] == [None, None]
    assert verdicts[0].num_answers == 1


def test_one_picture_alone_has_no_score() -> None:
    (verdict,) = judged(brighter, [grey(1)])
    assert verdict == RewardResult(None, "there is nothing to compare it with")


def test_the_judge_of_two_edits_sees_their_source_first() -> None:
    with serving(brighter) as server:
        source = (Image.new("RGB", (16, 16), (55,) * 3),)
        pair = [grey(80, references=source), grey(200, references=source)]
        make_reward("unifiedreward_think", url=server.url, model="m")(pair)
        shown = sorted(images_of(document) for _, document in server.requests)
    assert shown == [[55, 80, 200], [55, 200, 80]]


def test_pairings_cost_what_they_say() -> None:
    assert len(all_pairs(8)) == 28
    assert len(anchor_pairs(8)) == 7
    met, outcomes = [], []
    for _ in range(num_swiss_rounds(8)):
        pairs = swiss_pairs(8, outcomes, met)
        assert len({member for pair in pairs for member in pair}) == 2 * len(pairs) == 8
        met += pairs
        outcomes += [(a, b, float(a < b)) for a, b in pairs]
    assert len({frozenset(pair) for pair in met}) == 12, "nobody meets twice"
    rates = expected_win_rates(8, outcomes)
    assert rates[0] == max(r for r in rates if r is not None)
    assert len(swiss_pairs(5, [], [])) == 2


def test_win_rates_are_points_per_comparison() -> None:
    assert win_rates(4, [(0, 1, 1.0), (0, 2, 0.5)]) == [0.75, 0, 0.5, None]


def test_expected_win_rates_average_one_half_and_solve_bradley_terry() -> None:
    outcomes = [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 0.5)]
    rates = expected_win_rates(4, outcomes)
    assert rates[3] is None
    assert rates[0] is not None
    assert rates[2] is not None
    assert rates[0] > rates[2]
    two = expected_win_rates(2, [(0, 1, 1.0)])
    assert sum(rate for rate in two if rate is not None) == pytest.approx(1)
    # by hand: p0 = 1.5 / (1/(p0+p1) + 1/(p0+1)) with p1 = 1/p0, so p0 = sqrt(3) + ... solved numerically
    low, high = 1.0, 10.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if 1.5 / (1 / (p + 1 / p) + 1 / (p + 1)) > p else (low, p)
    assert two[0] == pytest.approx(p / (p + 1 / p), rel=1e-4)
    assert math.isfinite(two[0] or math.nan)


# --- edits and text ---


def test_a_judge_of_an_edit_sees_source_and_result() -> None:
    with serving(lambda path, document: said("fine <answer>8/10</answer>")) as server:
        options = InstructionFollowingOptions(url=server.url, model="m")
        source = Image.new("RGB", (16, 16), (30,) * 3)
        good, bare = InstructionFollowing(options)([grey(200, references=(source,)), grey(1)])
        ((_, document),) = server.requests
    assert good.score == 0.8
    assert bare == RewardResult(None, "the candidate has no references")
    assert images_of(document) == [30, 200]
    assert '"a {grey} wall"' in words_of(document)
    (rubbish,) = judged(
        lambda p, d: said("<answer>good</answer>"), [grey(1, references=(source,))], "instruction_following"
    )
    assert (rubbish.score, rubbish.num_questions, rubbish.num_answers) == (None, 1, 0)


def test_a_judge_that_reads_is_not_told_what_should_be_there() -> None:
    with serving(lambda path, document: said('{"lines": ["OPBN"]}')) as server:
        reward = make_reward("ocr_vlm", url=server.url, model="m")
        found, nothing = reward([grey(1, metadata={"targets": ["OPEN"]}), grey(2)])
        ((_, document),) = server.requests
    assert found.score == 0.75
    assert "OPEN" not in words_of(document)
    assert nothing.score is None
    assert nothing.num_questions == 0
    (rubbish,) = judged(lambda p, d: said(None), [grey(1, metadata={"targets": ["A"]})], "ocr_vlm")
    assert (rubbish.score, rubbish.num_questions, rubbish.num_answers) == (None, 1, 0)
