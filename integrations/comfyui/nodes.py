"""The nodes. Pictures are ComfyUI's: float32 tensors (B, H, W, C) in [0, 1].

A model that goes along a wire is a value: applying a LoRA gives another value and leaves the first as it was,
so one loaded model can feed branches with and without. The weights are shared; which LoRAs are active is set
when something is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .input_names import DRAWING, EDITING, LOADING, naming_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from deepgen.data.png import ImageRecord
    from deepgen.generation import GenerationSettings

MAX_SEED = 2**63 - 1 - 64  # picture k of a batch has seed + k
CATEGORY = "DeepGen"


@dataclass(frozen=True)
class Model:
    """A pipeline, and the LoRAs of this wire: (file, strength)."""

    pipe: Any
    loras: tuple[tuple[str, float], ...] = ()

    def activate(self) -> Any:
        """The pipeline with exactly these LoRAs at work."""
        names, strengths = [], []
        for path, strength in self.loras:
            name = _adapter_name(path)
            if name not in {a for adapters in self.pipe.get_list_adapters().values() for a in adapters}:
                self.pipe.load_lora_weights(path, adapter_name=name)
            names.append(name)
            strengths.append(strength)
        if names:
            self.pipe.enable_lora()
            self.pipe.set_adapters(names, strengths)
        elif self.pipe.get_list_adapters():
            self.pipe.disable_lora()
        return self.pipe


class DeepGenLoad:
    """Loads a model once; ComfyUI keeps it as long as nothing here changes."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("DEEPGEN_MODEL",)
    RETURN_NAMES = ("model",)
    DESCRIPTION = "Load DeepGen: `tiny`, `shapes`, a folder, a checkpoint file or a Hub name."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Name, placement and number format."""
        return {
            "required": {
                "name": ("STRING", {"default": "deepgenteam/DeepGen-1.0-diffusers"}),
                "device": (["auto", "cuda", "mps", "cpu"],),
                "dtype": (["auto", "bfloat16", "float16", "float32"],),
                "offload": (["none", "model", "sequential", "group"],),
                "quantize": (["none", "int8", "nf4"],),
            }
        }

    def load(self, name: str, device: str, dtype: str, offload: str, quantize: str) -> tuple[Model]:
        """The model; errors say what of the inputs does not fit."""
        from deepgen.cli.loading import load_pipeline
        from deepgen.cli.options import ModelOptions

        options = ModelOptions(
            model=name.strip(),
            device=device,  # pyright: ignore[reportArgumentType]  # one of the list above
            dtype=dtype,  # pyright: ignore[reportArgumentType]
            offload=offload,  # pyright: ignore[reportArgumentType]
            quantize=quantize,  # pyright: ignore[reportArgumentType]
        )
        with naming_inputs(LOADING):
            pipe = load_pipeline(options)
        pipe.set_progress_bar_config(disable=True)  # ComfyUI has its own
        return (Model(pipe),)


class DeepGenLora:
    """Adds a LoRA to this wire's model."""

    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES = ("DEEPGEN_MODEL",)
    RETURN_NAMES = ("model",)
    DESCRIPTION = "Apply LoRA weights that `deepgen train lora` or another trainer wrote."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Model, file and strength."""
        return {
            "required": {
                "model": ("DEEPGEN_MODEL",),
                "path": ("STRING", {"default": ""}),
                "strength": ("FLOAT", {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05}),
            }
        }

    def apply(self, model: Model, path: str, strength: float) -> tuple[Model]:
        """The model with one LoRA more; the same file twice counts with both strengths."""
        path = path.strip()
        if not path:
            raise ValueError("path is empty; name a .safetensors file, a folder or a Hub name")
        before = dict(model.loras)
        return (replace(model, loras=tuple({**before, path: before.get(path, 0.0) + strength}.items())),)


class DeepGenGenerate:
    """Pictures from words."""

    CATEGORY = CATEGORY
    FUNCTION = "generate"
    RETURN_TYPES = ("IMAGE", "DEEPGEN_RECORDS")
    RETURN_NAMES = ("IMAGE", "records")
    DESCRIPTION = "Draw pictures from a text. Where a number is 0, it is the model's own."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs: the arguments of the pipeline."""
        return {
            "required": {
                "model": ("DEEPGEN_MODEL",),
                "prompt": ("STRING", {"multiline": True, "default": "a cat in a meadow"}),
                "seed": _SEED,
            },
            "optional": {
                **_sampling(),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 64}),
                **_last(),
            },
            "hidden": dict(_HIDDEN),
        }

    def generate(
        self,
        model: Model,
        prompt: str,
        seed: int,
        num_inference_steps: int = 0,
        guidance_scale: float = 0.0,
        width: int = 0,
        height: int = 0,
        batch_size: int = 1,
        negative_prompt: str = "",
        preset: str = "exact",
        solver: str = "default",
        steps: int = 0,
        guidance: float = 0.0,
        graph: dict[str, Any] | None = None,
        unique_id: str | None = None,
        **unknown: Any,
    ) -> tuple[Tensor, list[ImageRecord]]:
        """The pictures, (batch_size, height, width, 3), and how each was made."""
        _refuse_unknown_inputs(self, graph, unique_id, unknown)
        asked = _settings(
            {"steps": steps, "guidance": guidance},
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            negative_prompt=negative_prompt,
            preset=preset,
            solver=solver,
        )
        return _draw(model, [prompt], None, asked, num_images_per_prompt=batch_size)


