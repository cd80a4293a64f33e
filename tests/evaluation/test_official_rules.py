"""Every parser of a judge's reply against a statement of the official rule, on 20,000 replies each.

Where the two differ, the difference is one that `deepgen.evaluation.official_differences` lists for that
benchmark and protocol, and of just that form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from deepgen.evaluation import response_schema as schemas
from deepgen.evaluation.benchmark import Item
from deepgen.evaluation.benchmark_file import load_benchmark_file
from deepgen.evaluation.benchmarks import (
    benchmark_names,
    corebench,
    dpg,
    gedit,
    imgedit,
    load_benchmark,
    unigenbench,
    wise,
)
from deepgen.evaluation.judge_benchmark import parse_final_score
from deepgen.evaluation.official_differences import DIFFERENCES
from evaluation import official_rules
from evaluation.official_rules import many_replies, replies

Allowed = Callable[[str, Any, Any], bool]  # of a reply, what is read here, and what officially


def read(name: str, category: str = "", protocol: Any = "official", **metadata: Any) -> Callable[[str], Any]:
    """What the benchmark reads of a reply, by its own method."""
    benchmark: Any = load_benchmark(name, protocol)
    item = Item(id="1", category=category, prompt="p", metadata=metadata)
    return lambda reply: benchmark.read(item, name.partition(":")[2], reply)


@dataclass(frozen=True)
class Rule:
    """A parser, the statement of its rule, and by name of a listed difference where the two may differ."""

    benchmark: str
    ours: Callable[[str], Any]
    stated: Callable[[str], Any]
    allowed: Mapping[str, Allowed] = field(default_factory=dict)
    protocol: str = "both"


def is_above(limit: int) -> Allowed:
    return lambda text, ours, stated: ours is None and stated is not None and max(_list(stated)) > limit


def is_number_above(limit: int) -> Allowed:
    """As `is_above`, of what the reply says before it becomes a grade."""
    return lambda text, ours, stated: ours is None and (official_rules.first_number(text) or 0) > limit


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_on_another_scale(text: str, ours: Any, stated: Any) -> bool:
    return ours is None and official_rules.first_number(text) in (2, 3, 4)


def is_off_ten(text: str, ours: Any, stated: Any) -> bool:
    return ours is None and stated is not None and not all(0 <= number <= 10 for number in stated)


def is_no_json(text: str, ours: Any, stated: Any) -> bool:
    return stated is None and ours is not None and "{" in text and "score" in text


def is_among_brackets(text: str, ours: Any, stated: Any) -> bool:
    if stated is not None or ours is None or ("{" in text and "}" in text):
        return False
    return "[" in text if len(ours) == 2 else text.strip().endswith(".")


def is_a_part(text: str, ours: Any, stated: Any) -> bool:
    numbers = [line.strip().split(": ") for line in text.splitlines()]
    grades = [int(pair[1]) for pair in numbers if len(pair) == 2 and pair[1].isdecimal()]
    return ours is None and (len(grades) != 3 or not all(1 <= grade <= 5 for grade in grades))


def has_no_blank_line(text: str, ours: Any, stated: Any) -> bool:
    return "</think>" in text.split("</think>\n\n")[-1]


def is_a_judges_word(text: str, ours: Any, stated: Any) -> bool:
    word = text.strip().strip(".").lower()
    return ours is None if word not in ("yes", "no") else ours is (word == "yes")


FINAL = {"final score: grades above 5": is_number_above(5)}
OTHER_SCALE = {**FINAL, "risebench: logical grades of 2 to 4": is_on_another_scale}
BLANK_LINE = {"corebench: no blank line after thinking": has_no_blank_line}
GEDIT = {
    "gedit: grades off the scale": is_off_ten,
    "gedit: objects that are no JSON": is_no_json,
    "gedit: one list among other brackets": is_among_brackets,
}
RULES = {
    "final score, all numbers": Rule("risebench", parse_final_score, official_rules.final_score),
    "risebench, a grade": Rule(
        "risebench", read("risebench:full", "temporal_reasoning"), official_rules.first_number, FINAL
    ),
    "risebench, logical": Rule(
        "risebench", read("risebench:full", "logical_reasoning"), official_rules.logical, FINAL
    ),
    "risebench, logical, fixed": Rule(
        "risebench",
        read("risebench:full", "logical_reasoning", "fixed"),
        official_rules.logical,
        OTHER_SCALE,
        "fixed",
    ),
    "unireditbench": Rule("unireditbench", read("unireditbench"), official_rules.first_number, FINAL),
    "wise, legacy": Rule("wise", wise.parse_legacy, official_rules.wise_legacy),
    "wise, legacy, graded": Rule(
        "wise", read("wise:legacy"), official_rules.wise_legacy, {"wise: grades above 2": is_above(2)}
    ),
    "wise, verified": Rule("wise", read("wise:verified"), official_rules.wise_verified),
    "gedit": Rule("gedit", read("gedit:en"), official_rules.gedit, GEDIT),
    "unigenbench": Rule("unigenbench", read("unigenbench:en", points=["a", "b"]), official_rules.unigenbench),
    "unigenbench, while RL ran": Rule(
        "unigenbench",
        lambda text: unigenbench.parse_as_deepgen_rl(text, 2),
        partial(official_rules.unigenbench, needs_length=False),
    ),
    "corebench, Gemini": Rule(
        "corebench", lambda text: corebench.parse(text, "fixed"), official_rules.corebench, BLANK_LINE
    ),
    "corebench, open judges": Rule(
        "corebench",
        lambda text: corebench.parse(text, "official"),
        partial(official_rules.corebench, lowers=False),
        BLANK_LINE,
    ),
    "imgedit": Rule("imgedit", read("imgedit"), official_rules.imgedit),
    "imgedit, fixed": Rule(
        "imgedit",
        read("imgedit", protocol="fixed"),
        official_rules.imgedit,
        {"imgedit: fewer than three grades": is_a_part},
        "fixed",
    ),
    "dpg": Rule("dpg", read("dpg"), official_rules.dpg, {"dpg: a judge's words": is_a_judges_word}),
    "dpg, VQA": Rule("dpg", dpg.is_yes, official_rules.dpg),
}


def check(rule: Rule, count: int) -> None:
    """No difference that is not listed, each listed one occurs, and the forms are not all refused."""
    for name in rule.allowed:
        listed = DIFFERENCES[name]
        assert rule.benchmark in listed.benchmarks
        assert listed.protocol in ("both", rule.protocol), f"{name} is not listed for {rule.protocol}"
    pairs = [(text, rule.ours(text), rule.stated(text)) for text in many_replies(count, 3)]
    assert sum(ours is not None for _, ours, _ in pairs) > count / 250
    differ = [pair for pair in pairs if pair[1] != pair[2]]
    found = [{name for name, allowed in rule.allowed.items() if allowed(*pair)} for pair in differ]
    assert [pair for pair, names in zip(differ, found, strict=True) if not names] == []
    assert set().union(*found) == set(rule.allowed)


@pytest.mark.parametrize("name", RULES)
def test_a_parser_follows_the_official_rule_on_20000_replies(name):
    check(RULES[name], 20_000)


@pytest.mark.parametrize(
    ("number", "official", "fixed"),
    [(0, 1, 1), (1, 5, 5), (2, 5, None), (4, 5, None), (5, 5, 5), (6, None, None)],
)
def test_a_logical_answer_of_5_is_full_marks_in_both_protocols(number, official, fixed):
    """The official script takes the lesser of the number and 1: what is above 1 counts as 1."""
    for protocol, expected in (("official", official), ("fixed", fixed)):
        parse = read("risebench:full", "logical_reasoning", protocol)
        assert parse(f"So it is.\nFinal Score: {number}") == expected


def test_final_scores_count_where_no_final_score_has_a_number():
    assert parse_final_score("Final Scores 1 and 5") == [1]
    assert parse_final_score("Final Scores: 1\nFinal Score: 4") == [4]
    assert parse_final_score("Final Score follows. Final Scores: 2, 3") == [2, 3]
    assert parse_final_score("अंतिम: Final Score: ४") == [4], "Python's digits are those of all scripts"


@pytest.mark.parametrize(
    ("reply", "scores"),
    [("{score: 7, reasoning: fine}", [7]), ("{score: -1}", None), ("{score: [07, 1]}", None)],
)
def test_gedit_reads_one_number_of_an_object_without_quotes_as_officially(reply, scores):
    assert gedit.parse(reply) == scores


def test_every_benchmark_with_a_judge_has_its_rule_stated():
    judged = {name for name in benchmark_names() if "judge" in load_benchmark(name).needs}
    assert judged == {rule.benchmark for rule in RULES.values()}


def test_every_listed_difference_names_a_benchmark_and_reads_as_one_line():
    for name, listed in DIFFERENCES.items():
        assert set(listed.benchmarks) <= set(benchmark_names()), name
        assert "\n" not in str(listed)
        assert listed.reason
    assert "--protocol fixed" in str(DIFFERENCES["imgedit: fewer than three grades"])


def test_a_benchmark_of_ones_own_reads_by_its_documented_rule(tmp_path):
    (tmp_path / "mine.yaml").write_text("prompts: [p]\nrule: yes-no\nquestions: [is it so]\n")
    own: Any = load_benchmark_file(tmp_path / "mine.yaml", "", "official")
    item = Item(id="1", category="", prompt="p")
    for text in many_replies(20_000, 3):
        assert own.read(item, "0", text) == official_rules.own_yes_no(text), text
    (tmp_path / "graded.yaml").write_text("prompts: [p]\nrule: grade\nscale: [1, 5]\nquestions: [how so]\n")
    graded: Any = load_benchmark_file(tmp_path / "graded.yaml", "", "official")
    for text in many_replies(20_000, 3):
        assert graded.read(item, "0", text) == official_rules.own_grade(text), text


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("Scores: [6, 0]", [6, 0]),
        ("Scores: [6, 0].", [6, 0]),
        ("```json\n[6, 0]\n```", [6, 0]),
        ("{score: [6, 0], reasoning: fine}", [6, 0]),
        ('{"score": [6, 0], "reasoning": "a "quoted" word"}', [6, 0]),
        ("7.", [7]),
        ('{"score": 7}', [7]),
        ("[6, 11]", None),
        ("I would say 6 and 0", None),
        ("[1, 2] or [3, 4]", None),
        ("", None),
    ],
)
def test_gedit_repairs_what_the_official_parser_repairs_and_throws_no_dice(reply, scores):
    assert gedit.parse(reply) == scores


def test_no_parser_raises_on_anything():
    for text in replies(5_000, 4):
        gedit.parse(text)
        wise.parse_verified(text)
        imgedit.parse(text, "fixed")
        unigenbench.parse_as_deepgen_rl(text, 2)
        schemas.grades("A", low=1, high=5).read(text)
    for text in ("Final Score: " + "9" * 5000, "A: " + "9" * 5000, "<score>" + "[" * 5000, "\ud800 yes"):
        for parse in (parse_final_score, gedit.parse, imgedit.parse, wise.parse_legacy, corebench.parse):
            parse(text)
        unigenbench.parse(text, 2)
