"""Prompts as the VLM reads them: the chat template, image placeholders, and left-padded token batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deepgen.models.vlm import PIXELS_PER_TOKEN

IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
CHAT = "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
GENERATION = "Generate an image: {prompt}"


@dataclass(frozen=True)
class Tokens:
    """A left-padded batch: `input_ids` and `attention_mask`, both (B, L) int64."""

    input_ids: Tensor
    attention_mask: Tensor

    @property
    def lengths(self) -> list[int]:
        """Real tokens per row."""
        return self.attention_mask.sum(dim=1).tolist()

    def select(self, rows: Sequence[int], length: int) -> Tokens:
        """Some rows, cut on the left to `length`; what is cut must be padding."""
        index = torch.as_tensor(list(rows))
        if max(self.lengths[row] for row in rows) > length:
            raise ValueError(f"rows {list(rows)} hold more than {length} tokens")
        return Tokens(self.input_ids[index, -length:], self.attention_mask[index, -length:])

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on another device."""
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


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


def shorten(tokenizer: PreTrainedTokenizerBase, prompt: str, max_tokens: int) -> str:
    """The prompt, or its first `max_tokens` tokens with a warning that says so."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if len(ids) <= max_tokens:
        return prompt
    warnings.warn(f"prompt has {len(ids)} tokens; the first {max_tokens} were kept", stacklevel=3)
    return str(tokenizer.decode(ids[:max_tokens]))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tokens:
    """Tokenise and pad on the left to the longest, with the tokenizer's pad token. Nothing is cut."""
    encoded = tokenizer(
        list(texts), padding=True, padding_side="left", add_special_tokens=True, return_tensors="pt"
    )
    return Tokens(encoded["input_ids"], encoded["attention_mask"])
