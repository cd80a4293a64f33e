"""The code of the think tokens: orthogonal, readable, and the answer's where a prompt is a riddle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepgen.tiny.claims import CELLS
from deepgen.tiny.codes import (
    NUM_SLOTS,
    WIDTH,
    attributes,
    cell_codes,
    claim_code,
    directions,
    empty_code,
    pooled_code,
    to_array,
    write_code,
)
from deepgen.tiny.edits import BAD_EDIT_KINDS
from deepgen.tiny.scene import Scene, Thing, Word
from deepgen.tiny.splits import SAMPLERS, levels_of, sample

ALL_KINDS = [kind for kinds, _ in SAMPLERS.values() for kind in kinds]


def read_slot(vector: np.ndarray, group: str, threshold: float = 0.5) -> object | None:
    """The value of a group of attributes that a slot's vector (WIDTH,) says, or None where it says none.

    Args:
        vector: of one slot, as a think token gives it.
        group: "noun", "cell", "letter", ...
        threshold: least share of a direction that counts as said.
    """
    names = [name for name in attributes() if name[0] == group]
    rows = directions()[[attributes()[name] for name in names]]
    shares = rows @ vector / (WIDTH / 4)
    best = int(shares.argmax())
    return names[best][1] if shares[best] >= threshold else None


def test_directions_are_orthogonal_and_of_one_length() -> None:
    products = directions() @ directions().T
    np.testing.assert_array_equal(products, np.eye(len(attributes())) * WIDTH / 4)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_has_a_code_that_says_what_is_asked(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        example = sample(rng, kind)
        code = write_code(example)
        assert all(0 <= slot < NUM_SLOTS for slot, _ in code)
        assert len(set(code)) == len(code), "an attribute is said twice in a slot"
        array = to_array([code])[0]
        assert read_slot(array[0], "task") == ("edit" if example.source else "generate")
        assert code != empty_code("edit" if example.source else "generate")


def test_things_and_letters_are_read_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        example = sample(rng, "all")
        array = to_array([write_code(example)])[0]
        for slot, thing in enumerate(example.target.things, start=1):
            found = {name: read_slot(array[slot], name) for name in ("noun", "cell", "style", "size")}
            assert found == {name: getattr(thing, name) for name in found}
        assert read_slot(array[0], "ground") == example.target.ground
        text = sample(rng, "text")
        letters = [read_slot(slot, "letter") for slot in to_array([write_code(text)])[0][5:9]]
        assert text.target.word is not None
        assert "".join(str(letter) for letter in letters if letter) == text.target.word.text


def test_a_riddle_has_the_code_of_its_answer() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        riddle = sample(rng, "riddle")
        noun = read_slot(to_array([write_code(riddle)])[0][1], "noun")
        assert noun in riddle.claim.things[0].nouns  # type: ignore[union-attr]


def test_an_edit_names_what_it_is_about_and_what_that_becomes() -> None:
    rng = np.random.default_rng(2)
    example = sample(rng, "replace")
    array = to_array([write_code(example)])[0]
    assert example.source is not None
    gone = {thing.noun for thing in example.source.things} - {thing.noun for thing in example.target.things}
    come = {thing.noun for thing in example.target.things} - {thing.noun for thing in example.source.things}
    assert {read_slot(array[1], "noun")} == gone
    assert {read_slot(array[2], "noun")} == come
    assert read_slot(array[9], "edit") == "replace"


@pytest.mark.parametrize("kind", BAD_EDIT_KINDS)
def test_what_cannot_be_followed_has_the_code_of_what_is_asked(kind: str) -> None:
    """Whether it can be is for the DiT to see: a VLM that decides refused additions to free cells, too."""
    rng = np.random.default_rng(3)
    num_asked = 0
    for _ in range(60):
        example = sample(rng, kind)
        if example.as_if is None:
            assert kind == "nothing to change"
            assert read_slot(to_array([write_code(example)])[0][9], "edit") == "nothing"
            continue
        num_asked += 1
        assert example.as_if.text == example.text
        assert example.as_if.target != example.as_if.source != example.source == example.target
        assert write_code(example) == write_code(example.as_if)
        assert levels_of(example) >= levels_of(example.as_if) - {"new words"}
    assert num_asked > 40


def test_the_row_of_a_new_word_is_written_only_where_the_text_says_it() -> None:
    """A row that only the picture tells (the one that is free) is for the DiT to see."""
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(60):
        example = sample(rng, "write")
        assert example.target.word is not None
        is_said = any(word in example.text for word in ("top", "middle", "bottom"))
        slot = to_array([write_code(example)])[0][5]
        assert read_slot(slot, "row") == (example.target.word.row if is_said else None)
        seen.add(is_said)
    assert seen == {True, False}


def test_cells_say_what_stands_where() -> None:
    scene = Scene(
        ground="mint",
        things=(Thing(noun="cat", cell=(0, 2), style="flat", size="small"),),
        word=Word(text="HI", row=2),
    )
    codes = cell_codes(scene)
    assert [read_slot(code, "cell") for code in codes] == list(CELLS)
    assert read_slot(codes[2], "noun") == "cat"
    assert read_slot(codes[2], "style") == "flat"
    assert read_slot(codes[0], "noun") is None
    assert [read_slot(code, "letter") for code in codes[6:]] == ["H", "I", None]


def test_the_pooled_code_is_the_scaled_mean() -> None:
    code = to_array([claim_code(sample(np.random.default_rng(0), "two").claim)])  # type: ignore[arg-type]
    np.testing.assert_allclose(pooled_code(code)[0], 2 * code[0].mean(0))


def test_the_vlm_learns_every_kind_of_attribute_as_a_choice() -> None:
    """By regression alone ground and relation were hardly learned; task and slot never vary in place."""
    from deepgen.tiny.stages.vlm import StorybookVLM, StorybookVLMConfig

    kinds = {kind for kind, _ in attributes()}
    assert set(StorybookVLM(StorybookVLMConfig()).groups) == kinds - {"task", "slot"}


@pytest.mark.parametrize("kind", ["restyle all", "mirror scene", "change ground", "night"])
def test_an_edit_that_draws_everything_anew_lists_the_things_and_their_cells(kind: str) -> None:
    """The DiT did not recognise them in latents; the VLM sees them."""
    from deepgen.tiny.stages.vlm import cell_slots

    rng = np.random.default_rng(5)
    for _ in range(20):
        example = sample(rng, kind)
        assert example.source is not None
        array = to_array([write_code(example)])[0]
        things = sorted(example.source.things, key=lambda thing: thing.cell)
        for slot in range(1, 5):
            said = (read_slot(array[slot], "noun"), read_slot(array[slot], "cell"))
            thing = things[slot - 1] if slot <= len(things) else None
            assert said == ((thing.noun, thing.cell) if thing else (None, None))
        slots = cell_slots(*(torch.from_numpy(x)[None] for x in (cell_codes(example.source), array)))[0]
        own = {thing.cell: slot for slot, thing in enumerate(things, start=1)}
        assert slots.tolist() == [own.get(cell, -1) for cell in CELLS]


def test_no_cell_has_a_slot_where_the_code_names_no_thing_with_its_place() -> None:
    from deepgen.tiny.stages.vlm import cell_slots

    for kind in ("replace", "move", "full cell"):
        example = sample(np.random.default_rng(6), kind)
        assert example.source is not None
        code = torch.from_numpy(to_array([write_code(example)]))
        assert (cell_slots(torch.from_numpy(cell_codes(example.source))[None], code) == -1).all()
