"""What a prompt asks for that the storybook world cannot draw, and where it is said."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deepgen.tiny.edits import BAD_EDIT_KINDS
from deepgen.tiny.preflight import check_captions, check_prompt, count_things, folder_captions
from deepgen.tiny.render import render
from deepgen.tiny.scene import Scene, Thing, Word
from deepgen.tiny.splits import SAMPLERS

SCENE = Scene(
    ground="meadow",
    things=(
        Thing(noun="cat", cell=(0, 0)),
        Thing(noun="apple", cell=(1, 1), size="small", style="flat"),
        Thing(noun="apple", cell=(1, 2)),
    ),
    word=Word(text="GO", row=2),
)
FULL = Scene(
    things=tuple(
        Thing(noun=noun, cell=cell)
        for noun, cell in (("cat", (0, 0)), ("dog", (0, 1)), ("sun", (2, 0)), ("key", (1, 0)))
    )
)


def kinds(text: str, is_edit: bool = False, scene: Scene | None = None) -> list[str]:
    images = () if scene is None else (render(scene),)
    return [warning.kind for warning in check_prompt(text, is_edit, images)]


def test_the_worlds_own_prompts_raise_no_warning_but_those_that_cannot_be_followed():
    rng = np.random.default_rng(0)
    for own_kinds, sampler in SAMPLERS.values():
        for kind in own_kinds:
            expected = [kind] if kind in BAD_EDIT_KINDS else []
            for _ in range(40 if kind in BAD_EDIT_KINDS else 12):
                example = sampler(rng, kind)
                for text in filter(None, (example.text, example.direct)):
                    assert kinds(text, example.source is not None, example.source) == expected, example


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
        ("two elefants", ["unknown noun"]),
        ("five fruits", ["too many things"]),
        ("no cat, only a cat", ["contradiction"]),
        ("bunnies, but without any rabbit", ["contradiction"]),
        ("a small big cat", ["contradiction"]),
        ("a big cat and a small dog", []),
        ("a glossy flat horse", ["contradiction"]),
        ("a meadow at night with a cat", ["contradiction"]),
        ("a cat on a pink background in the snow", ["contradiction"]),
        ("a cat at night, in the dark", []),
        ("a cat left of a dog, the dog left of the cat", ["contradiction"]),
        ("a cat above a dog and a cat below a dog", ["contradiction"]),
        ("a cat above a dog and a key below a dog", []),
        ("a dog and no cat", ["exclusion"]),
        ("a cat and nothing else", []),
        ("the word GO and the word STOP", ["too many words"]),
        ("the word GO, the word GO", []),
        ("you see eight arms on this animal", []),
        ("something with six legs that is an insect", []),
        ("bee cat bee cat bee cat and then what", []),
    ],
)
def test_a_prompt_beyond_the_world_is_named(text, expected):
    assert kinds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected", "expected_of_full"),
    [
        ("remove the dog", ["not there"], []),
        ("Remove the small dog from the picture, please", ["not there"], []),
        ("delete the fruit", [], ["not there"]),
        ("replace the dog with a cat", ["not there"], []),
        ("feed the monkey", ["not there"], ["not there"]),
        ("erase GO", [], ["not there"]),
        ("delete the word NO", ["not there"], ["not there"]),
        ("swap the cat and the dog", ["not there"], []),
        ("add a dog, then make the dog small", [], []),
        ("add the sun", [], ["full cell"]),
        ("add a dog at the top left", ["full cell"], ["full cell"]),
        ("put a sun at the bottom", ["full cell"], ["full cell"]),
        ("add two dogs", ["full cell"], ["full cell"]),
        ("write HI at the top", ["full cell"], ["full cell"]),
        ("move the cat to the middle", ["full cell"], []),
        ("move the cat to the top left", ["nothing to change"], ["nothing to change"]),
        ("make the cat bigger", ["nothing to change"], ["nothing to change"]),
        ("make the apples small", [], ["not there"]),
        ("mirror the apple", ["nothing to change"], ["not there"]),
        ("make everything glossy", [], ["nothing to change"]),
        ("change the background to a meadow", ["nothing to change"], []),
        ("the word should be GO", ["nothing to change"], ["not there"]),
        ("turn the cat into a cat", ["nothing to change"], ["nothing to change"]),
        ("leave it as it is", ["nothing to change"], ["nothing to change"]),
        ("what is on the left of the cat?", [], []),
        ("write A at the top", ["full cell"], ["full cell"]),
        ("the cat must stand at the top left", ["nothing to change"], ["nothing to change"]),
        ("let there be a dog at the top left", ["full cell"], ["full cell"]),
        ("the cat must be large", ["nothing to change"], ["nothing to change"]),
        ("fix the word: GO", ["nothing to change"], ["not there"]),
        ("it should say GO, not OG", ["nothing to change"], []),
    ],
)
def test_an_instruction_that_the_picture_cannot_follow_is_named(text, expected, expected_of_full):
    assert kinds(text, scene=SCENE) == expected
    assert kinds(text, scene=FULL) == expected_of_full


def test_the_warning_of_an_edit_says_what_is_wrong_and_what_comes():
    (warning,) = check_prompt("remove the dog", images=[render(SCENE)])
    assert str(warning) == 'there is no "dog" in the picture, so the picture should stay as it is'


@pytest.mark.parametrize(
    "images",
    [
        [],
        [Image.new("RGB", (96, 96), (255, 0, 0))],
        [render(SCENE).resize((192, 192))],
        [render(SCENE), render(FULL)],
    ],
)
def test_a_picture_that_is_not_understood_is_not_compared_with_the_instruction(images):
    assert check_prompt("remove the dog", is_edit=True, images=images) == []


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
