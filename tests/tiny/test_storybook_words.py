"""Which slot and which cell the words of a prompt learn to know: what the VLM is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepgen.models.prompts import Tokens, tokenize
from deepgen.tiny.claims import CELLS, Claim, ThingClaim
from deepgen.tiny.codes import NUM_SLOTS, attributes, cell_codes, claim_code, to_array, write_code
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.scene import Scene, Thing
from deepgen.tiny.splits import sample
from deepgen.tiny.stages.vlm import (
    StorybookVLM,
    StorybookVLMConfig,
    token_meaning,
    word_cells,
    word_slots,
)
from deepgen.tiny.tokenizer import load_tokenizer, tokens
from loaded_scripts import load_script


def _told(text: str) -> tuple[list[str], torch.Tensor]:
    """The words of a text, and the attribute numbers of those that name a noun or a letter."""
    words = [tokens()[number] for number in load_tokenizer()(text)["input_ids"]]
    meanings = [token_meaning(word) for word in words]
    return words, torch.tensor([[-1 if m is None else attributes()[m] for m in meanings]])


def _named(text: str, target: torch.Tensor) -> list[tuple[str, int]]:
    """The words that name something, with what they should know; no other word should know anything."""
    words, told = _told(text)
    rows = list(zip(words, target[0].tolist(), told[0].tolist(), strict=True))
    assert all(known == -1 for _, known, number in rows if number < 0)
    return [(word, known) for word, known, number in rows if number >= 0]


def _code(*things: str, word: str = "") -> torch.Tensor:
    claim = Claim(
        things=tuple(ThingClaim(nouns=(noun,)) for noun in things), words=(word,) if word else (), rows=(1,)
    )
    return torch.from_numpy(to_array([claim_code(claim)]))


@pytest.mark.parametrize(
    ("text", "code", "wanted"),
    [
        ("a dog and a cat", _code("dog", "cat"), [("dog", 1), ("cat", 2)]),
        ("a cat and a dog", _code("cat", "dog"), [("cat", 1), ("dog", 2)]),
        ("three cats", _code("cat", "cat", "cat"), [("cats", -1)]),  # in three slots at once
        ("write OTTO", _code(word="OTTO"), [("O", 5), ("T", 6), ("T", 7), ("O", 8)]),
        ("write CAT backwards", _code(word="TAC"), [("C", 7), ("A", 6), ("T", 5)]),
        ("cat or pig, the smaller one", _code("cat"), [("cat", 1), ("pig", -1)]),
    ],
)  # fmt: skip
def test_a_word_belongs_in_the_slot_that_has_its_noun_or_letter(text, code, wanted):
    assert _named(text, word_slots(_told(text)[1], code)) == wanted


def test_a_noun_is_in_its_cell_or_in_none():
    source = Scene(
        ground="white",
        things=(
            Thing(noun="dog", cell=(2, 2)), Thing(noun="bee", cell=(0, 0)), Thing(noun="bee", cell=(0, 1)),
        ),
    )  # fmt: skip
    text = "replace the dog with a cat or a bee and write A"
    cells = torch.from_numpy(cell_codes(source))[None]
    known = _named(text, word_cells(_told(text)[1], cells))
    # Two bees stand in two cells; a letter is no thing.
    assert known == [("dog", CELLS.index((2, 2))), ("cat", len(CELLS)), ("bee", -1), ("A", -1)]


def test_the_nouns_of_a_swap_are_in_the_slots_in_which_the_text_names_them():
    rng = np.random.default_rng(3)
    for _ in range(20):
        example = sample(rng, "swap")
        told = _told(example.text)[1]
        slots = [slot for slot in word_slots(told, _array(example))[0].tolist() if slot >= 0]
        assert slots == [1, 2]


def _array(example: StorybookExample) -> torch.Tensor:
    return torch.from_numpy(to_array([write_code(example)]))


class _Telling:
    """A stage that writes every code as it should, but for the last slot of one example."""

    def __init__(self, examples: list[StorybookExample], wrong: int):
        stage = StorybookVLM(StorybookVLMConfig())
        self.tokenizer, self.groups = stage.tokenizer, stage.groups
        codes = torch.from_numpy(to_array([write_code(example) for example in examples]))
        codes[wrong, -1] = -codes[wrong, -1]
        self.told = {example.text: code for example, code in zip(examples, codes, strict=True)}

    def read(self, prompts: Tokens, pixels: torch.Tensor | None) -> tuple[torch.Tensor, None]:
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts.input_ids]
        keys = {"".join(text.lower().split()): code for text, code in self.told.items()}
        own = [next(code for text, code in keys.items() if text in "".join(t.lower().split())) for t in texts]
        return torch.stack(own), None

    def connector(self, states: torch.Tensor) -> tuple[torch.Tensor, None]:
        return states, None


def test_the_tool_counts_the_codes_that_are_wrong_and_by_what():
    rng = np.random.default_rng(0)
    examples = [sample(rng, "relation") for _ in range(6)]
    tool = load_script("tools/storybook_reading.py")
    assert tool.read(_Telling(examples, 2), examples) == (5, {"relation": 1})


def test_think_tokens_do_not_look_alike_before_training():
    torch.manual_seed(0)
    stage = StorybookVLM(StorybookVLMConfig())
    states, _ = stage.read(tokenize(stage.tokenizer, ["a dog and a cat"]), None)
    think = torch.nn.functional.normalize(states[0, -NUM_SLOTS:], dim=-1)
    alike = (think @ think.T)[~torch.eye(NUM_SLOTS, dtype=torch.bool)]
    assert alike.abs().max() < 0.5  # 0.99 where embeddings of deviation 0.02 had been trained
    assert stage.vlm.language_model.embed_tokens.weight.std() > 0.9
