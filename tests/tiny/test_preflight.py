"""What a prompt asks for that the storybook world cannot draw, and where it is said."""

from __future__ import annotations

import numpy as np
import pytest

from deepgen.tiny.preflight import check_captions, check_prompt, count_things, folder_captions
from deepgen.tiny.splits import SAMPLERS


def kinds(text: str, is_edit: bool = False) -> list[str]:
    return [warning.kind for warning in check_prompt(text, is_edit)]


def test_the_worlds_own_prompts_raise_no_warning():
    rng = np.random.default_rng(0)
    for own_kinds, sampler in SAMPLERS.values():
        for kind in own_kinds:
            for _ in range(20):
                example = sampler(rng, kind)
                for text in filter(None, (example.text, example.direct)):
                    assert kinds(text, example.source is not None) == [], text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["empty"]),
        ("   ", ["empty"]),
        ("a giraffe", ["unknown noun"]),
        ("six cats", ["too many things"]),
        ("seven giraffes", ["unknown noun", "too many things"]),
        ("a cat, a dog, a cow, a pig and a sheep", ["too many things"]),
        ("three cats and two palm trees", ["too many things"]),
        ("two cats and two palm trees", []),
        ("the word HELLO", ["long word"]),
        ('a sign that says "hello"', ["long word"]),
        ('the word "R2"', ["long word"]),
        ("the word HEY", []),
        ("A CAT AND A DOG", []),
        ("dos gatos", ["language", "unknown noun"]),
        ("一只猫", ["language", "unknown noun"]),
    ],
)
def test_a_prompt_beyond_the_world_is_named(text, expected):
    assert kinds(text) == expected


def test_an_instruction_counts_only_what_it_adds():
    assert kinds("make the cat and the dog and the cow and the pig and the hen big", is_edit=True) == []
    assert kinds("add five cats", is_edit=True) == ["too many things"]
    assert count_things("as many stars as a dog has legs") == 0


def test_an_unknown_noun_comes_with_the_nearest_one():
    (warning,) = check_prompt("a gorilla in a meadow")
    assert (warning.word, warning.nearest) == ("gorilla", "monkey")
    assert str(warning) == 'this model\'s world has no "gorilla"; the nearest thing it knows is "monkey"'


def test_captions_of_a_folder_are_counted_by_their_unknown_nouns(tmp_path):
    (tmp_path / "a.txt").write_text("a giraffe in a meadow\n")
    (tmp_path / "b.txt").write_text("two giraffes and a gorilla, a giraffe on top")
    (tmp_path / "rows.jsonl").write_text('{"image": "c.png", "caption": "a gorilla"}\n\n{"image": "d.png"}\n')
    found = check_captions(folder_captions(tmp_path))
    assert found == [("giraffe", "horse", 2), ("gorilla", "monkey", 2), ("giraffes", "horse", 1)]
    (tmp_path / "rows.jsonl").write_text('{"caption": \n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1 is no JSON"):
        list(folder_captions(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder of captions"):
        list(folder_captions(tmp_path / "none"))