class DeepGenEdit:
    """Pictures from pictures and an instruction."""

    CATEGORY = CATEGORY
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE", "DEEPGEN_RECORDS")
    RETURN_NAMES = ("IMAGE", "records")
    DESCRIPTION = "Change each picture of the batch as told; image_2 and image_3 are further references."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs: the arguments of the pipeline, and the pictures."""
        return {
            "required": {
                "model": ("DEEPGEN_MODEL",),
                "image": ("IMAGE",),
                "instruction": ("STRING", {"multiline": True, "default": "replace the cat with a dog"}),
                "seed": _SEED,
            },
            "optional": {
                **_sampling(),
                "image_2": ("IMAGE",),
                "image_3": ("IMAGE",),
                "mask": ("MASK",),
                **_last(),
                "keep_unchanged": (
                    ["default", "on", "off"],
                    {"tooltip": "on: what the edit leaves as it was stays pixel for pixel"},
                ),
            },
            "hidden": dict(_HIDDEN),
        }

    def edit(
        self,
        model: Model,
        image: Tensor,
        instruction: str,
        seed: int,
        num_inference_steps: int = 0,
        guidance_scale: float = 0.0,
        width: int = 0,
        height: int = 0,
        image_2: Tensor | None = None,
        image_3: Tensor | None = None,
        mask: Tensor | None = None,
        negative_prompt: str = "",
        preset: str = "exact",
        solver: str = "default",
        keep_unchanged: str = "default",
        steps: int = 0,
        guidance: float = 0.0,
        graph: dict[str, Any] | None = None,
        unique_id: str | None = None,
        **unknown: Any,
    ) -> tuple[Tensor, list[ImageRecord]]:
        """One edited picture for each of `image`, (B, H, W, 3), as large as it where no size is asked, and
        how each was made.

        `mask`, (B or 1, H, W), is 1 where the picture may change, as everywhere in ComfyUI.
        """
        _refuse_unknown_inputs(self, graph, unique_id, unknown)
        others = {"image_2": image_2, "image_3": image_3}
        more = [_image(other[0], name) for name, other in others.items() if other is not None]
        references = [[_image(one, "image"), *more] for one in image]
        asked = _settings(
            {"steps": steps, "guidance": guidance},
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            negative_prompt=negative_prompt,
            preset=preset,
            solver=solver,
        )
        asked = replace(asked, keep_unchanged={"on": True, "off": False}.get(keep_unchanged))
        masked = {}
        if mask is not None:
            if len(mask) > 1 and not (mask == mask[:1]).all():
                raise ValueError(
                    f"mask: one for all pictures of a batch, got {len(mask)}; edit them one by one"
                )
            masked["mask"] = _transparent(mask[0])
        return _draw(model, [instruction] * len(references), references, asked, **masked)


class DeepGenSave:
    """Saves pictures as ComfyUI's own node does, and how each was made beside the workflow."""

    CATEGORY = CATEGORY
    FUNCTION = "save"
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Save pictures with the record that `deepgen info` reads, beside ComfyUI's own prompt and workflow."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Pictures with their records, and the names of ComfyUI's own node."""
        return {
            "required": {
                "images": ("IMAGE",),
                "records": ("DEEPGEN_RECORDS",),
                "filename_prefix": ("STRING", {"default": "DeepGen"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save(
        self,
        images: Tensor,
        records: Sequence[ImageRecord],
        filename_prefix: str = "DeepGen",
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write each picture of the batch, (B, H, W, 3); what ComfyUI shows of them."""
        import folder_paths  # pyright: ignore[reportMissingImports]  # the host
        from comfy.cli_args import args  # pyright: ignore[reportMissingImports]
        from PIL import Image

        from deepgen.data.png import save_png

        if len(images) != len(records):
            raise ValueError(
                f"{len(images)} pictures came with {len(records)} records; wire both from the same node, "
                "with no node between them that adds or drops pictures"
            )
        height, width = images.shape[1:3]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        graph = {"prompt": prompt, **(extra_pnginfo or {})}
        entries = {key: json.dumps(value) for key, value in graph.items() if value is not None}
        shown = []
        for number, (image, record) in enumerate(zip(images, records, strict=True)):
            file = f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
            pixels = (image.clamp(0, 1) * 255).round().byte().cpu().numpy()
            kept = None if args.disable_metadata else _resized(record, height, width)
            save_png(Image.fromarray(pixels), Path(folder, file), kept, entries)
            shown.append({"filename": file, "subfolder": subfolder, "type": "output"})
        return {"ui": {"images": shown}}


