"""What is said of several seeds: an interval and a claim from eight on, and neither before."""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path

import pytest

from deepgen.evaluation.statistics import LEAST_SEEDS, PUBLISHED_SEEDS, over_seeds, share_interval, wilson

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]

import ablation  # noqa: E402  # in tools/, which is no package
import shapes_rl  # noqa: E402

PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def test_seven_seeds_give_a_mean_and_no_interval() -> None:
    found = over_seeds([0.5] * 6 + [0.6])
    assert LEAST_SEEDS == 8
    assert (found.half_width, found.is_significant, found.num_seeds) == (None, False, 7)
    assert found.shown(2) == "+0.51"
    with pytest.raises(ValueError, match="at least 1 run, got 0"):
        over_seeds([])


def test_eight_seeds_give_the_interval_of_student_s_t() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    found = over_seeds(values)
    # t(0.975, 7 degrees of freedom) = 2.3646, as printed in every table
    assert found.half_width == pytest.approx(2.3646 * statistics.stdev(values) / math.sqrt(8), rel=1e-3)
    assert found.is_significant
    assert found.shown(1) == "+4.5 ± 2.0"
    assert not over_seeds([value - 4 for value in values]).is_significant
    assert over_seeds([-1.0, 1.0] * 50).half_width == pytest.approx(1.98 * 0.1, rel=0.05)


def results(num_seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """The second row is worse for captions in every seed, and differs by chance for edits."""
    rows: dict[str, dict[str, dict[str, float]]] = {"first": {}, "other": {}}
    for seed in range(num_seeds):
        rows["first"][str(seed)] = {"generate": 0.4 + 0.1 * seed, "edit": 0.3}
        chance = 0.02 * (-1) ** seed
        rows["other"][str(seed)] = {"generate": 0.45 + 0.1 * seed + chance / 10, "edit": 0.3 + chance}
    return rows


def test_the_ablation_claims_nothing_of_fewer_than_eight_seeds() -> None:
    assert "±" not in ablation.table(results(7))
    assert ablation.claims(results(7)) == "No claim: 7 seeds, and a difference is claimed from 8 on."
    assert len(ablation.Ablation(output=Path(), data=Path()).seeds) == 8


def test_the_ablation_says_what_was_significant_and_what_was_not() -> None:
    table, said = ablation.table(results(8)), ablation.claims(results(8))
    assert table.count("±") == 2
    assert "95 % confidence interval" in said
    assert "Differs from the first: other (captions).\nNot significant: other (edits)." in said


@pytest.mark.parametrize(("num_seeds", "has_interval"), [(3, False), (8, True)])
def test_the_benchmark_of_reinforcement_learning_claims_as_little(num_seeds: int, has_interval: bool) -> None:
    kinds = [*shapes_rl.GENERATION_KINDS, *(f"edit {kind}" for kind in shapes_rl.EDIT_KINDS)]

    def scores(value: float) -> dict[str, dict[str, float]]:
        return {"by default": dict.fromkeys(kinds, value)}

    found: dict = {"before": scores(0.5)}
    for seed in range(num_seeds):
        found[f"ours-{seed}"] = {"after": scores(0.6 + seed / 100), "rollouts": 1, "passes_per_rollout": 1}
    table = shapes_rl.ShapesRL(output=Path()).table(found)
    assert ("±" in table) == has_interval
    assert (f"ours: {num_seeds} seeds (no claim: that takes 8)" in table) == (not has_interval)


def test_the_page_of_the_small_model_claims_no_more_than_its_record() -> None:
    page = (ROOT / "docs" / "shapes" / "README.md").read_text()
    recorded = json.loads((ROOT / "docs" / "shapes" / "ablation.json").read_text())
    assert ablation.table(recorded) in page
    assert ablation.claims(recorded) in page
    for name in list(recorded)[1:]:  # which the page says, too
        for task in ("generate", "edit"):
            values = [
                recorded[name][seed][task] - recorded[next(iter(recorded))][seed][task] for seed in "012"
            ]
            # t(0.975, 2 degrees of freedom)
            assert abs(statistics.mean(values)) < 4.303 * statistics.stdev(values) / math.sqrt(3)


def test_a_published_table_is_of_three_seeds_or_says_that_it_is_of_one() -> None:
    table = json.loads((ROOT / "docs" / "shapes" / "shapes.json").read_text())
    said = "one seed of the evaluation" in (ROOT / "docs" / "shapes" / "README.md").read_text().lower()
    assert said == (table.get("num_seeds", 1) < PUBLISHED_SEEDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_plus_minus_is_half_of_a_confidence_interval_on_every_page(page: Path) -> None:
    text = page.read_text()
    assert " ± " not in text or "95 % confidence interval" in " ".join(text.split())


def test_intervals_of_shares_are_over_claims() -> None:
    claims = {number: [float(number != 3)] * 2 for number in range(10)}
    pictures = {(number, k): [verdict] for number, pair in claims.items() for k, verdict in enumerate(pair)}
    assert share_interval(claims) == (0.7, 1.0)
    assert share_interval(claims)[0] < share_interval(pictures)[0] < 0.9
    # nothing differs, or there is too little: Wilson's, with the number of claims
    assert share_interval({number: [1.0, 1.0, 1.0] for number in range(10)}) == wilson(1.0, 10)
    assert share_interval({"a": [1.0, 0.0], "b": [1.0]}) == wilson(2 / 3, 2)
    # the mean of two kinds, one of them with ten times the claims
    low, high = share_interval(claims, {number: [float(number % 2)] for number in range(100)})
    assert low < 0.7 < high
    assert high - low == pytest.approx(2 * 1.96 * math.hypot(0.095, 0.05) / 2, rel=0.15)
