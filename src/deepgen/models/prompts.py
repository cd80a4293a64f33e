"""Prompts as the VLM reads them: the chat template, image placeholders, and left-padded token batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deepgen.models.vlm import PIXELS_PER_TOKEN
from deepgen.prompt_text import PromptCut
from deepgen.transfer import to_device
from deepgen.types import take_rows

IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
CHAT = "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
GENERATION = "Generate an image: {prompt}"
_COUNTED = 100_000  # characters of a prompt whose tokens are counted in any case


@dataclass(frozen=True)
class Tokens:
    """A left-padded batch: `input_ids` and `attention_mask`, both (B, L) int64.

    `known_lengths` are the real tokens per row where they were counted before, so that a batch on a
    device need not be asked.
    """

    input_ids: Tensor
    attention_mask: Tensor
    known_lengths: tuple[int, ...] | None = None

    @property
    def lengths(self) -> list[int]:
        """Real tokens per row."""
        if self.known_lengths is not None:
            return list(self.known_lengths)
        return self.attention_mask.sum(dim=1).tolist()

    @property
    def is_padded(self) -> bool:
        """Whether some row has pads."""
        return min(self.lengths) < self.attention_mask.shape[1]

    def select(self, rows: Sequence[int], length: int) -> Tokens:
        """Some rows, cut on the left to `length`; what is cut must be padding."""
        lengths = self.lengths
        kept = tuple(lengths[row] for row in rows)
        if max(kept) > length:
            raise ValueError(f"rows {list(rows)} hold more than {length} tokens")
        input_ids, mask = (take_rows(x, rows)[:, -length:] for x in (self.input_ids, self.attention_mask))
        return Tokens(input_ids, mask, kept)

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on another device."""
        return Tokens(
            to_device(self.input_ids, device), to_device(self.attention_mask, device), tuple(self.lengths)
        )


def generation_prompt(prompt: str) -> str:
    """Chat turn that asks for a new image."""
    return CHAT.format(content=GENERATION.format(prompt=prompt))


def editing_prompt(instruction: str, num_image_tokens: Sequence[int]) -> str:
    """Chat turn that shows the references, of so many vision tokens each, and gives the instruction."""
    references = "".join(VISION_START + IMAGE_TOKEN * n + VISION_END for n in num_image_tokens)
    return CHAT.format(content=f"{references}\n{instruction}")


def image_tokens(pixels: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    """Per prompt, the vision tokens of each of its references, (3, H, W)."""
    unit = PIXELS_PER_TOKEN
    return [[(x.shape[-2] // unit) * (x.shape[-1] // unit) for x in row] for row in pixels]


@dataclass(frozen=True, kw_only=True)
class PromptLimits:
    """How long a prompt may be.

    Attributes:
        context: positions the VLM was made for, which template, image tokens and think tokens share.
        num_think_tokens: appended to every prompt.
        max_prompt_tokens: of a prompt without its template; None leaves it to the context.
    """

    context: int
    num_think_tokens: int
    max_prompt_tokens: int | None = None


def fit_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    limits: PromptLimits,
    references: Sequence[int] | None = None,
    name: str = "prompt",
) -> tuple[str, PromptCut | None]:
    """The prompt, or so much of its beginning as may be read, and what was left out.

    Args:
        tokenizer: of the VLM.
        prompt: without its template.
        limits: how long it may be.
        references: vision tokens of each reference of an edit; None for text to image.
        name: of the argument, for the message.

    Raises:
        ValueError: the references alone take more than the context.
    """
    template = (
        generation_prompt if references is None else partial(editing_prompt, num_image_tokens=references)
    )
    room = limits.context - limits.num_think_tokens - _count(tokenizer, template(""))
    if room < 0:
        raise ValueError(
            f"the references take {sum(references or ()):,} tokens, and the VLM's context holds "
            f"{limits.context:,} with {limits.num_think_tokens} think tokens and the template; give fewer or "
            "smaller ones"
        )
    most, limit = room, "context"
    if limits.max_prompt_tokens is not None and limits.max_prompt_tokens <= room:
        most, limit = limits.max_prompt_tokens, "max_prompt_tokens"
    # No text of so many characters has fewer tokens, so the rest of a huge one need not be looked at.
    looked_at = prompt[: max(_COUNTED, (most + 1) * _longest_token(tokenizer))]
    encoded = tokenizer(looked_at, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    num_tokens = len(encoded["input_ids"])

    def fits(text: str) -> bool:
        whole = _count(tokenizer, template(text)) + limits.num_think_tokens
        is_allowed = limits.max_prompt_tokens is None or _count(tokenizer, text) <= limits.max_prompt_tokens
        return is_allowed and whole <= limits.context

    if len(looked_at) == len(prompt) and fits(prompt):
        return prompt, None
    # At the beginning of the first token too many, which is also that of a character it shares.
    end = encoded["offset_mapping"][most][0] if num_tokens > most else len(looked_at)
    while end and not fits(looked_at[:end]):  # another end can make other tokens
        end -= 1
    return prompt[:end], PromptCut(
        name=name,
        num_tokens=num_tokens,
        num_kept=_count(tokenizer, prompt[:end]),
        limit="context" if limit == "context" else "max_prompt_tokens",
        limit_tokens=most,
        kept=prompt[:end],
        left_out=prompt[end:],
        is_lower_bound=len(looked_at) < len(prompt),
    )


def _count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@lru_cache(maxsize=16)
def _longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Characters of the longest token; a token that is part of a character counts as one."""
    return max(map(len, tokenizer.get_vocab()))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tokens:
    """Tokenise and pad on the left to the longest, with the tokenizer's pad token. Nothing is cut."""
    encoded = tokenizer(
        list(texts), padding=True, padding_side="left", add_special_tokens=True, return_tensors="pt"
    )
    return Tokens(encoded["input_ids"], encoded["attention_mask"])
