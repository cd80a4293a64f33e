"""The storybook's reader: VLM and connector learn to write a prompt's code at the think tokens.

The stand-in for a pretrained VLM and for the large data of alignment at once. Think tokens regress onto the
code of what the prompt comes to (tiny/codes.py), prompt positions onto zero, the pooled condition onto the
pooled code; image tokens learn to say what is in their cell and which cell that is, which trains the vision
tower; and the words for nouns and letters learn, halfway through the layers, which slot they belong in and
in which cell of the picture their thing stands. Riddles and edits that need thought are among the prompts,
their codes those of the answers.

The connector sees pads, so it has to meet a prompt with and without them: some batches mix lengths and some
share one, which is how a prompt arrives at inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.prompts import Tokens, editing_prompt, generation_prompt, tokenize
from deepgen.models.vlm import DeepGenVLM, vision_patches
from deepgen.tiny.claims import CELLS
from deepgen.tiny.codes import (
    NUM_SLOTS,
    WIDTH,
    Attribute,
    Written,
    attributes,
    cell_codes,
    directions,
    empty_code,
    pooled_code,
    to_array,
    write_code,
)
from deepgen.tiny.edits import BAD_EDIT_KINDS
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.language import SYNONYMS, plural, said
from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.render import render_array
from deepgen.tiny.scene import Scene
from deepgen.tiny.splits import SAMPLERS, sample, weighted_kind
from deepgen.tiny.tokenizer import load_tokenizer, tokens
from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.pool import load_weights

# How often a kind is drawn; kinds that are not named, once.
PROMPT_WEIGHTS: Mapping[str, float] = {"riddle": 5, "reasoned text": 3, "text": 2, "order": 5, "all": 2,
                                       "category and property": 2, "number": 2, "place": 1.5}  # fmt: skip
EDIT_WEIGHTS: Mapping[str, float] = {"odd one out": 6, "replace": 1.5, "add": 1.5, "add beside": 1.5,
                                     "correct": 2, "complete": 2, "name": 2, "opposite": 2,
                                     "restyle all": 2, "mirror scene": 2, "change ground": 1.5, "night": 1.5,
                                     **dict.fromkeys(BAD_EDIT_KINDS, 0.7)}  # fmt: skip
_SIMPLE = ("single", "size", "style", "remove", "resize", "restyle", "mirror", "change ground")
_SHARPNESS = 8.0  # of the choice among the directions of a group
# Of these groups the value is learned as a choice, too. Left to the regression alone, ground and relation
# were still wrong in two thirds of the prompts after 4,000 steps.
_CHOICES = (
    *("noun", "letter", "cell", "edit", "count", "row", "style", "size"),
    *("ground", "relation", "facing", "length", "role"),
)


@dataclass(frozen=True, kw_only=True)
class StorybookVLMConfig(TrainConfig):
    """Prompts from text and instructions with their pictures, in turn.

    Attributes:
        batch_size: prompts of a step.
        edit_batch_size: instructions with pictures of a step.
        plain_share: the first share of the run, on prompts with nothing to think about.
        empty_share: of prompts, that are empty: the negative branch of guidance.
        pixel_noise: deviation of the noise on pictures that are read.
        start: a run to begin with.
    """

    num_steps: int = 6000
    seed: int = 13
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-3, muon_lr=0.01, weight_decay=0.3, warmup_steps=50, decay_share=0.6, muon_dtype="bfloat16"
        )
    )
    batch_size: int = 96
    edit_batch_size: int = 64
    # The first shares of the run: on prompts that name one thing, and on those with nothing to think about.
    # With several things from the start nothing is learned for hundreds of steps.
    simple_share: float = 0.02
    plain_share: float = 0.15
    empty_share: float = 0.06
    same_length_share: float = 0.75  # of the steps, whose prompts are all of one length and so not padded
    num_candidates: int = 3  # times the batch size, from which such prompts are chosen
    pixel_noise: float = 0.03
    choice_weight: float = 0.2  # of the cross entropies
    # Of those of the words' slots and cells. Without them "a dog and a cat" was written as a blend of both in
    # both slots in three of four prompts, after 6,000 steps.
    words_weight: float = 0.5
    # Of what stands where the prompt's words are. At 0.1 a mean square of 0.03 was left there, and the DiT,
    # which sees those positions, swapped the named things right in 0.56 of the edits instead of 0.81.
    silence_weight: float = 1.0
    start: Path | None = None
    autocast: bool = True  # bfloat16 products

    def build(self, processes: Processes) -> StorybookVLM:
        """The stage."""
        processes.require_one(type(self).__name__)
        return StorybookVLM(self)


@dataclass(frozen=True)
class StorybookReadingBatch:
    """Prompts, their codes (B, slots, width), and for edits pixels (B, 3, 96, 96) and codes of the cells
    (B, 9, width).
    """

    texts: list[str]
    codes: Tensor
    pixels: Tensor | None = None
    cells: Tensor | None = None


class StorybookVLM:
    """Regression onto the code."""

    def __init__(self, config: StorybookVLMConfig):
        self.config = config
        self.tokenizer: Any = load_tokenizer()
        sizes = DEEPGEN_TINY
        self.vlm = DeepGenVLM(Qwen2_5_VLConfig(**sizes.vlm))
        self.connector = StackedChannelBridge(**sizes.connector)
        self.describe = nn.Linear(sizes.vlm["text_config"]["hidden_size"], WIDTH)
        self.modules: nn.Module = nn.ModuleDict(
            {"vlm": self.vlm, "connector": self.connector, "describe": self.describe}
        )
        if config.start is None:
            start_embeddings(self.vlm.language_model.embed_tokens.weight, config.seed)
            nn.init.normal_(self.connector.think_tokens.weight)
        else:
            load_weights(self.modules, config.start)
        width = sizes.vlm["text_config"]["hidden_size"]
        signs = np.random.default_rng(1).choice([-1.0, 1.0], (NUM_SLOTS + len(CELLS) + 1, width))
        self.places = torch.from_numpy(signs / width**0.5).float()  # of a word's slots, then cells and none
        numbers, table = attributes(), torch.from_numpy(directions())
        self.groups = {
            name: table[[number for (group, _), number in numbers.items() if group == name]]
            for name in _CHOICES
        }
        meanings = [token_meaning(token) for token in tokens()]
        told = [-1 if meaning is None else numbers[meaning] for meaning in meanings]
        self.told = torch.tensor(told + [-1] * (sizes.vlm["text_config"]["vocab_size"] - len(told)))

    def batches(self, step: int) -> list:
        """The one batch of a step."""
        return [self.batch(np.random.default_rng((self.config.seed, step)), step)]

    def batch(self, rng: np.random.Generator, step: int) -> StorybookReadingBatch:
        """Captions and riddles at even steps, instructions with their pictures at odd ones."""
        config = self.config
        is_edit = step % 2 == 1
        size = config.edit_batch_size if is_edit else config.batch_size
        is_same_length = rng.random() < config.same_length_share
        groups = ("edit", "reasoning edit") if is_edit else ("caption", "reasoning")
        weights = EDIT_WEIGHTS if is_edit else PROMPT_WEIGHTS
        if step < config.plain_share * config.num_steps:
            groups = groups[:1]
        if step < config.simple_share * config.num_steps:
            weights = {**dict.fromkeys(SAMPLERS[groups[0]][0], 0.0), **dict.fromkeys(_SIMPLE, 1.0)}
        number = size * (config.num_candidates if is_same_length else 1)
        examples = [sample(rng, weighted_kind(rng, groups, weights)) for _ in range(number)]
        if is_same_length:
            examples = self._same_length(rng, examples)[:size]
        texts = [example.text for example in examples]
        codes = [write_code(example) for example in examples]
        self._empty_some(rng, texts, codes, "edit" if is_edit else "generate")
        array = torch.from_numpy(to_array(codes))
        if not is_edit:
            return StorybookReadingBatch([generation_prompt(text) for text in texts], array)
        sources = [example.source for example in examples if example.source is not None]
        pixels = to_pixels(sources)
        noise = config.pixel_noise * torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
        cells = torch.from_numpy(np.stack([cell_codes(source) for source in sources]))
        prompts = [editing_prompt(text, [len(CELLS)]) for text in texts]
        return StorybookReadingBatch(prompts, array, pixels + noise, cells)

    def _same_length(
        self, rng: np.random.Generator, examples: list[StorybookExample]
    ) -> list[StorybookExample]:
        """Those whose prompts are as long as one drawn at random."""
        lengths = [len(ids) for ids in self.tokenizer([example.text for example in examples])["input_ids"]]
        wanted = lengths[int(rng.integers(len(examples)))]
        return [example for example, length in zip(examples, lengths, strict=True) if length == wanted]

    def _empty_some(
        self, rng: np.random.Generator, texts: list[str], codes: list[Written], task: str
    ) -> None:
        for index in np.flatnonzero(rng.random(len(texts)) < self.config.empty_share):
            texts[index], codes[index] = "", empty_code(task)

    def loss(self, batch: StorybookReadingBatch) -> StageLoss:
        """4 * code + silence of the prompt positions + pooled + choices + description of the cells +
        places of the words.
        """
        prompts = tokenize(self.tokenizer, batch.texts)
        # So few tokens: plain products are faster than a fused attention, a third of a step backwards.
        plain = sdpa_kernel(SDPBackend.MATH)
        with plain, torch.autocast("cpu", torch.bfloat16, enabled=self.config.autocast):
            states, features = self.read(prompts, batch.pixels)
            embeds, pooled = self.connector(states)
        embeds, pooled = embeds.float(), pooled.float()
        written = embeds[:, -NUM_SLOTS:]
        parts = {
            "code": (written - batch.codes).pow(2).mean(),
            "silence": embeds[:, :-NUM_SLOTS].pow(2).mean(),
            "pooled": (pooled - pooled_code(batch.codes)).pow(2).mean(),
        }
        choice, wrong = self._choices(written, batch.codes)
        loss = 4 * parts["code"] + self.config.silence_weight * parts["silence"] + parts["pooled"]
        loss = loss + self.config.choice_weight * choice
        task = "generate" if features is None else "edit"
        metrics = {f"{task}_{name}": float(value.detach()) for name, value in parts.items()}
        metrics |= {f"{task}_wrong_{name}": value for name, value in wrong.items()}
        words, wrong = self._words(states, prompts.input_ids, batch)
        loss = loss + self.config.words_weight * words
        metrics |= {f"{task}_wrong_{name}": value for name, value in wrong.items()}
        if features is not None and batch.cells is not None:
            described = self.describe(features.float())
            loss = loss + 3 * (described - batch.cells).pow(2).mean()
            choice, wrong = self._choices(described, batch.cells)
            loss = loss + self.config.choice_weight * choice
            metrics |= {f"cell_wrong_{name}": value for name, value in wrong.items()}
        return StageLoss(loss, {name: (value, 1.0) for name, value in metrics.items()})

    def read(self, prompts: Tokens, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Taps (B, L + slots, taps * D), and features of the pictures (B, 9, D)."""
        features = None if pixels is None else self._image_features(pixels)
        states = self.vlm(
            prompts.input_ids,
            prompts.attention_mask,
            self.connector.think_tokens(),
            self.connector.taps,
            pixel_values=() if pixels is None else list(pixels),
            image_index=None if pixels is None else [[index] for index in range(len(pixels))],
            image_features=None if features is None else list(features),
        )
        return states, features

    def _words(
        self, states: Tensor, input_ids: Tensor, batch: StorybookReadingBatch
    ) -> tuple[Tensor, dict[str, float]]:
        """Cross entropies of the slots and cells of the words that name nouns and letters and of where the
        slots look for them, and shares of errors.
        """
        width = self.places.shape[1]
        halfway = states[:, : input_ids.shape[1], width : 2 * width].float()  # the second tap
        # Fixed directions and cosines: a learned layer would read what is too faint for attention to follow.
        cosines = F.normalize(halfway, dim=-1) @ self.places.T
        slots, cells = (_SHARPNESS * cosines).split([NUM_SLOTS, len(CELLS) + 1], -1)
        told = self.told[input_ids]
        own = word_slots(told, batch.codes)
        if batch.cells is not None:
            is_image = input_ids == self.vlm.config.image_token_id
            own = own.masked_scatter(is_image, cell_slots(batch.cells, batch.codes))
        parts = {"word's slot": (slots, own)}
        if batch.cells is not None:
            parts["word's cell"] = (cells, word_cells(told, batch.cells))
        total, wrong = states.new_zeros(()), {}
        for name, (scores, target) in parts.items():
            is_known = target >= 0
            if is_known.any():
                total = total + F.cross_entropy(scores[is_known], target[is_known])
                wrong[name] = float((scores[is_known].argmax(-1) != target[is_known]).float().mean())
        looked = self._looked(states, parts["word's slot"][1])
        if looked.numel():
            total = total - looked.clamp(min=1e-6).log().mean()
            wrong["slot's look"] = 1 - float(looked.detach().mean())
        return total, wrong

    def _looked(self, states: Tensor, slots: Tensor) -> Tensor:
        """Share of its attention that each slot with a word of its own gives that word; `slots` is (B, L)."""
        is_own = (slots[:, None] == torch.arange(NUM_SLOTS)[:, None]).float()  # (B, slots, L)
        attention = self._attention(states)[..., : slots.shape[1]]  # (B, heads, slots, L)
        looked = torch.einsum("bhsl,bsl->bhs", attention, is_own)
        return looked[is_own.any(-1)[:, None].expand_as(looked)]

    def _attention(self, states: Tensor) -> Tensor:
        """How much the think tokens look at each position in two heads of the connector's first layer,
        (B, 2, slots, L + slots).
        """
        layer = self.connector.layers[0]
        hidden = layer.layer_norm1(self.connector.tap_projector(states.float()))
        heads = self.connector.config.num_attention_heads
        query, key = (
            projector(part).unflatten(-1, (heads, -1))[..., :2, :]
            for projector, part in (
                (layer.self_attn.q_proj, hidden[:, -NUM_SLOTS:]),
                (layer.self_attn.k_proj, hidden),
            )
        )
        scores = torch.einsum("bshe,blhe->bhsl", query, key) / query.shape[-1] ** 0.5
        return scores.softmax(-1)

    def _choices(self, written: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Sum of the cross entropies of what a group says where it says something, and shares of errors."""
        total, wrong = written.new_zeros(()), {}
        for name, rows in self.groups.items():
            scale = 4 / WIDTH  # a direction's square length is WIDTH / 4
            wanted_shares = scale * wanted @ rows.T  # (B, slots, values)
            is_said = wanted_shares.amax(-1) > 0.5
            if not is_said.any():
                continue
            shares, target = scale * (written[is_said] @ rows.T), wanted_shares[is_said].argmax(-1)
            total = total + F.cross_entropy(_SHARPNESS * shares, target)
            wrong[name] = float((shares.argmax(-1) != target).float().mean())
        return total, wrong

    def _image_features(self, pixels: Tensor) -> Tensor:
        """As the VLM's own, with gradient: (B, 9, D)."""
        config = self.vlm.config.vision_config
        patches, grids = zip(
            *(
                vision_patches(x, config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
                for x in pixels
            ),
            strict=True,
        )
        merged = self.vlm.visual(torch.cat(patches), grid_thw=torch.stack(grids)).pooler_output
        return merged.view(len(pixels), len(CELLS), -1)


def word_slots(told: Tensor, codes: Tensor) -> Tensor:
    """The slot that each word's noun or letter has in the code: int64 (B, L), -1 where that is not clear.

    A letter that comes twice has two slots, in the order of the words; "three cats" are in three slots at
    once, of which the word is none.

    Args:
        told: attribute numbers of the words (B, L), -1 for other words.
        codes: (B, slots, WIDTH).
    """
    table = torch.from_numpy(directions())
    is_said = (4 / WIDTH) * codes @ table.T > 0.5  # (B, slots, attributes)
    index = told.clamp(min=0)[:, None, :].expand(-1, codes.shape[1], -1)
    has = is_said.gather(2, index).transpose(1, 2) & (told >= 0)[..., None]  # (B, L, slots)
    is_equal = (told[:, :, None] == told[:, None, :]) & (told >= 0)[:, None, :]
    number, before = is_equal.sum(-1), is_equal.tril(-1).sum(-1)  # of equal words: all, and before this one
    count = has.sum(-1)
    wanted = torch.where(count == number, before, 0)
    is_clear = (count == 1) | ((count > 1) & (count == number))
    is_wanted = has & (has.cumsum(-1) == wanted[..., None] + 1)
    return torch.where(is_clear, is_wanted.int().argmax(-1), -1)


def cell_slots(cells: Tensor, codes: Tensor) -> Tensor:
    """The slot in which the code names what stands in each cell, and that it stands there: int64 (B, 9), -1
    for none.

    Args:
        cells: codes of the cells (B, 9, WIDTH).
        codes: (B, slots, WIDTH).
    """
    numbers, table = attributes(), torch.from_numpy(directions())
    is_same = torch.ones(len(codes), cells.shape[1], codes.shape[1], dtype=torch.bool)
    for group in ("noun", "cell"):
        rows = table[[number for (name, _), number in numbers.items() if name == group]]
        there, said = (((4 / WIDTH) * x @ rows.T > 0.5).float() for x in (cells, codes))
        is_same &= torch.einsum("bcv,bsv->bcs", there, said) > 0
    return torch.where(is_same.any(-1), is_same.int().argmax(-1), -1)


def word_cells(told: Tensor, cells: Tensor) -> Tensor:
    """The cell in which the thing that a word names stands: int64 (B, L), 9 for none, -1 where that is not
    clear.

    Args:
        told: attribute numbers of the words (B, L), -1 for other words.
        cells: codes of the cells (B, 9, WIDTH).
    """
    numbers = attributes()
    is_noun = (told >= numbers["noun", NOUNS[0]]) & (told <= numbers["noun", NOUNS[-1]])
    is_there = (4 / WIDTH) * cells @ torch.from_numpy(directions()).T > 0.5  # (B, 9, attributes)
    index = told.clamp(min=0)[:, None, :].expand(-1, cells.shape[1], -1)
    has = is_there.gather(2, index).transpose(1, 2)  # (B, L, 9)
    count = has.sum(-1)
    cell = torch.where(count == 0, cells.shape[1], has.int().argmax(-1))
    return torch.where(is_noun & (count <= 1), cell, -1)


@torch.no_grad()
def start_embeddings(weight: Tensor, seed: int) -> None:
    """Embeddings (tokens, D) to begin with: a noun's and a letter's hold its direction of the code.

    The stand-in for the word vectors of a pretrained language model. With random ones, what is learned from
    one of 87 nouns helps no other, and 600 steps of regression did not tell them apart. Of deviation 1, for
    they are what the residual stream begins with: at 0.02 the first layer buried them, all think tokens came
    to look alike (cosine 0.99), and none learned which of two nouns is its own.
    """
    generator = torch.Generator().manual_seed(seed)
    width, numbers = weight.shape[1], attributes()
    table = torch.from_numpy(directions()) * 2 / WIDTH**0.5  # rows of length 1
    spread = torch.randn(WIDTH, width, generator=generator)
    classes = torch.randn(2, width, generator=generator)
    weight.copy_(torch.randn(weight.shape, generator=generator))
    for index, token in enumerate(tokens()):
        meant = token_meaning(token)
        if meant is not None:
            own = (table[numbers[meant]] @ spread) + classes[int(meant[0] == "letter")]
            weight[index] += own


def token_meaning(token: str) -> Attribute | None:
    """The noun or letter that a token names, in the singular, the plural or a synonym's."""
    if len(token) == 1 and token in ascii_uppercase:
        return "letter", token
    if token in ("top", "ears"):  # of "top hat" and "ears of corn", but first of all a place and a part
        return None
    for noun in NOUNS:
        names = (said(noun), plural(noun), SYNONYMS.get(noun, noun), plural(SYNONYMS.get(noun, noun)))
        # Of two words the first tells most: "palm" of "palm tree", "leafy" of "leafy tree".
        if token in {name.split()[0] for name in names}:
            return "noun", noun
    return None


def to_pixels(scenes: Sequence[Scene]) -> Tensor:
    """Drawn scenes as float32 (N, 3, 96, 96) in [-1, 1]."""
    arrays = np.stack([render_array(scene) for scene in scenes])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
