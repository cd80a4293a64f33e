"""The diffusers pipeline: prompts and pictures in, pictures out.

Everything a diffusers pipeline does works here, because every part is registered. What is ours: which samples
are padded to what, so that a picture does not depend on its batch-mates; references, which the VLM reads as
image tokens and the DiT as clean latents; and sizes, so that an edit comes back in the geometry of its
source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deepgen.arguments import make_generators, read_prompts, read_references
from deepgen.checkpoints.saving import TrustedFilesMixin
from deepgen.data.images import ImageSource
from deepgen.data.masks import open_mask
from deepgen.data.pixels import (
    ON_HOST,
    OUTPUT_TYPES,
    OutputType,
    begin_output,
    finish_output,
    to_bytes,
)
from deepgen.denoising import DenoisingMixin, GuidanceBatching
from deepgen.distilled_lora import located
from deepgen.embedded import EMBEDDED, embedded_folder, model_source
from deepgen.encoding import EncodingMixin, Padding
from deepgen.generation import FALLBACK_DEFAULTS, GenerationSettings, ResolvedSettings, refuse_unknown
from deepgen.image_sizes import SizeRules
from deepgen.lora import DeepGenLoraLoaderMixin
from deepgen.masking import KeptPixels, UnchangedPixels, lay_over
from deepgen.models import vae as latent_space
from deepgen.models.adapter_scale import read_scale
from deepgen.models.allocation import kept_memory
from deepgen.models.condition_cache import ConditionCache
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.output import DeepGenPipelineOutput, attach_records, make_records, source_name, source_names
from deepgen.prompt_text import PromptCut
from deepgen.sampling.few_steps import KEY
from deepgen.sampling.schedule import check_sigmas
from deepgen.sampling.solvers import name_of
from deepgen.saved_pipeline import SavedPipelineMixin, inherited
from deepgen.transfer import to_device, to_host
from deepgen.types import Condition
from deepgen.worlds import prompt_warnings

TINY_DIR = embedded_folder("tiny")

# n prompts, B = n * num_images_per_prompt samples, C latent channels, h w latent size


@dataclass(frozen=True)
class Targets:
    """What a call draws, a row for each prompt.

    Attributes:
        sizes: (height, width) that are drawn, pixels.
        final_sizes: (height, width) an edit is brought back to; None: as drawn.
        pixels: references as the model reads them, (3, H, W) in [-1, 1]; None for text to image.
        masked: what a mask keeps of the first reference; None without a mask.
        sources: first references in uint8, (3, H, W), in the size of the result; None where nothing is kept
            but by a mask.
    """

    sizes: list[tuple[int, int]]
    final_sizes: list[tuple[int, int] | None]
    pixels: list[list[Tensor]] | None
    masked: list[KeptPixels] | None
    sources: list[Tensor] | None


class DeepGenPipeline(
    TrustedFilesMixin,
    EncodingMixin,
    DenoisingMixin,
    DeepGenLoraLoaderMixin,
    SavedPipelineMixin,
    DiffusionPipeline,
):
    """Text to image, and editing with one or several references, in one model (DeepGen 1.0, arXiv
    2602.12205).

    Example:
        >>> pipe = DeepGenPipeline.from_pretrained("tiny")
        >>> picture = pipe("a cat above a bicycle", seed=1).images[0]
        >>> edited = pipe("replace the cat with a dog", image=picture, seed=1).images[0]
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
        if isinstance(vae, torch.nn.Module):
            latent_space.lay_out(vae)  # before hooks of offloading take its weights in hand
        self._negatives = ConditionCache()
        self.guidance_batching: GuidanceBatching = "auto"  # of calls that do not say
        self.model_name = type(self).__name__  # in the records of pictures; `from_pretrained` knows better

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
        pipe = cls._load(pretrained_model_name_or_path, **kwargs)
        pipe.model_name = str(pretrained_model_name_or_path)
        return pipe

    def _locate_distilled(self, folder: Path) -> DeepGenPipeline:
        """Say where the folder's own LoRA is, which the model's defaults only name."""
        self.register_to_config(defaults=located(self.config.defaults, folder))
        return self

    @classmethod
    def _load(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> DeepGenPipeline:
        """See `from_pretrained`."""
        from deepgen.checkpoints.checkpoint import read_checkpoint
        from deepgen.checkpoints.dtypes import asked_dtype, check_dtype, part_dtypes
        from deepgen.checkpoints.layouts import HubOptions, detect
        from deepgen.checkpoints.weights import load_components, single_device

        dtype = asked_dtype(kwargs)
        check_dtype(dtype)
        source = model_source(pretrained_model_name_or_path)
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
            made = cls(**load_components(layout, torch_dtype=dtype, **placed, **kwargs))
            return made._locate_distilled(layout.path)
        checkpoint = read_checkpoint(layout, variant=variant)
        given = {name: kwargs[name] for name in ("vlm", "connector", "transformer", "vae") if name in kwargs}
        dtypes = part_dtypes(dtype, checkpoint.parts, given)
        if layout.path not in map(embedded_folder, EMBEDDED):
            if set(kwargs) <= set(hub) and checkpoint.is_plain():
                # The libraries map files and copy out of them, which takes more than twice the weights.
                return cls(**load_components(layout, torch_dtype=dtypes, **placed))._locate_distilled(
                    layout.path
                )
            checkpoint.check()  # the libraries would fill a missing tensor with noise and go on
        # Said to both libraries, whose defaults differ.
        kwargs["dtype"] = next(iter(dtypes.values())) if len(set(dtypes.values())) == 1 else dtypes
        pipe = super().from_pretrained(str(layout.path), **kwargs)
        if device is not None:
            pipe.to(device)
        if (layout.path / "vlm_lora").is_dir():  # written by `deepgen convert --lora adapter`
            pipe.vlm.load_adapter(str(layout.path / "vlm_lora"))
        return pipe._locate_distilled(layout.path)

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
        """The model's own height, width, num_inference_steps and guidance_scale, and where it or an active
        LoRA was distilled, what for.
        """
        made_for = {} if self.distilled is None else {KEY: self.distilled}
        return {**FALLBACK_DEFAULTS, **self.config.defaults, **made_for}

    @property
    def world(self) -> str | None:
        """The world that a small model draws ("storybook"); None of models of real pictures."""
        return self.config.world

    def prompt_warnings(self, prompt: str, images: Sequence[Image.Image] = ()) -> list[str]:
        """What the model's world cannot follow of a prompt, or of an instruction and the images it is about,
        a line each. The nearest thing is drawn all the same. Nothing where the model has no world.
        """
        return prompt_warnings(self.world, prompt, images)

    # --- references and noise -------------------------------------------------------------------------------

    def _kept_memory(self) -> AbstractContextManager[None]:
        """Freed memory is used again while a part runs, on a CPU and without gradient."""
        return kept_memory(self._execution_device.type == "cpu" and not torch.is_grad_enabled())

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
        return torch.cat([to_device(x, device, dtype) for x in noise])

    def prepare_references(
        self,
        pixels: Sequence[Sequence[Tensor]],
        generators: Sequence[torch.Generator],
        dtype: torch.dtype,
        posterior: latent_space.Posterior = "sample",
        encode: Callable[[Tensor], Any] | None = None,
    ) -> list[list[Tensor]]:
        """Clean latents (C, h, w) of every sample's references; the posterior is drawn with the sample's
        generator.

        Args:
            pixels: per sample, its references, (3, H, W) in [-1, 1].
            generators: of every sample.
            dtype: of the latents.
            posterior: see `__call__`.
            encode: the VAE's posterior of one reference, where it may be known; default `encode_reference`.
        """
        encode = encode or self.encode_reference
        cache: dict[int, Any] = {}
        samples = []
        for row, generator in zip(pixels, generators, strict=True):
            latents = []
            for image in row:
                if id(image) not in cache:
                    cache[id(image)] = encode(image)
                drawn = latent_space.draw(self.vae, cache[id(image)], posterior, generator)
                latents.append(drawn[0].to(dtype))
            samples.append(latents)
        return samples

    def encode_reference(self, pixels: Tensor) -> Any:
        """The VAE's posterior of an image (3, H, W) in [-1, 1], over latents (1, C, H / 8, W / 8)."""
        with self._kept_memory():
            return latent_space.encode(self.vae, to_device(pixels[None], self._execution_device))

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
        solver: str | None = None,
        keep_unchanged: bool | None = None,
        **unknown: Any,
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
                a better solver with a third of the steps or fewer (docs/generate.md has their errors); with
                "turbo" a model or LoRA that was distilled takes four steps without a negative branch.
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
            joint_attention_kwargs: `{"scale": s}` draws with all LoRAs at s times their strength, but
                for a student of few steps.
            callback_on_step_end: see `denoise`.
            callback_on_step_end_tensor_inputs: see `denoise`.
            mask: a picture (path, bytes or PIL image) as large as each prompt's first reference, and
                transparent where that may change; everything else comes back pixel for pixel.
            solver: "euler", "heun", "dpm++" or "unipc"; default the preset's, or the pipeline's scheduler.
            keep_unchanged: of an edit, bring back pixel for pixel from the first reference whatever the edit
                left as it was, see `deepgen.masking`; default the model's own, else False. Latents as output
                are as they were drawn.
            **unknown: refused, with the nearest name that is known.

        Raises:
            ValueError: an argument is unknown, out of range or does not fit another; the message names it.
        """
        refuse_unknown(unknown, ARGUMENTS)
        self._interrupt = False
        settings = GenerationSettings(
            num_inference_steps=check_sigmas(sigmas, num_inference_steps),
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            seed=seed,
            preset=preset,
            solver=solver,
            keep_unchanged=keep_unchanged,
        ).resolve(self.defaults, is_edit=image is not None)
        self._use_distilled(settings.schedule is not None)
        lora_scale = read_scale(joint_attention_kwargs, [self.transformer, self.vlm, self.connector])
        callback_inputs = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        self._check_arguments(num_images_per_prompt, output_type, callback_inputs)

        # n prompts with their references; sample k belongs to prompt k // num_images_per_prompt.
        prompts = read_prompts(prompt, prompt_embeds)
        count = len(prompts) if prompts is not None else len(prompt_embeds)
        targets = self._targets(read_references(image, count), count, settings, restore_size, mask)
        if self.is_divided and seed is None and generator is None:
            raise ValueError("processes that draw a picture together need its seed; give one")
        seeds, generators = make_generators(seed, generator, count * num_images_per_prompt)
        groups = self._groups(targets.sizes, num_images_per_prompt, latents)
        given = (prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds, negative_pooled_prompt_embeds)
        positive, negative, cuts = self._conditions(
            prompts, given, settings, targets.pixels, padding, lora_scale
        )

        drawn, finite = dict[int, Tensor](), list[Tensor]()
        for samples in groups.values():
            if self._interrupt and drawn:  # what was not begun would be noise, so it is left out
                break
            rows = [sample // num_images_per_prompt for sample in samples]
            pictures, are_finite = self._draw(
                targets,
                rows,
                (positive.select(rows), None if negative is None else negative.select(rows)),
                [generators[sample] for sample in samples],
                None if latents is None else latents[samples],
                settings,
                reference_posterior,
                output_type,
                sigmas=sigmas,
                guidance_batching=guidance_batching or self.guidance_batching,
                joint_attention_kwargs=joint_attention_kwargs,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_inputs,
            )
            drawn.update(zip(samples, pictures, strict=True))
            finite.append(are_finite)
        self.maybe_free_model_hooks()

        names = source_names(image, count), source_name(mask)
        kind = latents is not None, num_images_per_prompt, output_type
        made = drawn, torch.cat(finite)
        output = self._output(made, targets, settings, prompts, seeds, cuts, names, *kind)
        return output if return_dict else (output.images,)

    def _output(
        self,
        made: tuple[dict[int, Tensor], Tensor],
        targets: Targets,
        settings: ResolvedSettings,
        prompts: list[str] | None,
        seeds: list[int] | None,
        cuts: list[PromptCut],
        names: tuple[list[list[str]], str | None],
        has_own_noise: bool,
        num_images_per_prompt: int,
        output_type: OutputType,
    ) -> DeepGenPipelineOutput:
        """What was drawn, by number of the sample, with its records.

        Args:
            made: pixels or latents, of which samples that an interruption left out are missing, and whether
                they are finite (B, 2).
            targets: what was to be drawn.
            settings: of the call.
            prompts: None where embeddings were given, of which there is no record.
            seeds: of all samples.
            cuts: of all prompts.
            names: of the references of each prompt, and of the mask.
            has_own_noise: whether noise was given, which comes from no seed that is known here.
            num_images_per_prompt: samples of each prompt.
            output_type: see `__call__`.
        """
        drawn, finite = made
        order, (references, mask) = sorted(drawn), names
        images = self._on_host([drawn[sample] for sample in order], finite, output_type)
        rows = [sample // num_images_per_prompt for sample in order]
        seeds = seeds and [seeds[sample] for sample in order]
        drawn_sizes = [targets.sizes[row] for row in rows]
        records = prompts and make_records(
            settings,
            prompts,
            seeds if seeds and not has_own_noise else [None] * len(order),
            model=self.model_name,
            solver=name_of(self.scheduler),
            names=references,
            mask=mask,
            sizes=[targets.final_sizes[row] or targets.sizes[row] for row in rows],
            drawn_sizes=drawn_sizes,
            prompt_cuts=cuts,
            rows=rows,
        )
        attach_records(images, records)
        return DeepGenPipelineOutput(images, seeds, drawn_sizes, cuts, records or None)

    def _on_host(self, images: list[Tensor], finite: Tensor, output_type: OutputType) -> Any:
        """Images in the form asked for; a warning of those that are not finite. The host waits once."""
        tensors = begin_output(images, output_type)
        if output_type in ON_HOST:
            *tensors, finite = to_host([*tensors, finite])
        else:
            (finite,) = to_host([finite])
        pixels_dtype = None if output_type == "latent" else self.vae.dtype
        latent_space.warn_of_not_finite(finite, self.transformer.dtype, pixels_dtype)
        return finish_output(tensors, output_type)

    def _groups(
        self, sizes: Sequence[tuple[int, int]], num_images_per_prompt: int, latents: Tensor | None
    ) -> dict[tuple[int, int], list[int]]:
        """Samples by the size they are drawn at, which go together; given noise is checked."""
        groups = defaultdict(list)
        for sample in range(len(sizes) * num_images_per_prompt):
            groups[sizes[sample // num_images_per_prompt]].append(sample)
        if latents is not None:
            self._check_latents(latents, len(sizes) * num_images_per_prompt, groups)
        return groups

    def _targets(
        self,
        references: list[list[Image.Image]] | None,
        count: int,
        settings: ResolvedSettings,
        restore_size: bool,
        mask: ImageSource | None,
    ) -> Targets:
        """What a call draws of so many prompts with their references."""
        height, width = settings.height, settings.width
        sizes, sources = self.sizes.drawn(references, count, height, width)
        pixels = None if references is None else self.sizes.read(references, height, width)
        final_sizes = [source if restore_size else None for source in sources]
        masked = None if mask is None else self._masked(mask, references, sizes, final_sizes)
        kept = None
        if settings.keep_unchanged and references is not None:
            results = [final or drawn for drawn, final in zip(sizes, final_sizes, strict=True)]
            kept = [to_bytes(row[0], size) for row, size in zip(references, results, strict=True)]
        return Targets(sizes, final_sizes, pixels, masked, kept)

    def _draw(
        self,
        targets: Targets,
        rows: Sequence[int],
        conditions: tuple[Condition, Condition | None],
        generators: Sequence[torch.Generator],
        latents: Tensor | None,
        settings: ResolvedSettings,
        posterior: latent_space.Posterior,
        output_type: OutputType,
        **options: Any,
    ) -> tuple[list[Tensor], Tensor]:
        """Draw samples of one size: pixels (3, H, W), or latents (C, h, w) where these are wanted, and
        whether they are finite (B, 2).

        Args:
            targets: see `Targets`.
            rows: the prompt of each sample.
            conditions: positive and negative, of each sample.
            generators: of each sample.
            latents: initial noise (B, C, h, w), if it was given.
            settings: see `denoise`.
            posterior: of references.
            output_type: see `__call__`.
            **options: see `denoise`.
        """
        size, dtype, device = targets.sizes[rows[0]], self.transformer.dtype, self._execution_device
        noise = self.prepare_latents(*size, generators, dtype, device) if latents is None else latents
        shown = None if targets.pixels is None else [targets.pixels[row] for row in rows]
        references = shown and self.prepare_references(shown, generators, dtype, posterior)
        masked = targets.masked
        kept = masked and {row: masked[row].latents(self.vae, size, dtype, device) for row in set(rows)}
        clean = self.denoise(
            to_device(noise, device, dtype),  # (B, C, h, w)
            *conditions,
            references,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            preset=settings.chosen_preset,
            solver=settings.solver,
            kept=kept and [kept[row] for row in rows],
            **options,
        )
        if output_type == "latent":
            return list(clean), latent_space.are_finite(clean)
        with self._kept_memory():
            images = latent_space.decode(self.vae, clean, is_checked=False).float()
            sources = targets.sources
            unchanged = sources and {
                row: UnchangedPixels.of(sources[row], self.vae, size, dtype, device) for row in set(rows)
            }
        finite = latent_space.are_finite(clean, images)
        finished = [
            lay_over(image, targets.final_sizes[row], unchanged and unchanged[row], masked and masked[row])
            for row, image in zip(rows, images, strict=True)
        ]
        return finished, finite

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


_CODE = DeepGenPipeline.__call__.__wrapped__.__code__  # of the call itself, within torch's decorator
ARGUMENTS = _CODE.co_varnames[1 : _CODE.co_argcount]  # of a call, by name
