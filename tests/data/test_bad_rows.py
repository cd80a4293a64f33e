"""Bad rows are counted and named, and too many of them end a run."""

from __future__ import annotations

import json

import pytest

from deepgen.data.bad_rows import BadRow, BadRowTracker, TooManyBadRows


def bad(sample: int) -> BadRow:
    return BadRow(sample, "cats", f"cats.json:{sample}", f"there is no picture at {sample}.png")


def test_a_share_within_the_limit_goes_on() -> None:
    bad_rows = BadRowTracker(limit=0.01)
    for step in range(10):
        bad_rows.record(100, [bad(step)])
    bad_rows.judge()
    assert (bad_rows.num_samples, bad_rows.num_bad, bad_rows.share) == (1000, 10, 0.01)


def test_nothing_is_judged_before_a_hundred_samples() -> None:
    bad_rows = BadRowTracker(limit=0.01)
    bad_rows.record(50, [bad(0), bad(1)])
    with pytest.raises(TooManyBadRows):
        bad_rows.record(50)


def test_a_short_run_is_judged_at_its_end() -> None:
    bad_rows = BadRowTracker(limit=0.01)
    bad_rows.record(8, [bad(0)])
    with pytest.raises(TooManyBadRows) as error:
        bad_rows.judge()
    text = str(error.value)
    assert "1 of 8 samples cannot be used (12.5%), more than the 1.0% allowed" in text
    assert "no picture at 0.png" in text
    assert "raise bad_share_limit" in text


def test_a_row_is_written_down_once_and_counted_each_time(tmp_path, caplog) -> None:
    bad_rows = BadRowTracker(limit=1, path=tmp_path / "log" / "bad.jsonl")
    bad_rows.record(10, [bad(3)])
    bad_rows.record(10, [bad(3), bad(4)])
    lines = (tmp_path / "log" / "bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["cats.json:3", "cats.json:4"]
    assert (bad_rows.num_bad, len(caplog.records)) == (3, 2)


def test_a_limit_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0.01 is one per cent"):
        BadRowTracker(limit=1.5)
