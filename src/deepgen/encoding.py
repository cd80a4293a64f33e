"""Encoding of prompts to conditions: tokens, the VLM, the connector.

What a prompt is padded to is part of its meaning, so this decides which samples are padded to what; a prompt
that is too long is cut, and it is said what was left out.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deepgen.arguments import check_negative, given_condition
from deepgen.checkpoints.memory import free_bytes
from deepgen.generation import ResolvedSettings
from deepgen.models.adapter_scale import scaled
from deepgen.models.condition_cache import ConditionCache, fingerprint
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.prompts import (
    PromptLimits,
    Tokens,
    editing_prompt,
    fit_prompt,
    generation_prompt,
    image_tokens,
    tokenize,
)
from deepgen.models.vlm import DeepGenVLM
from deepgen.prompt_text import PromptCut, PromptCutWarning
from deepgen.transfer import to_device
from deepgen.types import Condition

Padding = Literal["pair", "batch"]
ReadImages = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_LONG_PROMPT = 8192  # tokens, from which on it is asked whether reading them fits

# n prompts


class EncodingMixin:
    """Conditions of a pipeline with `vlm`, `connector` and `tokenizer`."""

    vlm: DeepGenVLM
    connector: StackedChannelBridge
    tokenizer: PreTrainedTokenizerBase
    _negatives: ConditionCache
    _execution_device: Any
    _kept_memory: Callable[[], AbstractContextManager[None]]

    config: Any
    register_to_config: Callable[..., None]

    @property
    def max_prompt_tokens(self) -> int | None:
        """How many tokens of a prompt are read; None: what the VLM's context holds. What is left out of a
        longer one is reported (`PromptCut`). May be set, and is saved with the pipeline.
        """
        return self.config.max_prompt_tokens

    @max_prompt_tokens.setter
    def max_prompt_tokens(self, limit: int | None) -> None:
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ValueError(
                f"max_prompt_tokens must be a whole number of at least 1, or None, got {limit!r}"
            )
        self.register_to_config(max_prompt_tokens=limit)

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        pixels: Sequence[Sequence[Tensor]] | None = None,
        *,
        guided: bool = True,
        padding: Padding = "pair",
        lora_scale: float = 1.0,
        read_images: ReadImages | None = None,
    ) -> tuple[Condition, Condition | None]:
        """Conditions of prompts and of their negatives.

        Pads are visible to the connector, so what a prompt is padded to is part of its meaning. `"pair"` pads
        each prompt and its negative to the longer of the two, which is what the original does with one
        prompt, and makes a condition independent of the rest of the batch. `"batch"` pads everything to the
        longest, as the original does with several.

        Without references a negative prompt is read once for each length it is padded to, and its condition
        kept for further calls until a weight or an adapter changes (`models/condition_cache.py`).

        Args:
            prompt: one or n prompts; instructions where `pixels` is given.
            negative_prompt: one, or one per prompt.
            pixels: per prompt, its references, (3, H, W) in [-1, 1] with sides that are multiples of 32.
            guided: also return the negatives' conditions.
            padding: `"pair"` or `"batch"`.
            lora_scale: strength of the LoRAs of VLM and connector, over what `set_adapters` said.
            read_images: vision features (N, D) of the distinct references of one pass of the VLM, where they
                may be known; default the VLM's own `image_features`.

        Returns:
            Positive and negative condition of n rows; the negative is None unless `guided`.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = (
            [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        )
        if len(negatives) != len(prompts):
            raise ValueError(
                f"negative_prompt: {len(negatives)} given for {len(prompts)} prompts; give one or as many"
            )
        if padding not in ("pair", "batch"):
            raise ValueError(f"unknown padding {padding!r}; known: pair, batch")
        tokens = self._tokenize(prompts + negatives, None if pixels is None else [*pixels, *pixels])

        count = len(prompts)
        longest = [max(pair) for pair in zip(tokens.lengths[:count], tokens.lengths[count:], strict=True)]
        if padding == "batch":
            longest = [max(longest)] * count
        groups = defaultdict(list)
        for index, length in enumerate(longest):
            groups[length].append(index)

        encoded, order = [], []
        with scaled([self.vlm, self.connector], lora_scale):
            is_kept = guided and pixels is None and not torch.is_grad_enabled()
            weights = self._fingerprint() if is_kept else None
            for length, members in groups.items():
                opposites = [count + i for i in members] if guided else []
                if pixels is None:
                    encoded.append(self._encode_tokens(tokens.select(members, length), None))
                    if opposites:
                        encoded.append(self._encode_negatives(tokens.select(opposites, length), weights))
                else:  # both branches see the references, which are read once
                    shown = [pixels[row % count] for row in (*members, *opposites)]
                    rows = tokens.select([*members, *opposites], length)
                    encoded.append(self._encode_tokens(rows, shown, read_images))
                order += [*members, *opposites]
        everything = Condition.cat(encoded).select([order.index(row) for row in range(len(order))])
        if not guided:
            return everything, None
        return everything.select(range(count)), everything.select(range(count, 2 * count))

    def _fingerprint(self) -> bytes | None:
        """What a kept condition depends on besides its tokens; the host waits for the device."""
        return fingerprint([self.vlm.language_model, self.connector], self._execution_device)

    def _encode_negatives(self, tokens: Tokens, weights: bytes | None) -> Condition:
        """Conditions of negative prompts without references: each different one once, and kept under the
        fingerprint of the weights, if there is one.

        Always apart from the prompts, whose rounding then does not tell whether a negative was kept.
        """
        rows: dict[bytes, int] = {}
        conditions, places = [], []
        for index in range(len(tokens.input_ids)):
            row = tokens.select([index], tokens.input_ids.shape[1])
            content = torch.cat([row.input_ids, row.attention_mask]).numpy().tobytes()
            if content not in rows:
                rows[content] = len(conditions)
                key = None if weights is None else (weights, content)
                conditions.append(self._negatives.get(key, lambda row=row: self._encode_tokens(row, None)))
            places.append(rows[content])
        return Condition.cat(conditions).select(places)

    def _tokenize(self, prompts: Sequence[str], pixels: Sequence[Sequence[Tensor]] | None) -> Tokens:
        """Tokens of prompts in their template; what is too long is cut, with a warning."""
        prompts, cuts = self.fit_prompts(prompts, pixels)
        for cut in cuts:
            warnings.warn(str(cut), PromptCutWarning, stacklevel=3)
        if pixels is None:
            return tokenize(self.tokenizer, [generation_prompt(prompt) for prompt in prompts])
        counts = image_tokens(pixels)
        texts = [editing_prompt(prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
        return tokenize(self.tokenizer, texts)

    def fit_prompts(
        self,
        prompts: Sequence[str],
        pixels: Sequence[Sequence[Tensor]] | None = None,
        name: str = "prompt",
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> tuple[list[str], list[PromptCut]]:
        """Prompts as they will be read: whole, or their beginnings where they are longer than
        `max_prompt_tokens` or than the VLM's context, which template, references and think tokens share.

        Args:
            prompts: without their template.
            pixels: per prompt, its references, see `encode_prompt`.
            name: of the argument, for messages.
            tokenizer: a copy to count with, from another thread; default the pipeline's.

        Returns:
            The prompts, and what was left out of those that were too long.
        """
        limits = PromptLimits(
            context=self.vlm.config.text_config.max_position_embeddings,
            num_think_tokens=self.connector.config.num_think_tokens,
            max_prompt_tokens=self.max_prompt_tokens,
        )
        counts = [None] * len(prompts) if pixels is None else image_tokens(pixels)
        fitted, cuts = [], []
        for index, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            called = name if len(prompts) == 1 else f"{name} {index}"
            text, cut = fit_prompt(tokenizer or self.tokenizer, prompt, limits, count, called)
            fitted.append(text)
            if cut is not None:
                cuts.append(cut)
        return fitted, cuts

    def _encode_tokens(
        self,
        tokens: Tokens,
        pixels: Sequence[Sequence[Tensor]] | None,
        read_images: ReadImages | None = None,
    ) -> Condition:
        """One VLM pass and one connector pass over equally padded rows; images shared by rows are read
        once.
        """
        device = self._execution_device
        self._check_room(tokens)
        images: dict[int, Tensor] = {id(x): x for row in pixels or () for x in row}
        places = {key: index for index, key in enumerate(images)}
        think_tokens = to_device(self.connector.think_tokens(), device)
        with self._kept_memory():
            shown = [to_device(x, device) for x in images.values()]
            states = self.vlm(
                think_tokens=think_tokens,  # first: offloading gives states back where the first input is
                input_ids=tokens.input_ids,  # on the host, which then knows of pads without asking the device
                attention_mask=tokens.attention_mask,
                taps=self.connector.taps,
                pixel_values=shown,
                image_index=None if pixels is None else [[places[id(x)] for x in row] for row in pixels],
                image_features=read_images(shown) if read_images is not None and shown else None,
            )
            return Condition(*self.connector(states.to(think_tokens.dtype)))  # parts may differ

    def _check_room(self, tokens: Tokens) -> None:
        """MemoryError where reading a very long prompt needs more memory than is free.

        Where a system lends memory it does not have, the process would be killed without a word instead.
        """
        rows, length = tokens.input_ids.shape
        length += self.connector.config.num_think_tokens
        if length < _LONG_PROMPT:
            return
        text, taps = self.vlm.config.text_config, len(self.connector.taps or (0,))
        wide = 2 * text.hidden_size * (taps + 2) + 3 * text.intermediate_size
        needed = rows * length * wide * self.vlm.dtype.itemsize
        if min(tokens.lengths) < tokens.input_ids.shape[1]:
            needed += 3 * rows * length**2  # what hides pads, as it is made: one byte for each pair of tokens
        free = free_bytes(self._execution_device.type)
        if needed > free:
            raise MemoryError(
                f"reading {length:,} tokens of prompt takes about {needed / 1e9:.1f} GB beside the model, "
                f"and {free / 1e9:.1f} GB are free; shorten the prompt, or set max_prompt_tokens"
            )

    def _conditions(
        self,
        prompts: list[str] | None,
        given: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
        settings: ResolvedSettings,
        pixels: Sequence[Sequence[Tensor]] | None,
        padding: Padding,
        lora_scale: float,
    ) -> tuple[Condition, Condition | None, list[PromptCut]]:
        """Positive and negative conditions of a call, and what was left out of its prompts.

        Args:
            prompts: None where embeddings are given.
            given: embeddings and pooled embeddings of prompts, and of negative prompts.
            settings: negative prompt and guidance.
            pixels: see `encode_prompt`.
            padding: see `encode_prompt`.
            lora_scale: see `encode_prompt`.
        """
        prompt_embeds, pooled, negative_embeds, negative_pooled = given
        guided, cuts, negative = settings.is_guided, [], None
        if prompts is not None:
            count = len(prompts)
            prompts, cuts = self.fit_prompts(prompts, pixels)
            negatives, more = self._fit_negatives(settings.negative_prompt, pixels, count)
            cuts += more if guided else []
            for cut in cuts:
                warnings.warn(str(cut), PromptCutWarning, stacklevel=4)
            positive, negative = self.encode_prompt(
                prompts, negatives, pixels, guided=guided, padding=padding, lora_scale=lora_scale
            )
        else:
            assert prompt_embeds is not None
            positive = given_condition("prompt_embeds", prompt_embeds, pooled)
        if negative_embeds is not None and guided:
            negative = given_condition("negative_prompt_embeds", negative_embeds, negative_pooled)
        return positive, check_negative(negative, settings.guidance_scale, len(positive)), cuts

    def _fit_negatives(
        self, given: str | Sequence[str] | None, pixels: Sequence[Sequence[Tensor]] | None, count: int
    ) -> tuple[str | list[str], list[PromptCut]]:
        """Negative prompts as they will be read; one serves for all prompts, with references of each."""
        if not given:
            return "", []
        if pixels is None and isinstance(given, str):
            (text,), cuts = self.fit_prompts([given], name="negative_prompt")
            return text, cuts
        texts = [given] * count if isinstance(given, str) else list(given)
        if len(texts) != count:
            return texts, []  # refused where they are encoded
        return self.fit_prompts(texts, pixels, "negative_prompt")
