"""Models to evaluate, by name: a checkpoint, a server, or a folder of pictures.

    tiny, shapes             the small models inside the package
    FOLDER, FILE or HUB ID   DeepGen in any of its forms
    diffusers:NAME           any text-to-image or image-to-image pipeline of diffusers
    openai:URL               an endpoint of the OpenAI Images API, with its version, as openai:http://host/v1#MODEL
    images:FOLDER            pictures of another program, see `deepgen.evaluation.image_folder`

Each has one verb: draw.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from deepgen.checkpoints.file_hash import hash_file
from deepgen.data.images import open_image
from deepgen.data.png import ImageRecord, attach_record
from deepgen.evaluation.benchmark import CannotDraw, Item, Settings
from deepgen.evaluation.image_folder import ImageFolder
from deepgen.rewards.http import Connection
from deepgen.rewards.reward import RewardUnavailable


class Model(Protocol):
    """Draws.

    Attributes:
        name: as it was asked for.
        fingerprint: a hash of weights or pictures, or what else is known of them.
        is_seeded: whether a seed decides the picture.
        is_batched: whether several pictures of a call are cheaper than as many calls.
    """

    name: str
    fingerprint: str
    is_seeded: bool
    is_batched: bool

    def draw(
        self, items: Sequence[Item], seeds: Sequence[int], settings: Settings, generator: Any = None
    ) -> list[Image.Image]:
        """One RGB picture an item, in order; CannotDraw where there is none.

        Args:
            items: all with references, or all without.
            seeds: one each.
            settings: size, steps, guidance and negative prompt.
            generator: drawn from in turn instead of the seeds (a `torch.Generator`).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How a model is loaded.

    Attributes:
        device: auto is cuda, then cpu.
        dtype: of weights; auto is bfloat16 on cuda and float32 elsewhere.
        lora: LoRA weights for a DeepGen model.
        preset: solver and spacing of a DeepGen model's steps, see `deepgen.sampling.presets`.
        api_key: for an endpoint; sent as a bearer token.
        timeout, retries: of an endpoint, in seconds and tries after the first.
    """

    device: str = "auto"
    dtype: str = "auto"
    lora: str | None = None
    preset: str = "exact"
    api_key: str = ""
    timeout: float = 300.0
    retries: int = 4


def load_model(name: str, config: ModelConfig | None = None) -> Model:
    """The model of a name; whatever is wrong with it is said here, before anything is drawn."""
    config = config or ModelConfig()
    kind, colon, rest = name.partition(":")
    if colon and kind in ("diffusers", "openai", "images"):
        if config.preset != "exact":
            raise ValueError(f"preset {config.preset!r} is for DeepGen models, and {name!r} is none")
        if not rest:
            raise ValueError(f"{name!r} names nothing; try {kind}:NAME")
        if kind == "images":
            return ImageFolder(name, Path(rest).expanduser())
        return Endpoint(name, rest, config) if kind == "openai" else _load_diffusers(name, rest, config)
    return _load_deepgen(name, config)


class PipelineModel:
    """A pipeline in this process."""

    is_seeded = True
    is_batched = True

    def __init__(
        self, name: str, pipe: Any, fingerprint: str, *, is_deepgen: bool, preset: str = "exact"
    ) -> None:
        self.name, self.pipe, self.fingerprint, self._is_deepgen = name, pipe, fingerprint, is_deepgen
        self._preset = preset
        self.pipe.set_progress_bar_config(disable=True)
        self._accepts = set(inspect.signature(pipe.__call__).parameters)

    def draw(
        self, items: Sequence[Item], seeds: Sequence[int], settings: Settings, generator: Any = None
    ) -> list[Image.Image]:
        """One call of the pipeline. Edits get their first reference in the size of the picture asked for, as
        the original scripts do it.
        """
        import torch

        options: dict[str, Any] = {
            "negative_prompt": settings.negative_prompt or None,
            "height": settings.height,
            "width": settings.width,
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
        }
        options = {key: value for key, value in options.items() if value is not None}
        size = (settings.width, settings.height)
        sources = [item.open_references()[:1] for item in items] if items[0].references else None
        if sources is not None:
            sources = [[source.resize(size) for source in row] for row in sources]
        if self._is_deepgen:
            options["preset"] = settings.preset or self._preset
            options |= {} if settings.solver is None else {"solver": settings.solver}
            options["seed" if generator is None else "generator"] = (
                list(seeds) if generator is None else generator
            )
            if sources is not None:
                options["image"] = sources
        else:
            options["generator"] = generator or [torch.Generator().manual_seed(seed) for seed in seeds]
            if settings.negative_prompt:
                options["negative_prompt"] = [settings.negative_prompt] * len(items)
            if sources is not None:
                if "image" not in self._accepts:
                    raise ValueError(f"{self.name} ({type(self.pipe).__name__}) takes no picture to edit")
                options["image"] = [row[0] for row in sources]
            options = {key: value for key, value in options.items() if key in self._accepts}
        drawn = self.pipe([item.prompt for item in items], output_type="pil", **options).images
        if not self._is_deepgen:
            for item, seed, image in zip(items, seeds, drawn, strict=True):
                attach_record(image, self._asked(item, None if generator else seed, image, options))
        return [image.convert("RGB") for image in drawn]  # with the records that they carry

    def _asked(
        self, item: Item, seed: int | None, image: Image.Image, options: dict[str, Any]
    ) -> ImageRecord:
        """What another project's pipeline was asked; its solver is not known here."""
        return ImageRecord(
            prompt=item.prompt,
            negative_prompt=options["negative_prompt"][0] if "negative_prompt" in options else None,
            seed=seed,
            num_inference_steps=options.get("num_inference_steps"),
            guidance_scale=options.get("guidance_scale"),
            width=image.width,
            height=image.height,
            model=self.name,
        )


