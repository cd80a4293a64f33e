"""The words of the world, and a tokenizer that reads them.

One token per word, lower case, punctuation apart. Special tokens have the ids that the architecture names
(models/config.py), so its prompts pass through the same template and the same placeholders as the real
model's.
"""

from __future__ import annotations

import json
from pathlib import Path

from deepgen.shapes.caption import plural
from deepgen.shapes.scene import BACKGROUNDS, COLORS, SHAPES, SIZES

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
_TEMPLATE_WORDS = ("user", "assistant", "generate", "an", "image", ":")
_WORDS = [
    "a",
    "the",
    "of",
    "on",
    "in",
    "at",
    "and",
    "with",
    "to",
    ",",
    ".",
    "please",
    "draw",
    "picture",
    "corner",
    "background",
    "color",
    "little",
    "big",
    "top",
    "bottom",
    "left",
    "right",
    "middle",
    "center",
    "above",
    "over",
    "below",
    "under",
    "gray",
    "one",
    "two",
    "three",
    "four",
    "into",
    "change",
    "make",
    "turn",
    "put",
    "add",
    "remove",
    "delete",
    "erase",
    "move",
    "replace",
    "recolor",
    "paint",
    "resize",
    "is",
    "it",
    "there",
    "only",
    "shape",
    "shapes",
    "object",
    "objects",
    "show",
    "me",
    "its",
    "up",
    "down",
    "upper",
    "lower",
    "centre",
    "colour",
    "colored",
    "scene",
    "drawing",
    "beside",
]

MAX_TOKENS = 128


def words() -> list[str]:
    """Every token, special ones first; a word's index is its id."""
    plain = [*_TEMPLATE_WORDS, *_WORDS, *SHAPES, *map(plural, SHAPES), *COLORS, *SIZES, *BACKGROUNDS]
    tokens = [*SPECIAL_TOKENS, *dict.fromkeys(plain)]
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"the vocabulary holds {len(tokens)} tokens, at most {MAX_TOKENS} fit the model")
    return tokens


def write_tokenizer(folder: Path) -> None:
    """Write a transformers tokenizer folder that `AutoTokenizer.from_pretrained` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(words())}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
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
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Punctuation", "behavior": "Isolated"},
            ],
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
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
