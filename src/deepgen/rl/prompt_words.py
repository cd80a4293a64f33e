"""Words of a run's prompts that its model cannot read, said before the first rollout.

Rewards rise on such prompts as on others, since a group is compared with itself; what is learnt is then of
the words that could be read alone.
"""

from __future__ import annotations

import time
from collections import Counter

from deepgen.data.example import RowError
from deepgen.data.images import ImageError
from deepgen.data.prompts import PromptMix
from deepgen.training.preflight_warnings import unknown
from deepgen.training.trained_pipeline import TrainedPipeline
from deepgen.training.unknown_words import unknown_words, vocabulary


def unknown_word_warning(
    mix: PromptMix, pipe: TrainedPipeline, world: str | None, seed: int, num_prompts: int, seconds: float
) -> str:
    """What to do about unknown words; "" where there are none.

    Args:
        mix: the prompts.
        pipe: whose tokenizer reads them.
        world: the model's, if it has one.
        seed: of the run; its first groups are looked at.
        num_prompts: how many of them.
        seconds: about when it stops.
    """
    until = time.monotonic() + seconds
    texts: Counter[str] = Counter()
    for number in range(num_prompts):
        if texts and time.monotonic() > until:
            break
        try:
            texts[mix.draw(seed, number).text] += 1
        except (RowError, ImageError):
            continue  # the rollout that draws it says so
    distinct = dict.fromkeys(texts, 1)  # prompts are drawn again and again; each counts once
    return unknown(
        unknown_words(pipe.tokenizer, world, distinct), vocabulary(pipe.tokenizer), world, "prompt"
    )