# ComfyUI hands a node the inputs that it declares and drops others, so a node looks into the graph for them.
_HIDDEN = {"graph": "PROMPT", "unique_id": "UNIQUE_ID"}
_SEED = ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True})
_STEPS = {"default": 0, "min": 0, "max": 200}
_GUIDANCE = {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1}


def _sampling() -> dict[str, Any]:
    """Fields after the seed, in the order in which workflows keep their values."""
    size = {"default": 0, "min": 0, "max": 4096, "step": 16}
    return {
        "num_inference_steps": ("INT", _STEPS),
        "guidance_scale": ("FLOAT", _GUIDANCE),
        "width": ("INT", dict(size)),
        "height": ("INT", dict(size)),
    }


def _last() -> dict[str, Any]:
    """Fields that came later, and former names as inputs without a field, for workflows in API format."""
    return {
        "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
        "preset": (["exact", "balanced", "fast", "turbo"],),
        "solver": (["default", "euler", "heun", "dpm++", "unipc"],),
        "steps": ("INT", {**_STEPS, "forceInput": True, "tooltip": "former name of num_inference_steps"}),
        "guidance": ("FLOAT", {**_GUIDANCE, "forceInput": True, "tooltip": "former name of guidance_scale"}),
    }


def _refuse_unknown_inputs(
    node: Any, graph: dict[str, Any] | None, unique_id: str | None, unknown: Mapping[str, Any]
) -> None:
    """ValueError for an input, of this call or of this node in the graph, that the node does not have."""
    from deepgen.generation import refuse_unknown

    given = (graph or {}).get(str(unique_id), {}).get("inputs", {})
    known = node.INPUT_TYPES()
    refuse_unknown([*given, *unknown], [*known["required"], *known["optional"]])


