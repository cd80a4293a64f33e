"""The storybook's tokenizer: a token a word, letters for what is not known, capitals letter by letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepgen.models.config import DEEPGEN_TINY
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.tokenizer import load_tokenizer, tokens, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat and the word HELLO", ["a", "cat", "and", "the", "word", "H", "E", "L", "L", "O"]),
        ("Remove the Cat", ["remove", "the", "cat"]),
        ("a gnu", ["a", "g", "##n", "##u"]),
        ("3 + 12", ["3", "+", "1", "2"]),
        ("café \u201cOK\u201d", ["c", "##a", "##f", "##e", '"', "O", "K", '"']),
        ("猫", ["?"]),
        ("the word A on pink", ["the", "word", "A", "on", "pink"]),
    ],
)
def test_how_texts_are_cut(tokenizer: Any, text: str, pieces: list[str]) -> None:
    assert tokenizer.tokenize(text) == pieces


def test_a_prompt_that_begins_with_a_capital_article_writes_no_letter(tokenizer: Any) -> None:
    pieces = tokenizer.tokenize("<|im_start|>user\nGenerate an image: A cat<|im_end|>")
    assert pieces == ["<|im_start|>", "user", "generate", "an", "image", ":", "a", "cat", "<|im_end|>"]


def test_no_text_is_unknown(tokenizer: Any) -> None:
    texts = ["zyzzyva & $% ~`", "Straße, naïve, Ærø", "\U0001f431 emoji", "snow\tman\n", "x" * 900]
    for text in texts:
        assert "<unk>" not in tokenizer.tokenize(text), text


def test_nouns_are_single_tokens_and_special_ones_stand_where_the_model_names_them(tokenizer: Any) -> None:
    for noun in NOUNS:
        assert all(len(tokenizer.tokenize(part)) == 1 for part in noun.split("-"))
    vlm = DEEPGEN_TINY.vlm
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == vlm["image_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|vision_start|>") == vlm["vision_start_token_id"]
    assert len(tokens()) <= vlm["text_config"]["vocab_size"]


def test_the_file_is_the_same_each_time(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "a")
    write_tokenizer(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
