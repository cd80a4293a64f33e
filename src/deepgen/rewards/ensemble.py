"""All rewards of a run together, called in threads while the next group is sampled.

A verdict that failed to come is a masked entry of the matrix, never a zero, and is counted by its reason.
Rewards cannot hold each other up: each has its own queue, its own limit of calls at once, and a time-out
after which the call is given up (its thread is left to end by itself, as Python cannot stop it). A run that
would train on too few verdicts is stopped, with the name of the reward and the reasons; so is one in which a
score is outside the range its reward declares.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepgen.config import NOT_NEGATIVE, check_bounds
from deepgen.moved import renamed
from deepgen.rewards.breaker import Breaker
from deepgen.rewards.cache import RewardCache, content_key
from deepgen.rewards.reward import (
    Candidate,
    Reward,
    RewardResult,
    RewardUnavailable,
    ask,
    check_declaration,
    check_range,
    is_in_range,
    missing_fields,
    precision_of,
)
from deepgen.rewards.reward_batch import RewardBatch, ScoreTally, added_tallies, counted, reason_kind
from deepgen.user_files import described, line_of

Candidates = tuple[Candidate, ...]

logger = logging.getLogger(__name__)

__getattr__ = renamed(__name__, {"Scores": "deepgen.rewards.reward_batch.RewardBatch"})


@dataclass(frozen=True, kw_only=True)
class RewardEnsembleConfig:
    """How rewards are called.

    Attributes:
        timeout: seconds a call may take from its start, retries included.
        failure_limit: share of verdicts without a score at which the run is stopped; 1 never stops it.
        failure_window: the last verdicts of a reward that share is taken over.
        failure_minimum: fewer verdicts than these, or than the window, decide nothing.
        breaker_after, breaker_pause, breaker_longest_pause: failed calls in a row, and seconds.
        cache_size: questions whose verdicts are kept in memory; 0 keeps none.
        cache_dir: where verdicts are kept on disk too, for the next run.
    """

    timeout: float = 180.0
    failure_limit: float = 0.5
    failure_window: int = 256
    failure_minimum: int = 8
    breaker_after: int = 3
    breaker_pause: float = 10.0
    breaker_longest_pause: float = 300.0
    cache_size: int = 10_000
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse times and shares out of range."""
        if self.timeout <= 0:
            raise ValueError(f"timeout must be positive, got {self.timeout}")
        if not 0 <= self.failure_limit <= 1:
            raise ValueError(f"failure_limit is a share from 0 to 1, got {self.failure_limit}")
        for name in ("failure_window", "failure_minimum", "breaker_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        names = ("breaker_pause", "breaker_longest_pause", "cache_size")
        check_bounds(self, dict.fromkeys(names, NOT_NEGATIVE))


class TooManyFailures(OSError):
    """A reward gave too few verdicts to train on."""


class Submission:
    """One group under way."""

    def __init__(
        self,
        num_candidates: int,
        weights: Mapping[str, float],
        futures: Mapping[str, Future[list[RewardResult]]],
    ) -> None:
        self.num_candidates, self.weights, self._futures = num_candidates, weights, futures

    def done(self) -> bool:
        """Whether every reward has answered or been given up."""
        return all(future.done() for future in self._futures.values())

    def result(self) -> dict[str, list[RewardResult]]:
        """The verdicts by reward, of those that were asked; waits for them."""
        return {name: future.result() for name, future in self._futures.items()}


class RewardEnsemble:
    """Scores groups of candidates with several rewards at once.

    Args:
        rewards: by the name they have in weights and metrics.
        held_out: rewards that are called for every candidate and only logged; no weight may name them.
        config: time-outs, limits and the cache.

    Raises:
        ValueError: no reward, a held-out name without a reward, or a range in which scores cannot differ.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        *,
        held_out: Sequence[str] = (),
        config: RewardEnsembleConfig | None = None,
    ) -> None:
        config = config or RewardEnsembleConfig()
        unknown = [name for name in held_out if name not in rewards]
        if unknown:
            raise ValueError(f"held-out reward {unknown[0]!r} is not given; given: {', '.join(rewards)}")
        self.names = tuple(name for name in rewards if name not in held_out)
        self.held_out_names = tuple(held_out)
        if not self.names:
            raise ValueError("there is no reward to train on: all of them are held out, or none was given")
        for name, reward in rewards.items():
            check_declaration(name, reward)
        self.config = config
        folder = None if config.cache_dir is None else Path(config.cache_dir)
        cache = RewardCache(config.cache_size, folder)
        self._workers = {name: RewardWorker(name, reward, config, cache) for name, reward in rewards.items()}
        self._submissions: list[Submission] = []

    @property
    def precisions(self) -> tuple[float, ...]:
        """Of each reward that may be trained on: the difference of scores that means nothing, as declared."""
        return tuple(self._workers[name].precision for name in self.names)

    def check_weights(self, weights: Mapping[str, float]) -> None:
        """ValueError where weights name a reward that is not there or is held out, are negative, or all 0."""
        unknown = [name for name in weights if name not in self._workers]
        if unknown:
            raise ValueError(f"weights name unknown rewards {unknown}; known: {', '.join(self.names)}")
        watched = [name for name in weights if name in self.held_out_names and weights[name]]
        if watched:
            raise ValueError(f"{watched[0]} is held out: it is logged and never trained on; drop its weight")
        wrong = [name for name, weight in weights.items() if not (weight >= 0 and np.isfinite(weight))]
        if wrong:
            raise ValueError(f"the weight of {wrong[0]} must be 0 or more, got {weights[wrong[0]]}")
        if not any(weights.values()):
            raise ValueError(f"no reward has a weight; give one to any of: {', '.join(self.names)}")

    def facts(self, options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Of each reward its version, without addresses, and its options, to compare later."""
        return {
            name: {
                "version": re.sub(r"https?://\S+\s*", "", worker.version),
                "options": {key: str(value) for key, value in options.get(name, {}).items() if key != "url"},
            }
            for name, worker in self._workers.items()
        }

    def submit(self, group: Sequence[Candidate], weights: Mapping[str, float]) -> Submission:
        """Start scoring the candidates of one prompt; comes back at once.

        Called are the rewards whose weight is not 0, and those held out. Results are taken with `collect`.
        """
        if not group:
            raise ValueError("a group holds at least one candidate")
        self.check_weights(weights)
        asked = [name for name in self.names if weights.get(name, 0)] + list(self.held_out_names)
        futures = {name: self._workers[name].ask(tuple(group)) for name in asked}
        submission = Submission(len(group), dict(weights), futures)
        self._submissions.append(submission)
        return submission

    def collect(self) -> RewardBatch:
        """Wait for everything submitted since the last time, and line it up.

        The metrics of each reward called: `failure_rate` (verdicts without a score / asked for), `mean` and
        `std` of its scores, `latency` (mean seconds of a call), `cached_rate`, `skipped_rate` (the breaker
        was open), and for judges `parse_rate` (answers in the form asked for / questions).

        Raises:
            ScoreOutOfRange: a reward, held out or not, gave a score outside the range it declares.
            TooManyFailures: a reward that is trained on fails more often than `failure_limit`.
        """
        submissions, self._submissions = self._submissions, []
        answers = [(submission, submission.result()) for submission in submissions]
        for worker in self._workers.values():
            worker.check_range()
        for name in self.names:
            self._workers[name].check_failure_rate()
        rewards, valid = _matrix(answers, self.names)
        held_out, held_out_valid = _matrix(answers, self.held_out_names)
        metrics = {}
        for names, values, is_valid in (
            (self.names, rewards, valid),
            (self.held_out_names, held_out, held_out_valid),
        ):
            for column, name in enumerate(names):
                metrics.update(self._workers[name].take_metrics())
                scores = values[is_valid[:, column], column]
                if len(scores):
                    metrics |= {f"{name}/mean": float(scores.mean()), f"{name}/std": float(scores.std())}
        rows = [(submission, i) for submission in submissions for i in range(submission.num_candidates)]
        weights = [[submission.weights.get(name, 0.0) for name in self.names] for submission, _ in rows]
        reasons = tuple(
            {name: verdicts[i].reason for name, verdicts in said.items()}
            for submission, said in answers
            for i in range(submission.num_candidates)
        )
        return RewardBatch(
            numbers=np.arange(len(rows), dtype=np.int64),
            names=self.names,
            rewards=rewards,
            valid=valid,
            weights=np.array(weights, dtype=np.float32).reshape(len(rows), len(self.names)),
            reasons=reasons,
            held_out_names=self.held_out_names,
            held_out=held_out,
            held_out_valid=held_out_valid,
            metrics=metrics,
            tallies=added_tallies(
                {name: ScoreTally.of(verdicts) for name, verdicts in said.items()} for _, said in answers
            ),
        )


def _matrix(
    answers: Sequence[tuple[Submission, Mapping[str, Sequence[RewardResult]]]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and validity bool, both (I, len(names))."""
    num_rows = sum(submission.num_candidates for submission, _ in answers)
    values = np.zeros((num_rows, len(names)), dtype=np.float32)
    valid = np.zeros((num_rows, len(names)), dtype=bool)
    row = 0
    for submission, verdicts in answers:
        for column, name in enumerate(names):
            for i, verdict in enumerate(verdicts.get(name, ())):
                if verdict.score is not None:
                    values[row + i, column], valid[row + i, column] = verdict.score, True
        row += submission.num_candidates
    return values, valid


class RewardWorker:
    """Where the calls of one reward queue: at most `concurrency` at once, each with a time-out."""

    def __init__(self, name: str, reward: Reward, config: RewardEnsembleConfig, cache: RewardCache) -> None:
        self._name, self._reward, self._config, self._cache = name, reward, config, cache
        self._breaker = Breaker(config.breaker_after, config.breaker_pause, config.breaker_longest_pause)
        self._queue: deque[tuple[Candidates, Future[list[RewardResult]]]] = deque()
        self._num_running = 0
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        # why the last verdicts have no score; None where they have one
        self._window: deque[str | None] = deque(maxlen=config.failure_window)
        self._last_reason = self._call_failure = ""
        self._is_reported = False  # an error, with its traceback
        self._scores: list[float | None] = []  # since the last check, as they were given

    def ask(self, candidates: Candidates) -> Future[list[RewardResult]]:
        future: Future[list[RewardResult]] = Future()
        with self._lock:
            self._queue.append((candidates, future))
        self._start_waiting()
        return future

    @property
    def version(self) -> str:
        """What makes the scores."""
        return self._reward.version

    @property
    def precision(self) -> float:
        """Of the reward."""
        return precision_of(self._reward)

    def check_range(self) -> None:
        """ScoreOutOfRange where a score since the last time was outside the declared range."""
        with self._lock:
            scores, self._scores = self._scores, []
        check_range(self._name, self._reward, scores)

    def check_failure_rate(self) -> None:
        """TooManyFailures where too few of the last verdicts have a score."""
        with self._lock:
            window, reason = list(self._window), self._last_reason
        failures = Counter(reason_kind(why) for why in window if why is not None)
        rate, limit = failures.total() / max(1, len(window)), self._config.failure_limit
        least = min(self._config.failure_window, self._config.failure_minimum)
        if len(window) >= least and rate > limit:
            in_full = "" if reason in failures else f"; the last in full: {reason}"
            raise TooManyFailures(
                f"reward {self._name}: {rate:.0%} of its last {len(window)} verdicts have no score, and the "
                f"limit is {limit:.0%}; the reasons: {counted(failures)}{in_full}"
            )

    def take_metrics(self) -> dict[str, float]:
        """Rates since the last time."""
        with self._lock:
            counts, seconds = self._counts, self._seconds
            self._counts, self._seconds = Counter(), 0.0
        asked = counts["asked"]
        if not asked:
            return {}
        metrics = {f"{kind}_rate": counts[kind] / asked for kind in ("failed", "cached", "skipped")}
        metrics["failure_rate"] = metrics.pop("failed_rate")
        if counts["calls"]:
            metrics["latency"] = seconds / counts["calls"]
        if counts["questions"]:
            metrics["parse_rate"] = counts["answers"] / counts["questions"]
        return {f"{self._name}/{key}": value for key, value in metrics.items()}

    def _start_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._num_running >= self._reward.concurrency:
                    return
                candidates, future = self._queue.popleft()
                self._num_running += 1
            started = time.monotonic()
            timer = threading.Timer(self._config.timeout, self._give_up, (candidates, future))
            timer.daemon = True
            thread = threading.Thread(
                target=self._work,
                args=(candidates, future, timer, started),
                name=f"reward {self._name}",
                daemon=True,
            )
            timer.start()
            thread.start()

    def _work(
        self,
        candidates: Candidates,
        future: Future[list[RewardResult]],
        timer: threading.Timer,
        started: float,
    ) -> None:
        try:
            verdicts, was_called = self._verdicts(candidates, started)
            outcome = self._breaker.succeeded if was_called else None
        except Exception as error:  # any error of one reward: it must not stop the others
            is_known = isinstance(error, RewardUnavailable) or line_of(error) is not None or self._is_reported
            logger.warning(
                "reward %s failed: %s", self._name, described(error), exc_info=None if is_known else error
            )
            self._is_reported = True
            self._call_failure = described(error)
            verdicts = _without_score(candidates, self._call_failure)
            outcome = self._breaker.failed
        timer.cancel()
        self._finish(future, verdicts, outcome)

    def _give_up(self, candidates: Candidates, future: Future[list[RewardResult]]) -> None:
        reason = self._call_failure = f"no answer within {self._config.timeout:g} s"
        if self._finish(future, _without_score(candidates, reason), self._breaker.failed):
            logger.warning("reward %s failed: %s", self._name, reason)

    def _finish(
        self,
        future: Future[list[RewardResult]],
        verdicts: list[RewardResult],
        outcome: Callable[[], None] | None,
    ) -> bool:
        """Deliver and tell the breaker, unless the call was given up already; whether it was delivered."""
        with self._lock:
            if future.done():
                return False
            self._num_running -= 1
            if outcome is not None:
                outcome()
            for verdict in verdicts:
                self._window.append(None if verdict.score is not None else verdict.reason)
                self._counts["asked"] += 1
                self._counts["failed"] += verdict.score is None
                if verdict.score is None:
                    self._last_reason = verdict.reason
            future.set_result(verdicts)
        self._start_waiting()
        return True

    def _verdicts(self, candidates: Candidates, started: float) -> tuple[list[RewardResult], bool]:
        """From the cache or from the reward, and whether that was called; a candidate without a needed field
        is not sent.
        """
        lacking = [missing_fields(self._reward.needs, candidate) for candidate in candidates]
        verdicts: dict[int, RewardResult] = {
            i: RewardResult(None, reason) for i, reason in enumerate(lacking) if reason
        }
        able = [i for i, reason in enumerate(lacking) if not reason]
        if not able:
            return [verdicts[i] for i in range(len(candidates))], False
        if not self._breaker.admits():
            with self._lock:
                self._counts["skipped"] += len(able)
            skipped = RewardResult(
                None, f"not called, after failed calls in a row; the last reason: {self._call_failure}"
            )
            return [verdicts.get(i, skipped) for i in range(len(candidates))], False
        version = self._reward.version
        is_pointwise = self._reward.kind == "pointwise"
        questions = [(i,) for i in able] if is_pointwise else [tuple(able)]
        keys = {q: content_key(self._name, version, [candidates[i] for i in q]) for q in questions}
        known = {q: self._cache.get(key) for q, key in keys.items()}
        for question, found in known.items():
            verdicts.update(zip(question, self._within_range(found or ()), strict=False))
        new = [q for q in questions if known[q] is None]
        with self._lock:
            self._counts["cached"] += sum(len(q) for q in questions if known[q] is not None)
        order = [i for q in new for i in q]
        if order:
            verdicts.update(zip(order, self._call([candidates[i] for i in order], started), strict=True))
            for question in new:
                self._cache.put(keys[question], [verdicts[i] for i in question])
        return [verdicts[i] for i in range(len(candidates))], True

    def _call(self, candidates: list[Candidate], started: float) -> list[RewardResult]:
        """The reward's own verdicts, refused where they are not what it declared."""
        verdicts = ask(self._reward, candidates)
        with self._lock:
            self._counts["calls"] += 1
            self._seconds += time.monotonic() - started
            self._counts["questions"] += sum(verdict.num_questions for verdict in verdicts)
            self._counts["answers"] += sum(verdict.num_answers for verdict in verdicts)
        return self._within_range(verdicts)

    def _within_range(self, verdicts: Sequence[RewardResult]) -> list[RewardResult]:
        """The verdicts, without the scores that `check_range` will stop at."""
        with self._lock:
            self._scores += [verdict.score for verdict in verdicts]
        reason = f"outside the range it declares, {self._reward.low:g} to {self._reward.high:g}"
        return [
            verdict
            if is_in_range(self._reward, verdict.score)
            else RewardResult(None, f"the score {verdict.score} is {reason}")
            for verdict in verdicts
        ]


def _without_score(candidates: Sequence[Candidate], reason: str) -> list[RewardResult]:
    return [RewardResult(None, reason)] * len(candidates)