def _resized(record: ImageRecord, height: int, width: int) -> ImageRecord:
    """The record of a picture that another node may have brought to another size."""
    if (record.height, record.width) == (height, width):
        return record
    drawn = {
        "drawn_height": record.drawn_height or record.height,
        "drawn_width": record.drawn_width or record.width,
    }
    return replace(record, height=height, width=width, **drawn)


def _settings(former: dict[str, Any], **given: Any) -> GenerationSettings:
    """What was chosen; 0, nothing and "default" are the model's own."""
    from deepgen.generation import GenerationSettings, standard_names

    if bool(given["width"]) != bool(given["height"]):
        raise ValueError(
            f"give both width and height, or 0 for both; got {given['width']} and {given['height']}"
        )
    chosen = {name: value for name, value in given.items() if value not in (0, "", "default")}
    aliases = {name: value for name, value in former.items() if value}
    with naming_inputs(DRAWING):
        return GenerationSettings(**{"seed": 0, **standard_names({**chosen, **aliases}, former)})


def _draw(
    model: Model, prompts: list[str], images: Any, asked: GenerationSettings, **more: Any
) -> tuple[Tensor, list[ImageRecord]]:
    """(B, H, W, 3) in [0, 1] on the CPU; a batch is of one size, so the pipeline gives one tensor."""
    pipe = model.activate()
    with naming_inputs(DRAWING if images is None else EDITING):
        settings = asked.resolve(pipe.defaults, is_edit=images is not None)
        output = pipe(
            prompts,
            image=images,
            output_type="pt",
            callback_on_step_end=_on_step(settings.num_inference_steps),
            **settings.arguments(),
            **more,
        )
    return output.images.float().cpu().permute(0, 2, 3, 1).contiguous(), output.records


def _image(image: Tensor, name: str) -> Tensor:
    """One of ComfyUI's pictures, (H, W, C), as the pipeline reads it: (3, H, W); `name` is the input's."""
    if image.ndim != 3 or image.shape[-1] < 3:
        raise ValueError(f"{name}: expected pictures (H, W, 3), got one of shape {tuple(image.shape)}")
    return image[..., :3].clamp(0, 1).permute(2, 0, 1).contiguous()


def _transparent(mask: Tensor) -> Any:
    """A mask (H, W) as the pipeline reads it: a picture that is transparent where the mask is 1."""
    from PIL import Image

    alpha = ((1 - mask.clamp(0, 1)) * 255).round().byte().cpu().numpy()
    image = Image.new("RGBA", (alpha.shape[1], alpha.shape[0]))
    image.putalpha(Image.fromarray(alpha))
    return image


def _on_step(num_steps: int) -> Callable[..., dict[str, Any]]:
    """Moves ComfyUI's progress bar, and stops when its cancel button is pressed."""
    import comfy.model_management  # pyright: ignore[reportMissingImports]  # the host
    import comfy.utils  # pyright: ignore[reportMissingImports]

    bar = comfy.utils.ProgressBar(num_steps)

    def on_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)
        return tensors

    return on_step


def _adapter_name(path: str) -> str:
    """A name for PEFT, which allows no dots, and which tells a rewritten file from what was loaded before."""
    file = Path(path)
    written = file.stat().st_mtime_ns if file.exists() else 0
    return "".join(c if c.isalnum() else "_" for c in path) + f"_{written}"


NODE_CLASS_MAPPINGS = {
    "DeepGenLoad": DeepGenLoad,
    "DeepGenLora": DeepGenLora,
    "DeepGenGenerate": DeepGenGenerate,
    "DeepGenEdit": DeepGenEdit,
    "DeepGenSave": DeepGenSave,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DeepGenLoad": "Load DeepGen",
    "DeepGenLora": "DeepGen LoRA",
    "DeepGenGenerate": "DeepGen Generate",
    "DeepGenEdit": "DeepGen Edit",
    "DeepGenSave": "DeepGen Save",
}