def _load_deepgen(name: str, config: ModelConfig) -> Model:
    import torch

    from deepgen.checkpoints.lora_files import read_lora
    from deepgen.embedded import is_embedded, model_source
    from deepgen.pipeline import DeepGenPipeline

    device, dtype = _place(config)
    lora = None if config.lora is None else read_lora(config.lora)  # a bad file is an error before the model
    pipe = DeepGenPipeline.from_pretrained(name, torch_dtype=dtype)
    if lora is not None:
        pipe.load_lora_weights(lora)
    pipe.to(device)
    if is_embedded(name):
        torch.set_num_threads(1)  # its tensors are so small that threads wait longer than they work
    fingerprint = weights_hash(Path(model_source(name)).expanduser(), name)
    if config.lora is not None:
        fingerprint += f"+{weights_hash(Path(config.lora).expanduser(), config.lora)}"
    if config.preset != "exact":
        fingerprint += f"+preset {config.preset}"
    return PipelineModel(name, pipe, fingerprint, is_deepgen=True, preset=config.preset)


def _load_diffusers(name: str, source: str, config: ModelConfig) -> Model:
    from diffusers import DiffusionPipeline

    device, dtype = _place(config)
    pipe = DiffusionPipeline.from_pretrained(source, torch_dtype=dtype)
    pipe.to(device)
    return PipelineModel(name, pipe, weights_hash(Path(source).expanduser(), source), is_deepgen=False)


def _place(config: ModelConfig) -> tuple[str, Any]:
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return device, getattr(torch, dtype)


def weights_hash(path: Path, name: str) -> str:
    """SHA-256 over the files of a folder, or of a file, in hex; for a Hub id its cached commit."""
    if path.is_file():
        return hash_file(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.suffix in (".safetensors", ".json", ".pt", ".bin"):
                digest.update(f"{file.relative_to(path)} {hash_file(file)}\n".encode())
        return digest.hexdigest()
    from huggingface_hub import snapshot_download

    return f"{name}@{Path(snapshot_download(name, local_files_only=True)).name}"


class Endpoint:
    """An endpoint of the OpenAI Images API, over HTTP.

    Steps, guidance, negative prompt and seed are sent beside the official fields; a server may ignore them.
    """

    is_seeded = False
    rewriting = "none here; the service may rewrite prompts itself"
    is_batched = False

    def __init__(self, name: str, address: str, config: ModelConfig) -> None:
        url, _, self._model = address.partition("#")
        self.name, self.fingerprint = name, f"endpoint {address}"
        self._headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._connection = Connection(
            url=url, timeout=config.timeout, retries=config.retries, headers=self._headers
        )
        self._config = config

    def draw(
        self, items: Sequence[Item], seeds: Sequence[int], settings: Settings, generator: Any = None
    ) -> list[Image.Image]:
        """One request a picture, one after the other."""
        if generator is not None:
            raise ValueError(f"{self.name} cannot draw from a generator; leave --seeds sequential out")
        return [self._draw_one(item, seed, settings) for item, seed in zip(items, seeds, strict=True)]

    def _draw_one(self, item: Item, seed: int, settings: Settings) -> Image.Image:
        fields: dict[str, Any] = {
            "prompt": item.prompt,
            "n": 1,
            "size": f"{settings.width}x{settings.height}",
            "response_format": "b64_json",
            "seed": seed,
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "negative_prompt": settings.negative_prompt or None,
            "model": self._model or None,
        }
        fields = {key: value for key, value in fields.items() if value is not None}
        try:
            if item.references:
                reply = self._edit(item, fields)
            else:
                reply = self._connection.post("/images/generations", fields)
        except RewardUnavailable as error:
            raise CannotDraw(str(error)) from error
        try:
            data = base64.b64decode(reply["data"][0]["b64_json"], validate=True)
            return open_image(data)
        except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
            raise CannotDraw(f"{self.name} answered with no picture: {str(reply)[:120]!r}") from error

    def _edit(self, item: Item, fields: Mapping[str, Any]) -> Any:
        """Edits are sent as a form with the picture as a file."""
        buffer = BytesIO()
        item.open_references()[0].save(buffer, "PNG")
        body, kind = form({key: str(value) for key, value in fields.items()}, {"image": buffer.getvalue()})
        return _FormConnection(
            url=self._connection.url,
            timeout=self._config.timeout,
            retries=self._config.retries,
            headers={**self._headers, "Content-Type": kind},
        ).send("/images/edits", body)


class _FormConnection(Connection):
    """The same patience for a body that is not JSON."""

    def send(self, path: str, body: bytes) -> Any:
        """What the server answers."""
        return self._ask(path, body)


def form(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """(body, content type) of a form with fields and PNG files."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(head.encode() + value.encode() + b"\r\n")
    for name, data in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n'
        parts.append(f"{head}Content-Type: image/png\r\n\r\n".encode() + data + b"\r\n")
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"
