"""Words of captions that a model's tokenizer cannot read.

A large model reads any word, in pieces. A small one may have a closed vocabulary: every word outside it is
read as the same `<unk>`, so what a caption says of it is lost, and nothing in the loss shows that.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from deepgen.worlds import unknown_in_captions

_MOST_WORDS = 1000  # of a vocabulary that is one of whole words
_NO_WORD = "zqxjv"
_ALIKE = 0.7  # ratio of difflib, of words that may be the same one misspelled


@dataclass(frozen=True)
class UnknownWord:
    """A word, the captions and pictures it stands in, and the known word it may be meant for, if any."""

    word: str
    num_captions: int
    nearest: str = ""


def unknown_words(
    tokenizer: PreTrainedTokenizerBase, world: str | None, captions: Mapping[str, int]
) -> list[UnknownWord]:
    """The words that cannot be read or that the model's world has not, the most frequent first.

    Args:
        tokenizer: the model's.
        world: the model's world, if it has one.
        captions: text -> how many pictures it is said of.
    """
    counts: Counter[str] = Counter()
    for caption, number in captions.items():
        for word in unread_words(tokenizer, caption):
            counts[word] += number
    if counts:
        known = vocabulary(tokenizer)
        return [UnknownWord(word, number, _nearest(word, known)) for word, number in counts.most_common()]
    texts = (caption for caption, number in captions.items() for _ in range(number))
    return [UnknownWord(word, number, nearest) for word, nearest, number in unknown_in_captions(world, texts)]


def unread_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The words that are read as the tokenizer's unknown token, in lower case, once each, in their order."""
    if tokenizer.unk_token_id is None or not tokenizer.is_fast:
        return []
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = zip(read["input_ids"], read["offset_mapping"], strict=True)
    unread = (text[begin:end].lower() for token, (begin, end) in places if token == tokenizer.unk_token_id)
    return list(dict.fromkeys(word for word in unread if word))


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of a closed vocabulary in alphabetical order, special tokens and signs left out; none of a
    tokenizer that reads any word in pieces.
    """
    words = tokenizer.get_vocab()
    if len(words) > _MOST_WORDS or not unread_words(tokenizer, _NO_WORD):
        return []
    return sorted(word for word in words if word not in tokenizer.all_special_tokens and word.isalpha())


def _nearest(word: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=_ALIKE)), "")
