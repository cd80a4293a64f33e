"""Wordings: enough of each kind, all different, and the last one never said otherwise in training."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from deepgen.tiny.wordings import Group, load_wordings

ALL = [(group, kind) for group in get_args(Group) for kind in load_wordings(group)]


@pytest.mark.parametrize(("group", "kind"), ALL)
def test_a_held_out_wording_is_another_one_with_parts_that_training_knows(group: Group, kind: str) -> None:
    *trained, held_out = load_wordings(group)[kind]
    assert len(set(trained)) >= 3
    assert held_out not in trained
    parts = re.compile(r"\{(\w+)\}")
    known = {part for text in trained for part in parts.findall(text)}
    assert set(parts.findall(held_out)) <= known

    def bare(text: str) -> str:
        return " ".join(re.findall(r"\{?\w+\}?", text))

    assert bare(held_out) not in {bare(text) for text in trained}  # nor with other commas or quotes
