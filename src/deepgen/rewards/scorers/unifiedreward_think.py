"""UnifiedReward-Think (Wang et al., 2025) on groups: a judge compares pictures of one prompt two by two.

A judge prefers places: the same pair shown the other way round often gets the other answer. So each pair is
asked both ways, and a judge that contradicts itself has seen no difference. An answer without the tag is not
a tie; the pair then has no verdict, and the share of answers that could be read is logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from deepgen.rewards.http import Connection
from deepgen.rewards.judge import answer_in
from deepgen.rewards.pairs import (
    Outcome,
    Pair,
    all_pairs,
    anchor_pairs,
    expected_win_rates,
    num_swiss_rounds,
    swiss_pairs,
    win_rates,
)
from deepgen.rewards.reward import Candidate, Kind, RewardResult
from deepgen.rewards.rubric_judge import JudgeOptions, RubricJudge

RUBRIC = """Two pictures, Image 1 and Image 2, were made for the same request: "{prompt}"

Weigh three things in this order: how faithfully each follows the request, how good it looks, and how free it
is of flaws that give it away as generated. If a source picture is shown first, the request is to edit it, and
what the request does not mention should have stayed as it was. Think it through between <think> and </think>.
Then commit yourself with <answer>Image 1 is better</answer> or <answer>Image 2 is better</answer>."""


@dataclass(frozen=True, kw_only=True)
class UnifiedRewardThinkOptions(JudgeOptions):
    """Which judge, which pairs it sees, and whether it sees each of them both ways round."""

    max_tokens: int = 4096
    pairing: Literal["all", "anchor", "swiss"] = "all"
    swap: bool = True


class UnifiedRewardThink:
    """Share of the comparisons within its group that a picture wins, 0 to 1."""

    kind: Kind = "groupwise"
    needs: tuple[str, ...] = ()
    low, high = 0.0, 1.0

    def __init__(self, options: UnifiedRewardThinkOptions, connection: Connection | None = None) -> None:
        self.options = options
        self.concurrency = 2  # groups at once: one keeps the judge busy, the other fills its gaps
        self._judge = RubricJudge(options, RUBRIC, connection)

    @property
    def version(self) -> str:
        """The judge, its wording, and how pairs are made."""
        order = "swap" if self.options.swap else "once"
        return f"unifiedreward-think-1-{self.options.pairing}-{order}-{self._judge.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict for each of a group; a candidate none of whose pairs was decided gets none."""
        size = len(candidates)
        if size < 2:
            return [RewardResult(None, "there is nothing to compare it with")] * size
        asked: list[Pair] = []
        decided: list[Outcome] = []
        answers: list[tuple[Pair, int]] = []
        for pairs in self._rounds(size, decided, asked):
            asked += pairs
            found = self._compare(candidates, pairs)
            answers += [(pair, num_answers) for pair, (_, num_answers) in zip(pairs, found, strict=True)]
            decided += [
                (*pair, share) for pair, (share, _) in zip(pairs, found, strict=True) if share is not None
            ]
        rate = expected_win_rates if self.options.pairing == "swiss" else win_rates
        per_pair = 2 if self.options.swap else 1
        verdicts = []
        for i, score in enumerate(rate(size, decided)):
            num_pairs = sum(i in pair for pair in asked)
            num_answers = sum(count for pair, count in answers if i in pair)
            num_decided = sum(i in outcome[:2] for outcome in decided)
            words = f"{num_decided} of {num_pairs} pairs decided"
            verdicts.append(RewardResult(score, words, per_pair * num_pairs, num_answers))
        return verdicts

    def _rounds(self, size: int, decided: list[Outcome], asked: list[Pair]) -> Iterator[list[Pair]]:
        """The pairs of each round; later ones depend on what was decided and asked before."""
        if self.options.pairing == "swiss":
            for _ in range(num_swiss_rounds(size)):
                yield swiss_pairs(size, decided, asked)
        else:
            yield all_pairs(size) if self.options.pairing == "all" else anchor_pairs(size)

    def _compare(
        self, candidates: Sequence[Candidate], pairs: Sequence[Pair]
    ) -> list[tuple[float | None, int]]:
        """The first one's share of each pair (None: not decided), and how many answers could be read.

        Without swapping, every second pair is shown the other way round, so that a preference for a place
        falls on all alike.
        """
        orders = [
            ([pair, pair[::-1]] if self.options.swap else [pair if sum(pair) % 2 else pair[::-1]])
            for pair in pairs
        ]
        shown = [order for both in orders for order in both]
        said = iter(self._judge.ask_all([self._question(candidates, order) for order in shown]))
        results = []
        for pair, both in zip(pairs, orders, strict=True):
            winners = [winner_of(next(said), order) for order in both]
            known = [winner for winner in winners if winner is not None]
            share = sum(winner == pair[0] for winner in known) / len(both)
            results.append((share if len(known) == len(both) else None, len(known)))
        return results

    def _question(self, candidates: Sequence[Candidate], order: Pair) -> list[str | Image.Image]:
        first, second = (candidates[i] for i in order)
        sources: list[str | Image.Image] = []
        for reference in first.references:
            sources += ["Source picture:", reference]
        images = ["Image 1:", first.image, "Image 2:", second.image]
        return [*sources, *images, self._judge.rubric_for(first.prompt)]


def winner_of(said: str | None, order: Pair) -> int | None:
    """Which of the two shown pictures an answer prefers; None where it does not say so."""
    answer = None if said is None else answer_in(said)
    named = [] if answer is None else re.findall(r"\bimage\s*([12])\s+is\s+better\b", answer, re.IGNORECASE)
    return order[int(named[0]) - 1] if len(set(named)) == 1 else None


options, reward = UnifiedRewardThinkOptions, UnifiedRewardThink
