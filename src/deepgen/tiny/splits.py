"""Held-out splits on four levels, and the baseline that a look-up of training prompts reaches.

1. new wordings: the last wording of a fact or a template is never trained.
2. new combinations: one (template, fact, argument) in eight is never trained.
3. new crossings: one pair of a template and a category in eight is never trained.
4. new words: a quarter of the dictionary and one other letter string in eight are never drawn.

The choice hangs on a fixed hash of the names, so it is the same in every process and for a shorter list of
nouns.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from deepgen.tiny.captions import CAPTION_KINDS, sample_caption
from deepgen.tiny.claims import holds
from deepgen.tiny.edits import BAD_EDIT_KINDS, EDIT_KINDS, sample_edit
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.reasoning import REASONING_KINDS, sample_reasoning
from deepgen.tiny.reasoning_edits import REASONING_EDIT_KINDS, sample_reasoning_edit
from deepgen.tiny.sampling import dictionary

Level = Literal["trained", "new wordings", "new combinations", "new crossings", "new words"]
LEVELS: tuple[Level, ...] = get_args(Level)
_SHARE = 8
_WORD_SHARE = 4
_MOST_TRIES = 5_000

SAMPLERS: Mapping[str, tuple[Sequence[str], Callable[[np.random.Generator, str], StorybookExample]]] = {
    "caption": (CAPTION_KINDS, sample_caption),
    "edit": ((*EDIT_KINDS, *BAD_EDIT_KINDS), sample_edit),
    "reasoning": (REASONING_KINDS, sample_reasoning),
    "reasoning edit": (REASONING_EDIT_KINDS, sample_reasoning_edit),
}


def stable_hash(*parts: str) -> int:
    """A number from names that is the same in every process, unlike hash()."""
    digest = hashlib.sha256("|".join(("deepgen storybook 1", *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def is_held_out_combination(template: str, fact: str, argument: str) -> bool:
    """Whether this use of a fact in a template is never trained."""
    return stable_hash("combination", template, fact, argument) % _SHARE == 0


def is_held_out_crossing(template: str, category: str) -> bool:
    """Whether this template is never trained with things of this category."""
    return stable_hash("crossing", template, category) % _SHARE == 0


def is_held_out_word(word: str) -> bool:
    """Whether this word is never drawn in training: a quarter of the real ones, an eighth of others."""
    share = _WORD_SHARE if word in dictionary() else _SHARE
    return stable_hash("word", word) % share == 0


def levels_of(example: StorybookExample) -> frozenset[Level]:
    """Every level on which the example is held out; empty for one that may be trained."""
    origin, levels = example.origin, set[Level]()
    if origin.is_last_wording:
        levels.add("new wordings")
    if any(is_held_out_combination(*combination) for combination in origin.combinations):
        levels.add("new combinations")
    if any(is_held_out_crossing(origin.template, category) for category in origin.categories):
        levels.add("new crossings")
    if any(is_held_out_word(word) for word in origin.words):
        levels.add("new words")
    return frozenset(levels)


def level_of(example: StorybookExample) -> Level | Literal["several"]:
    """The one level the example is of; "several" are neither trained nor reported."""
    levels = levels_of(example)
    return "trained" if not levels else next(iter(levels)) if len(levels) == 1 else "several"


def group_of(kind: str) -> str:
    """Which group of `SAMPLERS` a kind is of."""
    for group, (kinds, _) in SAMPLERS.items():
        if kind in kinds:
            return group
    known = ", ".join(kind for kinds, _ in SAMPLERS.values() for kind in kinds)
    raise ValueError(f"unknown kind {kind!r}; known: {known}")


def sample(rng: np.random.Generator, kind: str, level: Level = "trained") -> StorybookExample:
    """An example of that kind and of exactly that level. A ValueError where the kind has none of it."""
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; known: {', '.join(LEVELS)}")
    sampler = SAMPLERS[group_of(kind)][1]
    for _ in range(_MOST_TRIES):
        example = sampler(rng, kind)
        if level_of(example) == level:
            return example
    raise ValueError(
        f"no example of {kind!r} is of the level {level!r}; levels_with({kind!r}) lists those it has"
    )


def weighted_kind(rng: np.random.Generator, groups: Sequence[str], weights: Mapping[str, float]) -> str:
    """A kind of these groups of `SAMPLERS`, by its weight, which is 1 where none is named."""
    kinds = [kind for group in groups for kind in SAMPLERS[group][0]]
    shares = np.array([weights.get(kind, 1.0) for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def levels_with(kind: str, num_tries: int = 400, seed: int = 0) -> list[Level]:
    """The levels that a kind has examples of, found in so many draws."""
    rng = np.random.default_rng(seed)
    sampler = SAMPLERS[group_of(kind)][1]
    found = {level_of(sampler(rng, kind)) for _ in range(num_tries)}
    return [level for level in LEVELS if level in found]


# The baseline: the answer of the nearest training prompt


def bag_of_words(text: str) -> Counter[str]:
    """How often each word (or number, or sign +) is in the text, in lower case."""
    return Counter(re.findall(r"[a-z]+|\d+|\+", text.lower()))


def nearest_prompt_answers(
    training: Sequence[StorybookExample], asked: Sequence[StorybookExample]
) -> list[bool]:
    """Of each asked prompt, whether the picture of the training prompt nearest in words is right for it.

    Nearest is the greatest cosine of the bags of words, the first of equals. For prompts without a source
    picture; an edit's answer depends on its picture, so a ValueError is raised for one.
    """
    if not training or not asked:
        raise ValueError("the baseline needs training prompts and asked prompts")
    if any(example.source is not None for example in (*training, *asked)):
        raise ValueError("the nearest-prompt baseline is for generation, but an edit came")
    words = {word: i for i, word in enumerate(sorted({w for e in training for w in bag_of_words(e.text)}))}

    def vectors(examples: Sequence[StorybookExample]) -> np.ndarray:
        matrix = np.zeros((len(examples), len(words)), np.float32)  # (examples, words)
        for row, example in enumerate(examples):
            for word, count in bag_of_words(example.text).items():
                if word in words:
                    matrix[row, words[word]] = count
        return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)

    nearest = (vectors(asked) @ vectors(training).T).argmax(1)
    return [
        holds(example.claim, training[i].target).is_right for example, i in zip(asked, nearest, strict=True)
    ]
