"""The pipeline: prompts and pictures in, pictures out.

Everything a diffusers pipeline does works here, because every part is registered. What is ours: which samples
are padded to what, so that a picture does not depend on its batch-mates; references, which the VLM reads as
image tokens and the DiT as clean latents; and sizes, so that an edit comes back in the geometry of its
source.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deepgen.arguments import (
    check_negative,
    given_condition,
    make_generators,
    read_prompts,
    read_references,
    usual_guidance,
)
from deepgen.checkpoints.memory import free_bytes
from deepgen.checkpoints.saving import TrustedFilesMixin
from deepgen.data.images import ImageSource
from deepgen.data.masks import open_mask
from deepgen.data.pixels import OUTPUT_TYPES, OutputType, resize_pixels, to_output
from deepgen.denoising import DenoisingMixin, GuidanceBatching
from deepgen.lora import DeepGenLoraLoaderMixin
from deepgen.masking import KeptPixels
from deepgen.models import vae as latent_space
from deepgen.models.adapter_scale import read_scale, scaled
from deepgen.models.allocation import kept_memory
from deepgen.models.condition_cache import ConditionCache, fingerprint
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
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
from deepgen.picture_sizes import SizeRules
from deepgen.prompt_text import PromptCut, PromptCutWarning
from deepgen.sampling.presets import get_preset
from deepgen.sampling.schedule import check_guidance, check_num_steps, check_sigmas
from deepgen.saved_pipeline import SavedPipelineMixin, inherited
from deepgen.types import Condition
from deepgen.worlds import prompt_warnings

Padding = Literal["pair", "batch"]

TINY_DIR = Path(__file__).parent / "assets" / "tiny"
_LONG_PROMPT = 8192  # tokens, from which on it is asked whether reading them fits
FALLBACK_DEFAULTS = {"height": 512, "width": 512, "num_inference_steps": 50, "guidance_scale": 4.0}

# n prompts, B = n * num_images_per_prompt samples, C latent channels, h w latent size


@dataclass
class DeepGenPipelineOutput(BaseOutput):
    """Pictures, in the order of the prompts, and the seed that makes each of them alone (None where none was
    used).

    `drawn_sizes` are the (height, width) in pixels at which the model drew each: an edit of a large picture
    is drawn smaller and enlarged to the size of its source. `prompt_cuts` says what was left
    out of each prompt that was too long to be read whole.
    """

    images: list[Image.Image] | list[np.ndarray] | list[Tensor] | np.ndarray | Tensor
    seeds: list[int] | None = None
    drawn_sizes: list[tuple[int, int]] | None = None
    prompt_cuts: list[PromptCut] = field(default_factory=list)


class DeepGenPipeline(
    TrustedFilesMixin, DenoisingMixin, DeepGenLoraLoaderMixin, SavedPipelineMixin, DiffusionPipeline
):
    """Text to image, and editing with one or several references, in one model (DeepGen 1.0, arXiv
    2602.12205).

    Example:
        >>> pipe = DeepGenPipeline.from_pretrained("tiny")
        >>> picture = pipe("a red circle on a white background", seed=1).images[0]
        >>> edited = pipe("make the circle blue", image=picture, seed=1).images[0]
    """

    model_cpu_offload_seq = "vlm->connector->transformer->vae"

    vlm: DeepGenVLM
    connector: StackedChannelBridge
    transformer: DeepGenTransformer2DModel
    vae: AutoencoderKL | AutoencoderTiny
    scheduler: FlowMatchEulerDiscreteScheduler
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        vlm: DeepGenVLM,
        connector: StackedChannelBridge,
        transformer: DeepGenTransformer2DModel,
        vae: AutoencoderKL | AutoencoderTiny,
        scheduler: FlowMatchEulerDiscreteScheduler,
        tokenizer: PreTrainedTokenizerBase,
        defaults: dict[str, Any] | None = None,
        max_prompt_tokens: int | None = None,
        world: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vlm=vlm,
            connector=connector,
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
            tokenizer=tokenizer,
        )
        given = {"defaults": defaults or None, "max_prompt_tokens": max_prompt_tokens, "world": world}
        usual = {"defaults": FALLBACK_DEFAULTS, "max_prompt_tokens": None, "world": None}
        self.register_to_config(**inherited(connector, given, usual))
        self._negatives = ConditionCache()
        self.guidance_batching: GuidanceBatching = "auto"  # of calls that do not say

    # --- loading --------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> DeepGenPipeline:
        """Load any published or own form of DeepGen.

        Args:
            pretrained_model_name_or_path: `"tiny"`, a folder of ours, the published diffusers folder, a
                native `.pt` or `.safetensors` file, a DeepSpeed or RL checkpoint folder, or a hub id of any
                of these.
            **kwargs: as for diffusers (`variant`, `device_map`, `quantization_config`, ...). `dtype`, or
                `torch_dtype`: the number format of all parts, as `torch.bfloat16` or "bfloat16", or a
                dictionary by part with "default" for the others. Without it, or with "auto", they are loaded
                as stored; where they are stored in several formats, all in the one that most weights have, so
                that a model takes about as much memory as its files. Where the source lacks base parts:
                `vlm`, `transformer`, `vae` (folders or hub ids) and `lora` ("merge", "adapter", "ignore").
                `transformer_gguf`: a GGUF file with the DiT's weights, instead of the source's own.
                `verify=True`: first compare every file of the source with its known sha256 (SHA256SUMS, the
                Hub's, the published), which reads all of it once more; files of base models are not compared.

        Raises:
            FileNotFoundError: nothing was found there; the message says what was looked for.
            ValueError: files are broken, keys are missing or foreign; with `verify`, files are not as they
                were saved, or no sum is known.
        """
        from deepgen.checkpoints.checkpoint import read_checkpoint
        from deepgen.checkpoints.dtypes import asked_dtype, check_dtype, part_dtypes
        from deepgen.checkpoints.layouts import HubOptions, detect
        from deepgen.checkpoints.weights import load_components, single_device

        dtype = asked_dtype(kwargs)
        check_dtype(dtype)
        source = TINY_DIR if str(pretrained_model_name_or_path) == "tiny" else pretrained_model_name_or_path
        hub = {
            name: kwargs[name]
            for name in ("revision", "cache_dir", "token", "local_files_only")
            if name in kwargs
        }
        if kwargs.pop("verify", False):
            from deepgen.checkpoints.verify import require_unchanged

            require_unchanged(source, HubOptions(**hub))
        layout = detect(source, HubOptions(**hub))
        variant = kwargs.get("variant")
        kwargs.pop("trust_remote_code", None)  # code of a folder is never run, so there is none to trust
        placed = {}
        if (device := single_device(kwargs.get("device_map"))) is not None:
            placed["device_map"] = device
            del kwargs["device_map"]
        if (gguf := kwargs.pop("transformer_gguf", None)) is not None:
            from deepgen.checkpoints.gguf_files import load_transformer

            if "transformer" in kwargs:
                raise ValueError("transformer and transformer_gguf both say what the DiT is; give one")
            dtype = part_dtypes(dtype, read_checkpoint(layout, shapes_only=True).parts)
            kwargs["transformer"] = load_transformer(layout, Path(gguf), dtype["transformer"])
        if layout.kind != "deepgen" or "lora" in kwargs or gguf is not None:
            if variant is not None:
                raise ValueError("variant is for folders that save_pretrained wrote, without lora or GGUF")
            return cls(**load_components(layout, torch_dtype=dtype, **placed, **kwargs))
        checkpoint = read_checkpoint(layout, variant=variant)
        given = {name: kwargs[name] for name in ("vlm", "connector", "transformer", "vae") if name in kwargs}
        dtypes = part_dtypes(dtype, checkpoint.parts, given)
        if layout.path != TINY_DIR:
            if set(kwargs) <= set(hub) and checkpoint.is_plain():
                # The libraries map files and copy out of them, which takes more than twice the weights.
                return cls(**load_components(layout, torch_dtype=dtypes, **placed))
            checkpoint.check()  # the libraries would fill a missing tensor with noise and go on
        # Said to both libraries, whose defaults differ.
        kwargs["dtype"] = next(iter(dtypes.values())) if len(set(dtypes.values())) == 1 else dtypes
        pipe = super().from_pretrained(str(layout.path), **kwargs)
        if device is not None:
            pipe.to(device)
        if (layout.path / "vlm_lora").is_dir():  # written by `deepgen convert --lora adapter`
            pipe.vlm.load_adapter(str(layout.path / "vlm_lora"))
        return pipe

    # --- sizes ----------------------------------------------------------------------------------------------

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent."""
        return latent_space.scale_factor(self.vae)

    @property
    def size_unit(self) -> int:
        """Heights and widths are multiples of this many pixels."""
        return self.vae_scale_factor * self.transformer.config.patch_size

    @property
    def sizes(self) -> SizeRules:
        """What can be drawn, and how large references are read."""
        defaults = self.defaults
        longest = self.transformer.config.pos_embed_max_size * self.size_unit
        return SizeRules(self.size_unit, longest, defaults["height"], defaults["width"])

    @property
    def defaults(self) -> dict[str, Any]:
        """The model's own height, width, num_inference_steps and guidance_scale."""
        return {**FALLBACK_DEFAULTS, **self.config.defaults}

    @property
    def max_prompt_tokens(self) -> int | None:
        """How many tokens of a prompt are read; None: what the VLM's context holds. What is left out of a
        longer one is told (`PromptCut`). May be set, and is saved with the pipeline.
        """
        return self.config.max_prompt_tokens

    @max_prompt_tokens.setter
    def max_prompt_tokens(self, limit: int | None) -> None:
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ValueError(
                f"max_prompt_tokens must be a whole number of at least 1, or None, got {limit!r}"
            )
        self.register_to_config(max_prompt_tokens=limit)

    @property
    def world(self) -> str | None:
        """The world that a small model draws ("storybook"); None of models of real pictures."""
        return self.config.world

    def prompt_warnings(self, prompt: str, is_edit: bool = False) -> list[str]:
        """What the model's world cannot follow of a prompt, a line each. The nearest thing is drawn all the
        same. Nothing where the model has no world.
        """
        return prompt_warnings(self.world, prompt, is_edit)

    def check_size(self, height: int, width: int) -> None:
        """ValueError unless the model can draw this size."""
        self.sizes.check(height, width)

    # --- conditions -----------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        pixels: Sequence[Sequence[Tensor]] | None = None,
        *,
        guided: bool = True,
        padding: Padding = "pair",
        lora_scale: float = 1.0,
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
            for length, members in groups.items():
                opposites = [count + i for i in members] if guided else []
                if pixels is None:
                    encoded.append(self._encode_tokens(tokens.select(members, length), None))
                    if opposites:
                        encoded.append(self._encode_negatives(tokens.select(opposites, length)))
                else:  # both branches see the references, which are read once
                    shown = [pixels[row % count] for row in (*members, *opposites)]
                    encoded.append(self._encode_tokens(tokens.select([*members, *opposites], length), shown))
                order += [*members, *opposites]
        everything = Condition.cat(encoded).select([order.index(row) for row in range(len(order))])
        if not guided:
            return everything, None
        return everything.select(range(count)), everything.select(range(count, 2 * count))

    def _encode_negatives(self, tokens: Tokens) -> Condition:
        """Conditions of negative prompts without references: each different one once, and kept.

        Always apart from the prompts, whose rounding then does not tell whether a negative was kept.
        """
        device = self._execution_device
        weights = None
        if not torch.is_grad_enabled():
            weights = fingerprint([self.vlm.language_model, self.connector], device)
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
            name: of the argument, for what is told.
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

    def _encode_tokens(self, tokens: Tokens, pixels: Sequence[Sequence[Tensor]] | None) -> Condition:
        """One VLM pass and one connector pass over equally padded rows; images shared by rows are read
        once.
        """
        device = self._execution_device
        self._check_room(tokens)
        images: dict[int, Tensor] = {id(x): x for row in pixels or () for x in row}
        places = {key: index for index, key in enumerate(images)}
        think_tokens = self.connector.think_tokens().to(device)
        with self._kept_memory():
            states = self.vlm(
                input_ids=tokens.input_ids.to(device),
                attention_mask=tokens.attention_mask.to(device),
                think_tokens=think_tokens,
                taps=self.connector.taps,
                pixel_values=[x.to(device) for x in images.values()],
                image_index=None if pixels is None else [[places[id(x)] for x in row] for row in pixels],
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

    def _kept_memory(self) -> AbstractContextManager[None]:
        """Freed memory is used again while a part runs, on a CPU and without gradient."""
        return kept_memory(self._execution_device.type == "cpu" and not torch.is_grad_enabled())

    # --- references and noise -------------------------------------------------------------------------------

    def prepare_latents(
        self,
        height: int,
        width: int,
        generators: Sequence[torch.Generator],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Initial noise (B, C, h, w), drawn in float32 and sample by sample, so that each depends on its
        seed alone.
        """
        shape = (
            1,
            self.transformer.config.in_channels,
            height // self.vae_scale_factor,
            width // self.vae_scale_factor,
        )
        noise = [torch.randn(shape, generator=g, device=g.device) for g in generators]
        return torch.cat([x.to(device=device, dtype=dtype) for x in noise])

    def prepare_references(
        self,
        pixels: Sequence[Sequence[Tensor]],
        generators: Sequence[torch.Generator],
        dtype: torch.dtype,
        posterior: latent_space.Posterior = "sample",
    ) -> list[list[Tensor]]:
        """Clean latents (C, h, w) of every sample's references; the posterior is drawn with the sample's
        generator.
        """
        cache: dict[int, Any] = {}
        samples = []
        for row, generator in zip(pixels, generators, strict=True):
            latents = []
            for image in row:
                if id(image) not in cache:
                    with self._kept_memory():
                        posterior_of_image = latent_space.encode(
                            self.vae, image[None].to(self._execution_device)
                        )
                    cache[id(image)] = posterior_of_image
                drawn = latent_space.draw(self.vae, cache[id(image)], posterior, generator)
                latents.append(drawn[0].to(dtype))
            samples.append(latents)
        return samples

    # --- the call -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: ImageSource | Sequence[Any] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        preset: str = "exact",
        guidance_batching: GuidanceBatching | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        restore_size: bool = True,
        padding: Padding = "pair",
        reference_posterior: latent_space.Posterior = "sample",
        sigmas: Sequence[float] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        mask: ImageSource | None = None,
    ) -> DeepGenPipelineOutput | tuple[Any]:
        """Draw pictures from prompts, or edit pictures by instructions.

        Args:
            prompt: one or several prompts, or instructions where `image` is given.
            image: references (path, PIL image, array, tensor): one picture, the list of one prompt's
                pictures, or a list with each prompt's picture or list of pictures.
            negative_prompt: what to steer away from; one, or one per prompt.
            height: pixels, a multiple of 16. Default: the model's own; for an edit, its first reference's.
            width: as `height`.
            num_inference_steps: solver steps; default the model's own.
            guidance_scale: 1 or less draws without a negative branch; default the model's own.
            preset: "exact" is the pipeline's scheduler with the model's own steps; "balanced" and "fast" are
                a better solver with a third of the steps or fewer (docs/generate.md has their errors).
            guidance_batching: see `denoise`; default the pipeline's attribute of this name, "auto".
            num_images_per_prompt: samples per prompt.
            seed: image k of the call is drawn with seed + k, or with the k-th of a list.
            generator: instead of a seed: one, drawn from in turn, or one per image.
            latents: initial noise (B, C, h, w).
            prompt_embeds: condition made by `encode_prompt`, instead of `prompt`; with
                `pooled_prompt_embeds`.
            pooled_prompt_embeds: see `prompt_embeds`.
            negative_prompt_embeds: the negative branch's; with `negative_pooled_prompt_embeds`.
            negative_pooled_prompt_embeds: see `negative_prompt_embeds`.
            output_type: "pil", "np" (H, W, 3) in [0, 1], "pt" (3, H, W) in [0, 1], or "latent".
            return_dict: return a `DeepGenPipelineOutput`, otherwise a tuple of its images.
            restore_size: bring an edit back to the exact size of its source, where no size was asked for.
            padding: see `encode_prompt`.
            reference_posterior: "sample" as the original does, or "mode".
            sigmas: noise levels of the steps before the scheduler's shift, falling, in (0, 1], instead of
                `num_inference_steps`; with preset "exact".
            joint_attention_kwargs: `{"scale": s}` draws with all LoRAs at s times their strength.
            callback_on_step_end: see `denoise`.
            callback_on_step_end_tensor_inputs: see `denoise`.
            mask: a picture (path, bytes or PIL image) as large as each prompt's first reference, and
                transparent where that may change; everything else comes back pixel for pixel.

        Raises:
            ValueError: an argument is out of range or does not fit another; the message names it.
        """
        self._interrupt = False
        chosen = get_preset(preset)
        steps = num_inference_steps
        if sigmas is not None:
            steps = check_sigmas(sigmas, steps)
        if steps is None:
            steps = chosen.num_steps or self.defaults["num_inference_steps"]
        if guidance_scale is None:
            guidance_scale = usual_guidance(self.defaults, is_edit=image is not None)
        check_num_steps(steps)
        check_guidance(guidance_scale)
        lora_scale = read_scale(joint_attention_kwargs)
        callback_inputs = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        self._check_arguments(num_images_per_prompt, output_type, callback_inputs)

        # n prompts with their references; sample k belongs to prompt k // num_images_per_prompt.
        prompts = read_prompts(prompt, prompt_embeds)
        count = len(prompts) if prompts is not None else len(prompt_embeds)
        references = read_references(image, count)
        sizes, sources = self.sizes.drawn(references, count, height, width)
        pixels = None if references is None else self.sizes.read(references, height, width)
        back = [source if restore_size else None for source in sources]
        masked = None if mask is None else self._masked(mask, references, sizes, back)
        if self.is_divided and seed is None and generator is None:
            raise ValueError("processes that draw a picture together need its seed; give one")
        seeds, generators = make_generators(seed, generator, count * num_images_per_prompt)
        groups = defaultdict(list)  # samples of equal size go together
        for sample in range(len(generators)):
            groups[sizes[sample // num_images_per_prompt]].append(sample)
        if latents is not None:
            self._check_latents(latents, len(generators), groups)

        guided, cuts = guidance_scale > 1, []
        if prompts is not None:
            prompts, cuts = self.fit_prompts(prompts, pixels)
            negatives, more = self._fit_negatives(negative_prompt, pixels, count)
            cuts += more if guided else []
            for cut in cuts:
                warnings.warn(str(cut), PromptCutWarning, stacklevel=3)
            positive, negative = self.encode_prompt(
                prompts, negatives, pixels, guided=guided, padding=padding, lora_scale=lora_scale
            )
        else:
            positive, negative = given_condition("prompt_embeds", prompt_embeds, pooled_prompt_embeds), None
        if negative_prompt_embeds is not None and guided:
            negative = given_condition(
                "negative_prompt_embeds", negative_prompt_embeds, negative_pooled_prompt_embeds
            )
        negative = check_negative(negative, guidance_scale, count)

        drawn: dict[int, Tensor] = {}
        dtype, device = self.transformer.dtype, self._execution_device
        for size, samples in groups.items():
            if self._interrupt and drawn:  # what was not begun would be noise, so it is left out
                break
            rows = [sample // num_images_per_prompt for sample in samples]
            own = [generators[sample] for sample in samples]
            noise = self.prepare_latents(*size, own, dtype, device) if latents is None else latents[samples]
            shown = None if pixels is None else [pixels[row] for row in rows]
            reference_latents = shown and self.prepare_references(shown, own, dtype, reference_posterior)
            kept = masked and {row: masked[row].latents(self.vae, size, dtype, device) for row in set(rows)}
            clean = self.denoise(
                noise.to(device, dtype),
                positive.select(rows),
                None if negative is None else negative.select(rows),
                reference_latents,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                preset=chosen,
                sigmas=sigmas,
                guidance_batching=guidance_batching or self.guidance_batching,
                joint_attention_kwargs=joint_attention_kwargs,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_inputs,
                kept=kept and [kept[row] for row in rows],
            )
            pictures = self._decode(clean, output_type, [back[row] for row in rows])
            if masked is not None and output_type != "latent":
                pictures = [masked[row].paste(x) for row, x in zip(rows, pictures, strict=True)]
            drawn.update(zip(samples, pictures, strict=True))
        self.maybe_free_model_hooks()

        order = sorted(drawn)
        images = to_output([drawn[sample] for sample in order], output_type)
        if seeds is not None:
            seeds = [seeds[sample] for sample in order]
        drawn_sizes = [sizes[sample // num_images_per_prompt] for sample in order]
        if not return_dict:
            return (images,)
        return DeepGenPipelineOutput(images=images, seeds=seeds, drawn_sizes=drawn_sizes, prompt_cuts=cuts)

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

    def _decode(
        self, clean: Tensor, output_type: OutputType, sizes: Sequence[tuple[int, int] | None]
    ) -> list[Tensor]:
        """Pixels of clean latents, (3, H, W) each, brought to the given (height, width) if any."""
        if output_type == "latent":
            return list(clean)
        with self._kept_memory():
            pictures = latent_space.decode(self.vae, clean).float()
        return [
            picture if size is None else resize_pixels(picture, size)
            for picture, size in zip(pictures, sizes, strict=True)
        ]

    def _masked(
        self,
        mask: ImageSource,
        references: list[list[Image.Image]] | None,
        sizes: Sequence[tuple[int, int]],
        back: Sequence[tuple[int, int] | None],
    ) -> list[KeptPixels]:
        """Per prompt, what a mask keeps of its first reference, at the size of the result."""
        if references is None:
            raise ValueError("mask marks what may change in a picture; give the picture as image")
        opened = open_mask(mask)
        return [
            KeptPixels.of(row[0], opened, final or drawn)
            for row, drawn, final in zip(references, sizes, back, strict=True)
        ]

    # --- checks and plans -----------------------------------------------------------------------------------

    def _check_arguments(
        self, num_images_per_prompt: int, output_type: str, callback_inputs: Sequence[str]
    ) -> None:
        """Arguments that need no look at the prompts."""
        if not isinstance(num_images_per_prompt, int) or num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, got {num_images_per_prompt!r}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}; known: {', '.join(OUTPUT_TYPES)}")
        unknown = set(callback_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs: unknown {', '.join(sorted(unknown))}; "
                f"known: {', '.join(self._callback_tensor_inputs)}"
            )

    def _check_latents(self, latents: Tensor, total: int, groups: dict[tuple[int, int], list[int]]) -> None:
        """Given noise must fit the samples and their one size."""
        if len(groups) > 1:
            raise ValueError(
                "latents can only be given where all samples have one size; give height and width"
            )
        height, width = next(iter(groups))
        expected = (
            total,
            self.transformer.config.in_channels,
            height // self.vae_scale_factor,
            width // self.vae_scale_factor,
        )
        if tuple(latents.shape) != expected:
            raise ValueError(f"latents must have shape {expected} for this call, got {tuple(latents.shape)}")

    def plan(
        self,
        references: list[list[Image.Image]] | None,
        count: int,
        height: int | None = None,
        width: int | None = None,
    ) -> tuple[list[tuple[int, int]], list[list[Tensor]] | None]:
        """What a call would draw, for those who run its parts themselves.

        Args:
            references: per prompt, its pictures; None for text to image.
            count: prompts.
            height: pixels; default the model's own, or for an edit its first reference's.
            width: as `height`.

        Returns:
            Per prompt the (height, width) that is drawn, and its references as the model sees them, (3, H, W)
            in [-1, 1]; None for text to image.
        """
        sizes, _ = self.sizes.drawn(references, count, height, width)
        return sizes, None if references is None else self.sizes.read(references, height, width)
