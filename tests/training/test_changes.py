"""What has changed since a run was last at work is listed, and what changes a step has to be accepted."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deepgen.training import changes
from deepgen.training.changes import fact_changes, field_changes
from deepgen.training.loop import train
from deepgen.training.run_folder import read_run
from toy_run import ToyConfig


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_what_is_the_same_is_not_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(ToyConfig(num_steps=2), tmp_path)
    train(ToyConfig(num_steps=2), tmp_path, resume=True)
    assert "changed since" not in said(caplog)


def test_pace_and_habits_may_change_and_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ToyConfig(num_steps=2)
    train(config, tmp_path)
    other = replace(config, num_steps=4, save_every=1, optim=replace(config.optim, lr=0.001, clip_norm=0.5))
    assert train(other, tmp_path, resume=True).step == 4
    assert f"changed since {tmp_path} was last at work:" in said(caplog)
    for line in (
        "num_steps: 2 -> 4",
        "save_every: 2 -> 1",
        "optim.lr: 0.01 -> 0.001",
        "optim.clip_norm: 1.0 -> 0.5",
    ):
        assert f"\n  {line}" in said(caplog)
    history = read_run(tmp_path)["history"]
    assert [entry["step"] for entry in history] == [2]
    assert "optim.lr: 0.01 -> 0.001" in history[0]["changes"]


def test_what_changes_a_step_needs_a_word_and_a_refusal_forgets_nothing(tmp_path: Path) -> None:
    config = ToyConfig(num_steps=2)
    train(config, tmp_path)
    other = replace(config, num_steps=4, noise=0.5, seed=3, optim=replace(config.optim, weight_decay=0.1))
    before = (tmp_path / "config.json").read_bytes()
    for _ in range(2):  # a second try is asked again
        with pytest.raises(
            ValueError, match=r"noise: 0\.1 -> 0\.5; optim\.weight_decay: 0\.0 -> 0\.1; seed: 0 -> 3"
        ):
            train(other, tmp_path, resume=True)
        assert (tmp_path / "config.json").read_bytes() == before
    with pytest.raises(ValueError, match="Resume with what it had, or add --accept-changes"):
        train(other, tmp_path, resume=True)
    assert train(other, tmp_path, resume=True, accept_changes=True).step == 4
    assert read_run(tmp_path)["noise"] == 0.5
    assert train(other, tmp_path, resume=True).step == 4  # accepted once


def test_rows_rewards_and_versions_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    facts: dict[str, Any] = {
        "data": {"sources": {"mine": {"rows": 12, "content": "aa"}}, "bad_share_limit": 0.01},
        "rewards": {"redness": {"version": "1", "options": {}}},
    }
    monkeypatch.setattr(ToyConfig, "facts", lambda self, stage: facts)
    config = ToyConfig(num_steps=2)
    train(config, tmp_path)
    facts["data"] = {"sources": {"mine": {"rows": 13, "content": "bb"}}, "bad_share_limit": 0.5}
    facts["rewards"] = {"redness": {"version": "2", "options": {}}}
    monkeypatch.setattr(changes, "__version__", "99")
    with pytest.raises(
        ValueError, match=r"data\.sources\.mine\.content: aa -> bb; data\.sources\.mine\.rows: 12"
    ) as no:
        train(config, tmp_path, resume=True)
    assert "rewards.redness.version: 1 -> 2" in str(no.value)
    assert "versions.deepgen" not in str(no.value)
    assert "bad_share_limit" not in str(no.value)
    assert "versions.deepgen: " in said(caplog)
    assert " -> 99" in said(caplog)
    assert "data.bad_share_limit: 0.01 -> 0.5" in said(caplog)
    train(config, tmp_path, resume=True, accept_changes=True)


def test_a_run_of_an_older_version_goes_on_and_what_is_unknown_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ToyConfig(num_steps=2)
    train(config, tmp_path)
    file = tmp_path / "config.json"
    old = {
        k: v
        for k, v in json.loads(file.read_text()).items()
        if k not in ("facts", "max_skipped_steps", "noise")
    }
    file.write_text(json.dumps(old))
    folder = tmp_path / "step-00000002"
    (folder / "SHA256SUMS").unlink()
    (folder / "state.json").write_text('{"step": 2}\n')
    assert train(replace(config, num_steps=4), tmp_path, resume=True).step == 4
    assert "has no SHA256SUMS, so its files were not checked for damage" in said(caplog)
    assert "did not write down its versions, machine, so they are not compared" in said(caplog)
    assert "noise" not in said(caplog)  # a field of this version with its default is no change
    assert set(read_run(tmp_path)["facts"]) == {"versions", "machine"}


def test_a_record_that_is_cut_short_is_named(tmp_path: Path) -> None:
    train(ToyConfig(num_steps=2), tmp_path)
    file = tmp_path / "config.json"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        train(ToyConfig(num_steps=2), tmp_path, resume=True)
    file.unlink()
    assert train(ToyConfig(num_steps=2), tmp_path, resume=True).step == 2


@dataclass(frozen=True, kw_only=True)
class Part:
    rank: int = 4


@dataclass(frozen=True, kw_only=True)
class WithParts(ToyConfig):
    places = ("data",)
    lora: Part | None = None
    data: Path | None = None
    micro_batch_size: int = 4
    padding: str = "hidden"


def compared(before: ToyConfig, now: ToyConfig, **more: Any) -> dict[str, bool]:
    written = {**json.loads(json.dumps(vars_of(before), default=str)), **more}
    return {str(change): change.is_of_a_step for change in field_changes(written, now)}


def vars_of(config: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


def test_parts_that_are_switched_on_or_off_are_one_change() -> None:
    off, on = WithParts(), WithParts(lora=Part(rank=8))
    assert compared(off, on) == {"lora: none -> rank=8": True}
    assert compared(on, off) == {"lora: rank=8 -> none": True}
    assert compared(on, WithParts(lora=Part())) == {"lora.rank: 8 -> 4": True}


def test_a_micro_batch_is_part_of_a_step_only_where_its_samples_see_each_other() -> None:
    for padding, is_of_a_step in (("hidden", False), ("visible", True)):
        one = WithParts(padding=padding)
        assert compared(one, replace(one, micro_batch_size=2)) == {"micro_batch_size: 4 -> 2": is_of_a_step}


def test_data_may_move_and_without_a_record_files_are_compared(tmp_path: Path) -> None:
    for name, text in (("a.yaml", "same"), ("b.yaml", "same"), ("c.yaml", "other")):
        (tmp_path / name).write_text(text)
    a, b, c, gone = (WithParts(data=tmp_path / f"{name}.yaml") for name in ("a", "b", "c", "gone"))
    assert compared(a, b) == {}
    assert list(compared(a, c).values()) == [True]
    (text, is_of_a_step), *rest = compared(gone, a).items()
    assert "cannot be compared" in text
    assert not is_of_a_step
    assert not rest
    known = {"facts": {"data": {"rows": 1}}}  # then the rows themselves are compared
    assert compared(a, c, **known) == {f"data: {a.data} -> {c.data}": False}
    assert [change.is_of_a_step for change in fact_changes(known, {"data": {"rows": 2}})] == [True]
