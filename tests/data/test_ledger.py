"""Bad rows are counted and named, and too many of them end a run."""

from __future__ import annotations

import json

import pytest

from deepgen.data.ledger import BadRow, Ledger, TooManyBadRows


def bad(sample: int) -> BadRow:
    return BadRow(sample, "cats", f"cats.json:{sample}", f"there is no picture at {sample}.png")


def test_a_share_within_the_limit_goes_on() -> None:
    ledger = Ledger(limit=0.01)
    for step in range(10):
        ledger.record(100, [bad(step)])
    ledger.judge()
    assert (ledger.num_samples, ledger.num_bad, ledger.share) == (1000, 10, 0.01)


def test_nothing_is_judged_before_a_hundred_samples() -> None:
    ledger = Ledger(limit=0.01)
    ledger.record(50, [bad(0), bad(1)])
    with pytest.raises(TooManyBadRows):
        ledger.record(50)


def test_a_short_run_is_judged_at_its_end() -> None:
    ledger = Ledger(limit=0.01)
    ledger.record(8, [bad(0)])
    with pytest.raises(TooManyBadRows) as error:
        ledger.judge()
    text = str(error.value)
    assert "1 of 8 samples cannot be used (12.5%), more than the 1.0% allowed" in text
    assert "no picture at 0.png" in text
    assert "raise bad_share_limit" in text


def test_a_row_is_written_down_once_and_counted_each_time(tmp_path, caplog) -> None:
    ledger = Ledger(limit=1, path=tmp_path / "log" / "bad.jsonl")
    ledger.record(10, [bad(3)])
    ledger.record(10, [bad(3), bad(4)])
    lines = (tmp_path / "log" / "bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["cats.json:3", "cats.json:4"]
    assert (ledger.num_bad, len(caplog.records)) == (3, 2)


def test_a_limit_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0.01 is one per cent"):
        Ledger(limit=1.5)
