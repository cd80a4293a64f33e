"""The panel: what is called, what a failure becomes, and when a run is stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from reward_fakes import FakeReward, candidate, grey_of

from deepgen.rewards.breaker import Breaker
from deepgen.rewards.cache import RewardCache, content_key
from deepgen.rewards.ensemble import RewardEnsemble, RewardEnsembleConfig, TooManyFailures
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult, RewardUnavailable, ScoreOutOfRange
from deepgen.rewards.reward_batch import RewardBatch, ScoreTally, reason_kind
from deepgen.rewards.scorers import make_reward
from deepgen.shapes.caption import ShapesEdit
from deepgen.shapes.prompts import asked_of, prompt_rows
from deepgen.shapes.render import render


def raising(candidates: Sequence[Candidate]) -> list[RewardResult]:
    raise RewardUnavailable("nobody is there")


# --- the matrix ---


def test_scores_come_in_the_order_of_submission_with_weights_and_words() -> None:
    panel = RewardEnsemble(
        {"grey": FakeReward(), "other": FakeReward(lambda c: [RewardResult(0.5)] * len(c))}
    )
    panel.submit([candidate(0), candidate(255)], {"grey": 0.7, "other": 0.3})
    panel.submit([candidate(51)], {"grey": 1.0})
    scores = panel.collect()
    assert scores.names == ("grey", "other")
    np.testing.assert_allclose(scores.rewards, [[0, 0.5], [1, 0.5], [0.2, 0]])
    assert scores.rewards.dtype == np.float32
    assert scores.valid.tolist() == [[True, True], [True, True], [True, False]]
    np.testing.assert_allclose(scores.weights, [[0.7, 0.3], [0.7, 0.3], [1, 0]])
    assert [dict(reasons) for reasons in scores.reasons][2] == {"grey": "grey"}
    assert panel.collect().rewards.shape == (0, 2)


def test_a_reward_without_weight_is_not_called_and_a_held_out_one_always_is() -> None:
    rewards = {name: FakeReward() for name in ("used", "unused", "watched")}
    panel = RewardEnsemble(rewards, held_out=["watched"])
    panel.submit([candidate(255)], {"used": 1.0, "unused": 0.0})
    scores = panel.collect()
    assert [len(reward.calls) for reward in rewards.values()] == [1, 0, 1]
    assert scores.names == ("used", "unused")
    assert scores.rewards.shape == (1, 2)
    assert (scores.held_out_names, scores.held_out.tolist()) == (("watched",), [[1.0]])
    assert scores.metrics["watched/mean"] == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"beauty": 1.0}, r"unknown rewards \['beauty'\]; known: grey"),
        ({"watched": 1.0}, "watched is held out"),
        ({"grey": -1.0}, "must be 0 or more, got -1.0"),
        ({"grey": float("nan")}, "must be 0 or more, got nan"),
        ({"grey": 0.0}, "no reward has a weight"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float], words: str) -> None:
    panel = RewardEnsemble({"grey": FakeReward(), "watched": FakeReward()}, held_out=["watched"])
    with pytest.raises(ValueError, match=words):
        panel.submit([candidate()], weights)


def test_a_panel_needs_a_reward_to_train_on() -> None:
    with pytest.raises(ValueError, match="no reward to train on"):
        RewardEnsemble({"watched": FakeReward()}, held_out=["watched"])
    with pytest.raises(ValueError, match="held-out reward 'judge' is not given"):
        RewardEnsemble({"grey": FakeReward()}, held_out=["judge"])


# --- failures ---


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (raising, "nobody is there"),
        (lambda c: [RewardResult(0.5)] * (len(c) + 1), "3 verdicts came back for 2"),
        (lambda c: [0.5] * len(c), "a verdict is a RewardResult, got float"),
        (lambda c: [RewardResult("0.5")] * len(c), "a score must be a number, got str"),
        (lambda c: [RewardResult(float("nan"))] * len(c), "a score must be finite"),
        (lambda c: c[0].metadata["missing"], "KeyError"),
    ],
)
def test_a_failure_is_a_masked_entry_with_its_reason(answer, words: str, caplog) -> None:
    panel = RewardEnsemble({"grey": FakeReward(), "bad": FakeReward(answer)})
    panel.submit([candidate(255), candidate(255)], {"grey": 1, "bad": 1})
    scores = panel.collect()
    assert scores.valid.tolist() == [[True, False]] * 2
    assert words in scores.reasons[0]["bad"]
    assert scores.metrics["bad/failure_rate"] == 1
    assert scores.metrics["grey/failure_rate"] == 0
    assert "bad/mean" not in scores.metrics


def test_a_candidate_without_a_needed_field_is_not_sent() -> None:
    reward = FakeReward(needs=("targets", "references"))
    panel = RewardEnsemble({"ocr": reward})
    panel.submit([candidate(0), candidate(1, targets=["HI"])], {"ocr": 1})
    scores = panel.collect()
    assert not reward.calls
    assert scores.reasons[0]["ocr"] == "the candidate has no targets and no references"
    assert scores.reasons[1]["ocr"] == "the candidate has no references"


def test_a_call_that_takes_too_long_is_given_up_and_the_next_one_is_made() -> None:
    never = threading.Event()

    def slow_for_black(candidates: Sequence[Candidate]) -> list[RewardResult]:
        if candidates[0].image.getpixel((0, 0)) == (0, 0, 0):
            never.wait(20)
        return [RewardResult(1.0)] * len(candidates)

    panel = RewardEnsemble({"slow": FakeReward(slow_for_black)}, config=RewardEnsembleConfig(timeout=0.2))
    panel.submit([candidate(0)], {"slow": 1})
    panel.submit([candidate(9)], {"slow": 1})
    started = time.monotonic()
    scores = panel.collect()
    never.set()
    assert time.monotonic() - started < 5
    assert scores.valid.tolist() == [[False], [True]]
    assert scores.reasons[0]["slow"] == "no answer within 0.2 s"


def test_submitting_does_not_wait_and_rewards_run_beside_each_other() -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(candidates: Sequence[Candidate]) -> list[RewardResult]:
        both.wait()
        return [RewardResult(1.0)] * len(candidates)

    panel = RewardEnsemble({"a": FakeReward(meet), "b": FakeReward(meet)})
    submission = panel.submit([candidate()], {"a": 1, "b": 1})
    assert panel.collect().valid.all()
    assert submission.done()


def test_no_more_calls_run_at_once_than_a_reward_allows() -> None:
    def doze(candidates: Sequence[Candidate]) -> list[RewardResult]:
        time.sleep(0.02)
        return [RewardResult(1.0)] * len(candidates)

    one, three = FakeReward(doze), FakeReward(doze, concurrency=3)
    panel = RewardEnsemble({"one": one, "three": three})
    for grey in range(6):
        panel.submit([candidate(grey)], {"one": 1, "three": 1})
    panel.collect()
    assert one.most_at_once == 1
    assert 1 < three.most_at_once <= 3


def test_a_reward_that_fails_in_a_row_is_left_alone_then_probed() -> None:
    is_dead = [True]

    def answer(candidates: Sequence[Candidate]) -> list[RewardResult]:
        return raising(candidates) if is_dead[0] else [RewardResult(1.0)] * len(candidates)

    reward = FakeReward(answer)
    panel = RewardEnsemble({"r": reward}, config=RewardEnsembleConfig(breaker_after=2, breaker_pause=0.3))
    for grey in range(5):
        panel.submit([candidate(grey)], {"r": 1})
    scores = panel.collect()
    assert len(reward.calls) == 2
    assert (
        "not called, after failed calls in a row; the last reason: RewardUnavailable"
        in scores.reasons[4]["r"]
    )
    assert scores.metrics["r/skipped_rate"] == 3 / 5
    is_dead[0] = False
    time.sleep(0.35)
    panel.submit([candidate(6)], {"r": 1})
    assert panel.collect().valid.all()


def test_an_open_breaker_lets_one_probe_through_and_doubles_its_pause() -> None:
    now = [0.0]
    breaker = Breaker(2, pause=10, longest_pause=15, now=lambda: now[0])
    breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    now[0] = 10
    assert breaker.admits()
    assert not breaker.admits(), "one probe at a time"
    breaker.failed()
    now[0] = 24.9
    assert not breaker.admits(), "the pause is now 15, the longest"
    now[0] = 25
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.admits()
    assert breaker.admits()


def test_a_run_is_stopped_when_too_few_verdicts_have_a_score() -> None:
    config = RewardEnsembleConfig(failure_limit=0.5, failure_window=4)
    panel = RewardEnsemble({"dead": FakeReward(raising)}, config=config)
    panel.submit([candidate(0), candidate(1), candidate(2)], {"dead": 1})
    panel.collect()  # three verdicts decide nothing
    panel.submit([candidate(3)], {"dead": 1})
    with pytest.raises(
        TooManyFailures, match=r"dead: 100% of its last 4 .* limit is 50%; .* nobody is there"
    ):
        panel.collect()


def test_few_verdicts_decide_nothing_and_no_full_window_is_needed() -> None:
    config = RewardEnsembleConfig(failure_window=256, failure_minimum=3)
    panel = RewardEnsemble({"dead": FakeReward(raising)}, config=config)
    panel.submit([candidate(0), candidate(1)], {"dead": 1})
    panel.collect()
    panel.submit([candidate(2)], {"dead": 1})
    with pytest.raises(TooManyFailures, match=r"100% of its last 3 verdicts .* nobody is there \(3\)$"):
        panel.collect()


@pytest.mark.parametrize("is_held_out", [False, True])
def test_a_score_outside_its_range_is_named_with_the_reward_and_the_range(is_held_out: bool) -> None:
    scores = {0: 0.2, 9: 93.5, 255: 1.00001}  # the last by rounding
    bad = FakeReward(lambda c: [RewardResult(scores[one.image.getpixel((0, 0))[0]]) for one in c])
    held_out = ["bad"] if is_held_out else []
    panel = RewardEnsemble({"grey": FakeReward(), "bad": bad}, held_out=held_out)
    weights = {"grey": 1.0} if is_held_out else {"grey": 1.0, "bad": 0.1}
    panel.submit([candidate(0), candidate(255)], weights)
    assert panel.collect().tallies["bad"].num_scored == 2
    panel.submit([candidate(0), candidate(9)], weights)
    with pytest.raises(
        ScoreOutOfRange, match=r"reward bad: 1 of its 2 scores are outside .* 0 to 1; the first is 93.5;"
    ):
        panel.collect()


def test_a_score_outside_its_range_is_met_in_the_cache_too() -> None:
    reward = FakeReward(lambda c: [RewardResult(5.0)] * len(c))
    reward.high = 10.0
    panel = RewardEnsemble({"grey": reward})
    panel.submit([candidate(0)], {"grey": 1})
    assert panel.collect().valid.all()
    reward.high = 1.0  # the same version, another range
    panel.submit([candidate(0)], {"grey": 1})
    with pytest.raises(ScoreOutOfRange, match="the first is 5"):
        panel.collect()
    assert len(reward.calls) == 1


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"low": 1.0, "high": 0.0}, "the range 1.0 to 0.0, in which scores cannot differ"),
        ({"low": 0.5, "high": 0.5}, "scores cannot differ"),
        ({"low": float("nan")}, "the range nan to 1.0"),
        ({"precision": -1.0}, "the precision -1.0"),
    ],
)
def test_a_declaration_that_no_score_can_keep_is_refused(declared: dict[str, float], words: str) -> None:
    reward = FakeReward()
    for name, value in declared.items():
        setattr(reward, name, value)
    with pytest.raises(ValueError, match=f"reward grey declares {words}" if "range" in words else words):
        RewardEnsemble({"grey": reward})


def test_scores_and_reasons_are_counted_over_batches_and_processes() -> None:
    def answer(candidates: Sequence[Candidate]) -> list[RewardResult]:
        return [
            RewardResult(0.5) if grey_of(one) > 0.5 else RewardResult(None, f"too dark: {grey_of(one):.3f}")
            for one in candidates
        ]

    panel = RewardEnsemble({"light": FakeReward(answer), "unused": FakeReward()})
    panel.submit([candidate(grey) for grey in (1, 2, 255)], {"light": 1})
    first = panel.collect()
    panel.submit([candidate(grey) for grey in (3, 254, 253)], {"light": 1, "unused": 0})
    second = panel.collect().numbered([3, 4, 5])
    for both in (first + second, RewardBatch.gather([first, second])):
        assert set(both.tallies) == {"light"}
        assert str(both.tallies["light"]) == "3 of 6 images scored; no score for 3: too dark: # (3)"
    kept = (first + second).without(np.array([0]), 3)
    assert kept.tallies["light"].num_asked == 6  # those taken out were asked about, too


def test_many_reasons_are_counted_together_from_the_ninth_on() -> None:
    tally = sum(
        (ScoreTally.of([RewardResult(None, "reason " + "abcdefghijkl"[n])] * (n + 1)) for n in range(12)),
        ScoreTally(),
    )
    assert len(tally.masked) == 9
    assert tally.masked["other reasons"] == 1 + 2 + 3 + 4
    assert tally.num_masked == sum(range(13))
    assert reason_kind("line one 12.5 s\nline two") == "line one # s"
    assert len(reason_kind("word " * 100)) == 100


def test_one_candidate_that_cannot_be_judged_costs_only_its_own_score(caplog) -> None:
    class Fragile(EachAlone):
        def judge(self, candidate: Candidate) -> RewardResult:
            if grey_of(candidate) == 0:
                raise KeyError("black")
            if grey_of(candidate) == 1:
                raise ConnectionError("the service is gone")
            return RewardResult(np.float32(0.5))  # pyright: ignore[reportArgumentType]

    results = Fragile()([candidate(0), candidate(9), candidate(0)])
    assert [result.score for result in results] == [None, 0.5, None]
    assert type(results[1].score) is float  # what JSON can hold
    assert results[0].reason == "KeyError: 'black'"
    assert len([record for record in caplog.records if record.exc_info]) == 1
    with pytest.raises(ConnectionError):
        Fragile()([candidate(9), candidate(255)])


def test_a_held_out_judge_that_fails_stops_nothing() -> None:
    config = RewardEnsembleConfig(failure_limit=0.0, failure_window=1)
    panel = RewardEnsemble(
        {"grey": FakeReward(), "dead": FakeReward(raising)}, held_out=["dead"], config=config
    )
    panel.submit([candidate(0)], {"grey": 1})
    scores = panel.collect()
    assert not scores.held_out_valid.any()
    assert scores.metrics["dead/failure_rate"] == 1


def test_answers_of_a_judge_are_counted() -> None:
    answers = [
        RewardResult(0.5, num_questions=4, num_answers=3),
        RewardResult(None, "no tag", num_questions=4),
    ]
    panel = RewardEnsemble({"judge": FakeReward(lambda c: answers, kind="groupwise")})
    panel.submit([candidate(0), candidate(1)], {"judge": 1})
    metrics = panel.collect().metrics
    assert metrics["judge/parse_rate"] == 3 / 8
    assert metrics["judge/failure_rate"] == 1 / 2


# --- the cache ---


def test_the_same_question_is_asked_once_and_another_version_is_another_question() -> None:
    reward = FakeReward()
    panel = RewardEnsemble({"grey": reward})
    for _ in range(2):
        panel.submit([candidate(3), candidate(4)], {"grey": 1})
        scores = panel.collect()
    assert len(reward.calls) == 1
    assert scores.metrics["grey/cached_rate"] == 1
    reward._version = "fake-2"
    panel.submit([candidate(3)], {"grey": 1})
    panel.collect()
    assert len(reward.calls) == 2


def test_a_group_is_one_question() -> None:
    reward = FakeReward(kind="groupwise")
    panel = RewardEnsemble({"pairs": reward})
    for group in ([1, 2], [1, 3], [1, 2]):
        panel.submit([candidate(grey) for grey in group], {"pairs": 1})
        panel.collect()
    assert [len(call) for call in reward.calls] == [2, 2]


def test_a_failure_is_asked_again() -> None:
    reward = FakeReward(lambda c: [RewardResult(None, "no tag")] * len(c))
    panel = RewardEnsemble({"judge": reward})
    for _ in range(2):
        panel.submit([candidate()], {"judge": 1})
        panel.collect()
    assert len(reward.calls) == 2


def test_every_part_of_a_question_is_in_its_key() -> None:
    base = candidate(1, "a", targets=["x"])
    others = [
        candidate(2, "a", targets=["x"]),
        candidate(1, "b", targets=["x"]),
        candidate(1, "a", targets=["y"]),
        Candidate(image=base.image, prompt="a", metadata=base.metadata, references=(base.image,)),
        Candidate(image=base.image.resize((4, 16)), prompt="a", metadata=base.metadata),
    ]
    keys = {content_key("r", "1", [one]) for one in (base, *others)}
    keys |= {
        content_key("s", "1", [base]),
        content_key("r", "2", [base]),
        content_key("r", "1", [base, base]),
    }
    assert len(keys) == 9
    assert content_key("r", "1", [candidate(1, "a", targets=["x"])]) == content_key("r", "1", [base])


def test_verdicts_are_found_on_disk_by_the_next_run_and_a_torn_file_is_asked_again(tmp_path: Path) -> None:
    verdict = RewardResult(0.25, "so-so", num_questions=2, num_answers=1)
    RewardCache(1, tmp_path).put("ab12", [verdict])
    assert RewardCache(1, tmp_path).get("ab12") == (verdict,)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(json.dumps([{"score": 0.25}])[:-4])
    assert RewardCache(1, tmp_path).get("ab12") is None


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = RewardCache(2)
    for key in ("a", "b"):
        cache.put(key, [RewardResult(1.0)])
    cache.get("a")
    cache.put("c", [RewardResult(1.0)])
    assert [cache.get(key) is not None for key in ("a", "b", "c")] == [True, False, True]


# --- together ---


def test_a_group_of_the_shapes_world_is_scored_from_its_prompt_row() -> None:
    (row,) = prompt_rows(1, task="edit", kinds=("recolor",))
    asked = asked_of(row.metadata)
    assert isinstance(asked, ShapesEdit)
    images = [render(asked.target), render(asked.source)]
    group = [
        Candidate(image=image, prompt=row.prompt, references=row.references, metadata=row.metadata)
        for image in images
    ]
    rewards = {name: make_reward(name) for name in ("shapes", "shapes_kept", "preservation")}
    panel = RewardEnsemble(rewards, held_out=["shapes_kept"])
    panel.submit(group, {"shapes": 0.7, "preservation": 0.3})
    scores = panel.collect()
    assert scores.valid.all()
    assert scores.rewards[:, 0].tolist() == [1, 0]
    assert scores.held_out[:, 0].tolist() == [1, 1]
    assert scores.rewards[1, 1] == pytest.approx(1)
