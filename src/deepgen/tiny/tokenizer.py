"""The storybook's tokenizer: one token a word of the world, letters where a word is not of it.

Capitals are read letter by letter, so the model can be asked to write words that it never met; a capital at
the beginning of an ordinary word is read as its small letter. What is no ASCII character after accents are
taken off is read as a question mark. So there is no unknown word. Special tokens have the numbers that the
architecture names (models/config.py).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits, punctuation
from tempfile import TemporaryDirectory
from typing import Any

from deepgen.tiny.unknown import known_words

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<unk>",
)
VOCABULARY_SIZE = 1280  # of the architecture; what is not used is left for words of fine-tunes
_TEMPLATE_WORDS = ("user", "assistant", "generate", "image")
_ENDINGS = ("s", "es", "ed", "er", "ing", "ly")


@cache
def tokens() -> tuple[str, ...]:
    """Every token, special ones first; a token's index is its number."""
    continued = [f"##{piece}" for piece in (*ascii_lowercase, *digits, *_ENDINGS[1:])]
    characters = [*ascii_lowercase, *ascii_uppercase, *digits, *punctuation, *continued]
    words = [word for word in sorted(known_words()) if word.isascii()]
    found = tuple(dict.fromkeys([*SPECIAL_TOKENS, *_TEMPLATE_WORDS, *characters, *words]))
    if len(found) > VOCABULARY_SIZE:
        raise ValueError(f"the world has {len(found)} tokens, the model room for {VOCABULARY_SIZE}")
    return found


def write_tokenizer(folder: Path) -> None:
    """Write a folder that `AutoTokenizer.from_pretrained` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens())}
    special = [
        {
            "id": vocabulary[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": _normalizers()},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Punctuation", "behavior": "Isolated"},
                {"type": "Digits", "individual_digits": True},
                {"type": "Split", "pattern": {"Regex": "[A-Z]"}, "behavior": "Isolated", "invert": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "vocab": vocabulary,
            "unk_token": "<unk>",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 1000,
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "model_max_length": 1024,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _normalizers() -> list[dict[str, Any]]:
    def replaced(pattern: str, by: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": by}

    return [
        {"type": "NFKD"},
        {"type": "StripAccents"},
        replaced("[\u2018\u2019]", "'"),
        replaced("[\u201c\u201d]", '"'),
        replaced(r"[^\x00-\x7f]", "?"),
        replaced(r"(?<=: |\n)A(?= [a-z])", "a"),  # "A cat" is no word to be written
        *(replaced(f"{letter}(?=[a-z])", letter.lower()) for letter in ascii_uppercase),
    ]


def load_tokenizer() -> Any:
    """The tokenizer, a transformers `PreTrainedTokenizerFast`."""
    from transformers import AutoTokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return AutoTokenizer.from_pretrained(folder)
