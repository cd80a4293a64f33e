"""Text in pictures: what is asked for, how a match is scored, and the rewards around an engine."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deepgen.rewards.ocr import RapidReader, boxes_of, targets_of
from deepgen.rewards.reward import Candidate, CannotJudge
from deepgen.rewards.scorers.ocr import OCR, OCROptions
from deepgen.rewards.scorers.text_edit import TextEdit, TextEditOptions
from deepgen.rewards.text_match import (
    MatchConfig,
    TextBox,
    edit_distance,
    locate,
    match_text,
    normalize,
    quoted_spans,
    reading_order,
)


def asking(prompt: str = "", **metadata: object) -> Candidate:
    return Candidate(
        image=Image.new("RGB", (8, 8)),
        prompt=prompt,
        references=(Image.new("RGB", (8, 8)),),
        metadata=metadata,
    )


class reads:
    """A reader that finds the same lines in every picture."""

    version = "fake"

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def __call__(self, image: Image.Image) -> list[str]:
        return list(self.lines)


# --- what is asked for ---


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ('a sign that says "OPEN"', ["OPEN"]),
        ('"FIRST" above "SECOND LINE"', ["FIRST", "SECOND LINE"]),
        ("a shop named “Café Noir” and a plate ‘No. 7’", ["Café Noir", "No. 7"]),
        ("ein Schild „Geöffnet“ und «Entrée»", ["Geöffnet", "Entrée"]),
        ("一张海报,上面写着「你好,世界」和『再见』", ["你好,世界", "再见"]),
        ("海报写着“春天来了”", ["春天来了"]),
        ("a mug with 'HELLO' on it", ["HELLO"]),
        ("the dog's ball and the cats' toy of the '80s", []),
        ("the dog’s ball and the cats’ toy", []),
        ('an empty "" pair and a "  " blank', []),
        ('a 12" plate', []),
        ('a card “it’s "fine" today”', ['it’s "fine" today']),
    ],
)
def test_every_quoted_span_is_found_and_apostrophes_are_none(prompt: str, spans: list[str]) -> None:
    assert quoted_spans(prompt) == spans


def test_targets_of_the_row_go_before_quotes() -> None:
    assert targets_of(asking('say "A"', targets=["B", "C"])) == ["B", "C"]
    assert targets_of(asking('say "A"', targets="B")) == ["B"]
    assert targets_of(asking('say "A"')) == ["A"]


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (asking("a sign"), "quotes no text"),
        (asking('say "A"', targets=[" "]), "targets holds no text"),
        (asking('say "A"', targets=7), "must be a list of texts"),
        (asking('say "A"', targets=["A", 7]), "must be a list of texts"),
    ],
)
def test_a_prompt_without_text_gets_no_score(candidate: Candidate, words: str) -> None:
    with pytest.raises(CannotJudge, match=words):
        targets_of(candidate)
    (verdict,) = OCR(OCROptions(), reads("A"))([candidate])
    assert verdict.score is None


# --- matching ---


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("Hello, World!", "helloworld"),
        ("ＦＵＬＬ ｗｉｄｔｈ １２", "fullwidth12"),
        ("你好,世界。", "你好世界"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("50% off & more", "50%off&more"),
        ("!!!", "!!!"),
        ("ﬁne\u200b", "fine"),
    ],
)
def test_letters_of_every_script_count(text: str, letters: str) -> None:
    assert normalize(text) == letters


def test_case_and_punctuation_count_where_they_are_asked_to() -> None:
    assert normalize("Hi, You", is_case_sensitive=True, keeps_punctuation=True) == "Hi,You"


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)],
)
def test_edit_distance_is_levenshteins(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


def test_locating_is_the_least_edit_distance_to_any_substring() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        text = "".join(rng.choice(list("abc"), 9))
        target = "".join(rng.choice(list("abc"), 4))
        distance, start, end = locate(target, text)
        least = min(edit_distance(target, text[i:j]) for i in range(10) for j in range(i, 10))
        assert distance == least == edit_distance(target, text[start:end])


def score(targets: list[str], *lines: str, **config: float) -> float:
    return match_text(targets, lines, MatchConfig(**config)).score  # pyright: ignore


def test_every_letter_right_is_worth_one_however_lines_are_broken() -> None:
    match = match_text(["Grand Opening", "你好"], ["GRAND", "opening!", "你好"])
    assert match.score == match.similarity == match.order == 1
    assert (match.extra, match.is_exact) == (0, True)


def test_nothing_read_is_worth_nothing() -> None:
    match = match_text(["OPEN"], [])
    assert (match.score, match.is_exact) == (0, False)


def test_a_wrong_letter_costs_its_share() -> None:
    assert score(["OPEN"], "OPBN") == 0.75
    assert score(["OPEN", "SIXTEEN"], "OPEN SIXTEEM") == pytest.approx(10 / 11)


def test_long_targets_weigh_more() -> None:
    only_long = score(["A", "ABCDEFGHI"], "ABCDEFGHI")
    assert only_long == pytest.approx(0.9)


def test_a_wrong_order_costs() -> None:
    assert score(["ONE", "TWO"], "ONE", "TWO") == 1
    assert score(["ONE", "TWO"], "TWO", "ONE") == pytest.approx(1 - 0.3 * 0.5)
    assert score(["ONE", "TWO"], "TWO", "ONE", order_weight=0) == 1


def test_repeating_a_word_does_not_pay() -> None:
    once = score(["SALE"], "SALE")
    twice = score(["SALE"], "SALE", "SALE")
    often = score(["SALE"], *["SALE"] * 20)
    assert once == 1
    assert twice == often == 0.5
    assert not match_text(["SALE"], ["SALE", "SALE"]).is_exact


def test_a_word_asked_for_twice_has_to_be_there_twice() -> None:
    assert score(["HA", "HA"], "HA", "HA") == 1
    assert score(["HA", "HA"], "HA") == 0.5


def test_text_nobody_asked_for_costs_by_its_length() -> None:
    assert score(["OPEN"], "OPEN", "XY") == pytest.approx(1 - 0.5 * 0.5)
    assert score(["OPEN"], "OPEN", "XY", extra_weight=0) == 1


def test_looking_for_no_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="no text to look for"):
        match_text(["  "], ["A"])
    with pytest.raises(ValueError, match="extra_weight is a share"):
        MatchConfig(extra_weight=2)


def test_lines_are_read_row_by_row() -> None:
    boxes = [
        TextBox(text="right", left=60, top=3, right=90, bottom=13),
        TextBox(text="below", left=0, top=30, right=40, bottom=40),
        TextBox(text="left", left=0, top=0, right=40, bottom=10),
    ]
    assert reading_order(boxes) == ["left", "right", "below"]


# --- rewards ---


def test_the_ocr_reward_says_what_was_read() -> None:
    right, wrong = (OCR(OCROptions(), reads(line))([asking('a sign "OPEN"')])[0] for line in ("open", "OPBN"))
    assert (right.score, right.reason) == (1, "exact; read 'open'")
    assert wrong.score == 0.75
    assert wrong.reason.startswith("letters 0.75, order 1.00, extra 0.00")


def test_an_edit_of_text_is_right_when_the_new_is_there_and_the_old_is_gone() -> None:
    candidate = asking("change OPEN to CLOSED", targets=["CLOSED"], absent=["OPEN"])
    scores = {}
    for lines in (["CLOSED"], ["CLOSED", "OPEN"], ["OPEN"], ["CLOSED", "MENU OF THE DAY"]):
        (verdict,) = TextEdit(TextEditOptions(), reads(*lines))([candidate])
        scores[" ".join(lines)] = verdict.score
    assert scores["CLOSED"] == 1
    assert scores["CLOSED OPEN"] == 0
    assert scores["OPEN"] == 0
    assert scores["CLOSED MENU OF THE DAY"] == 1


def test_old_text_that_is_part_of_the_new_may_stay() -> None:
    candidate = asking("", targets=["OPEN NOW"], absent=["OPEN"])
    (verdict,) = TextEdit(TextEditOptions(), reads("OPEN NOW"))([candidate])
    assert verdict.score == 1


def test_lines_the_engine_is_unsure_of_are_left_out() -> None:
    quad = np.array([[1, 2], [9, 2], [9, 6], [1, 6]])
    (box,) = boxes_of([quad, quad, quad], ("A", "B", " "), (0.9, 0.3, 0.9), 0.5)
    assert (box.text, box.left, box.top, box.right, box.bottom) == ("A", 1, 2, 9, 6)
    assert boxes_of(None, None, None, 0.5) == []


@pytest.mark.slow
def test_the_real_engine_reads_a_drawn_word() -> None:
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (320, 96), "white")
    ImageDraw.Draw(image).text((20, 20), "OPEN", fill="black", font_size=56)
    assert normalize("".join(RapidReader(0.5)(image))) == "open"
