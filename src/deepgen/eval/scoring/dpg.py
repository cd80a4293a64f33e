"""DPG-Bench (Hu et al., 2024): questions about a prompt, answered yes or no, that depend on each other.

Known faults of the official scorer, repeated under "official": category scores look at the last tile only,
and an item with a question whose parent is missing (the first row of the table is skipped) drops out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import Protocol, mean

LEVELS = ("global", "entity", "attribute", "relation", "other")


def is_yes(reply: str) -> bool:
    """Only the bare word counts."""
    return reply == "yes"


def parents_of(dependency: str) -> list[int]:
    """Proposition ids a question depends on; 0 stands for none."""
    return [int(part) for part in str(dependency).split(",") if part.strip() and int(part) != 0]


def category_of(tuple_text: str) -> tuple[str, str]:
    """(level 1, level 2) of a question: what stands before the bracket, and before its first hyphen."""
    level_2 = tuple_text.split("(")[0].strip()
    return level_2.split("-")[0].strip(), level_2


def tile_score(questions: Sequence[Mapping[str, Any]], answers: Mapping[int, bool]) -> float:
    """Score in [0, 1] of one picture: the mean of the answers, a no making every question below it a no.

    Args:
        questions: `id` and `parents` in the order of the table.
        answers: by id.

    Raises:
        KeyError: a question depends on one that is not there.
    """
    scores: dict[int, float] = {question["id"]: float(answers[question["id"]]) for question in questions}
    for question in questions:
        if any(scores[parent] == 0 for parent in question["parents"]):
            scores[question["id"]] = 0.0
    return mean(list(scores.values()))


def item_score(
    questions: Sequence[Mapping[str, Any]],
    tiles: Sequence[Mapping[int, bool] | Mapping[str, bool]],
    protocol: Protocol = "fixed",
) -> float | None:
    """Mean score of an item's tiles in [0, 1]; None where the official scorer would lose the item.

    A question with `is_first_row` is the first row of the official table, which its scorer does not read.
    """
    if protocol == "official":
        questions = [question for question in questions if not question.get("is_first_row")]
    answers = [{int(key): bool(value) for key, value in tile.items()} for tile in tiles]
    try:
        return mean([tile_score(questions, tile) for tile in answers])
    except KeyError:
        if protocol == "official":
            return None
        raise


def aggregate(items: Sequence[Mapping[str, Any]], protocol: Protocol = "fixed") -> dict[str, float]:
    """Scores in [0, 100]: `overall`, and of each category as `level1 NAME` and `level2 NAME`.

    Args:
        items: `questions` (`id`, `parents`, `tuple`) and `tiles`, the answers by id of each tile.
        protocol: "official" takes the categories from the last tile only.
    """
    scores, levels = [], dict[str, list[float]]()
    for item in items:
        score = item_score(item["questions"], item["tiles"], protocol)
        if score is None:
            continue
        scores.append(score)
        for tile in item["tiles"][-1:] if protocol == "official" else item["tiles"]:
            answers = {int(key): value for key, value in tile.items()}
            for question in item["questions"]:
                if protocol == "official" and question.get("is_first_row"):
                    continue
                level_1, level_2 = category_of(question["tuple"])
                for name in (f"level1 {level_1}", f"level2 {level_2}"):
                    levels.setdefault(name, []).append(float(answers[question["id"]]))
    return {
        "overall": 100 * mean(scores),
        **{name: 100 * mean(values) for name, values in sorted(levels.items())},
    }
