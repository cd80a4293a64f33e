"""A model from base models alone: a plain Qwen2.5-VL, an SD3 pipeline, and a fresh connector between them.

This is where stage 1 begins. The connector's sizes follow from its neighbours (`fitted_connector`), its
weights from a seed. What a base is shows in small files, so a wrong one is refused before weights are read or
downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepgen.checkpoints.base_models import BASE_PIPELINE, BASE_VLM, base_folder, scheduler_folder
from deepgen.checkpoints.checkpoint import LoadReport, compare, open_part
from deepgen.checkpoints.layouts import HubOptions, read_json, resolve
from deepgen.checkpoints.parts import Part, is_quantized, materialize, named_config, read_config
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.models.config import DEEPGEN_1_0, Architecture, chosen_taps
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.prompts import IMAGE_TOKEN

_EXPECTED = {
    "vlm": ("Qwen2.5-VL", ("qwen2_5_vl",), BASE_VLM),
    "transformer": (
        "an SD3 transformer",
        ("SD3Transformer2DModel", "DeepGenTransformer2DModel"),
        BASE_PIPELINE,
    ),
    "vae": ("a KL autoencoder", ("AutoencoderKL",), BASE_PIPELINE),
}
_GIVEN_BY_NEIGHBOURS = ("vlm_hidden_size", "vlm_num_layers", "pooled_projection_dim", "joint_attention_dim")
_HEAD = 64  # channels of an attention head of the published connector


@dataclass(frozen=True, kw_only=True)
class BaseModels:
    """Folders or hub ids. The defaults are those the published model was trained from.

    Attributes:
        vlm: a Qwen2.5-VL folder, tokenizer included.
        transformer: an SD3 pipeline, or the folder of its transformer alone.
        vae: a pipeline, or the folder of a VAE alone; None is `transformer`'s.
    """

    vlm: str = BASE_VLM
    transformer: str = BASE_PIPELINE
    vae: str | None = None

    @property
    def sources(self) -> dict[str, str]:
        """Part to its source."""
        return {"vlm": self.vlm, "transformer": self.transformer, "vae": self.vae or self.transformer}


@dataclass
class OpenedBases:
    """Base models whose headers were read and found to fit; no weights are in memory.

    Attributes:
        parts: VLM, transformer and VAE.
        connector: keyword arguments of the fresh connector.
        tokenizer: the loaded tokenizer.
        scheduler: the scheduler's folder.
    """

    parts: dict[str, Part]
    connector: dict[str, Any]
    tokenizer: Any
    scheduler: Path


def open_bases(
    bases: BaseModels, connector_options: Sequence[str] = (), hub: HubOptions | None = None
) -> OpenedBases:
    """Check everything that can be known without reading weights.

    Raises:
        FileNotFoundError: a base, its tokenizer or its scheduler is not there; says what was looked for.
        CheckpointError: a base is another model, or its weights do not fit its config.
        ValueError: a connector option is wrong.
    """
    for name, source in bases.sources.items():
        check_base(name, source, hub)
    tokenizer, scheduler = _open_tokenizer(bases.vlm, hub), _open_scheduler(bases, hub)
    report = LoadReport()
    parts = {
        name: open_part(name, base_folder(name, source, hub), report, is_base=True)
        for name, source in bases.sources.items()
    }
    configs = {name: part.config for name, part in parts.items()}
    sizes = changed_connector(fitted_connector(configs["vlm"], configs["transformer"]), connector_options)
    _check_fit(bases, configs)
    for name, part in parts.items():
        if is_quantized(part):
            raise CheckpointError(
                f"the {name} of {bases.sources[name]} is quantised; begin from weights that are not"
            )
        compare(part, report)
    report.raise_if_incomplete(" and ".join(dict.fromkeys(bases.sources.values())))
    return OpenedBases(parts, sizes, tokenizer, scheduler)


def load_fresh(
    bases: BaseModels,
    *,
    dtype: torch.dtype | None = None,
    connector_options: Sequence[str] = (),
    seed: int = 0,
    hub: HubOptions | None = None,
) -> dict[str, Any]:
    """The arguments of `DeepGenPipeline`: the bases' parts, and a connector of fresh weights.

    Args:
        bases: where they are.
        dtype: of the bases; None as stored. The connector is in float32.
        connector_options: in what it differs from `fitted_connector`, as `name=value`.
        seed: of its weights.
        hub: how hub ids are turned into folders.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    opened = open_bases(bases, connector_options, hub)
    loaded: dict[str, Any] = {name: materialize(part, dtype) for name, part in opened.parts.items()}
    loaded["connector"] = fresh_connector(opened.connector, seed=seed)
    loaded["tokenizer"] = opened.tokenizer
    loaded["scheduler"] = FlowMatchEulerDiscreteScheduler.from_pretrained(str(opened.scheduler))
    transformer, vae = (opened.parts[name].config for name in ("transformer", "vae"))
    loaded["defaults"] = _defaults(transformer, vae)
    return loaded


# --- the connector


def fitted_connector(vlm: Any, transformer: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a connector between these two, as keyword arguments.

    It is as wide as the VLM, its feed-forward layers in the published proportion (11946 of 2048) and its
    heads 64 wide; where the width is no multiple of 64 it has as many heads as the VLM. The taps follow from
    the VLM's depth. Six layers and 128 think tokens are the published model's, whose sizes this rule gives
    for its own bases.

    Args:
        vlm: a Qwen2.5-VL config.
        transformer: the config of an SD3 transformer.
    """
    text = vlm.text_config
    width, published = text.hidden_size, DEEPGEN_1_0.connector
    return {
        "hidden_size": width,
        "intermediate_size": width * published["intermediate_size"] // published["hidden_size"],
        "num_hidden_layers": published["num_hidden_layers"],
        "num_attention_heads": text.num_attention_heads if width % _HEAD else width // _HEAD,
        "num_think_tokens": published["num_think_tokens"],
        "vlm_hidden_size": width,
        "vlm_num_layers": text.num_hidden_layers,
        "tap_stride": 6,
        "pooled_projection_dim": transformer["pooled_projection_dim"],
        "joint_attention_dim": transformer["joint_attention_dim"],
        "variant": published["variant"],
    }


def changed_connector(config: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """A connector's config with some fields changed.

    Args:
        config: of a connector.
        options: fields that differ, as `name=value`.

    Raises:
        ValueError: no such field, a value of another kind, one that its neighbours decide, or sizes no
            connector can have.
    """
    changed = {key: value for key, value in config.items() if not key.startswith("_") and key != "taps"}
    taps = config.get("taps")
    for option in joined_options(options):
        name, _, text = option.partition("=")
        if name == "taps":
            taps = _tap_numbers(text)
            continue
        if name == "tap_stride":
            taps = None  # of what it is changed from
        if name not in changed:
            raise ValueError(f"a connector has no {name!r}; known: {', '.join(changed)}, taps")
        try:
            value = type(changed[name])(text)
        except ValueError as error:
            kind = type(changed[name]).__name__
            raise ValueError(f"{name} of a connector is of type {kind}, got {text!r}") from error
        if name in _GIVEN_BY_NEIGHBOURS and value != changed[name]:
            raise ValueError(
                f"{name} of a connector is {changed[name]}, as the VLM and the DiT beside it have it; "
                f"got {text}; leave it out"
            )
        least = 0 if name in ("num_think_tokens", "num_hidden_layers") else 1
        if isinstance(value, int) and value < least:
            raise ValueError(f"{name} of a connector must be at least {least}, got {text}")
        changed[name] = value
    if changed["hidden_size"] % changed["num_attention_heads"]:
        raise ValueError(
            f"hidden_size {changed['hidden_size']} is no multiple of num_attention_heads "
            f"{changed['num_attention_heads']}; give another number of heads among the connector_options"
        )
    if taps is not None and changed["variant"] == "scb":
        changed["taps"] = list(chosen_taps(taps, changed["vlm_num_layers"]))
    return changed


def joined_options(options: Sequence[str]) -> list[str]:
    """Options as `name=value`, where values with commas were taken apart: `taps=6`, `12` is `taps=6,12`."""
    joined: list[str] = []
    for option in options:
        if "=" in option or not joined:
            joined.append(option)
        else:
            joined[-1] += f",{option}"
    return joined


def _tap_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"taps are numbers of VLM layers with commas between them, got {text!r}") from error


def fresh_connector(
    like: StackedChannelBridge | Mapping[str, Any], options: Sequence[str] = (), *, seed: int = 0
) -> StackedChannelBridge:
    """A connector with new weights, which depend on nothing but its sizes and the seed.

    Args:
        like: a connector or a config, whose sizes it has.
        options: fields of the config that differ, see `changed_connector`.
        seed: of the weights; no other random numbers of the process are touched.
    """
    config = like.config if isinstance(like, StackedChannelBridge) else like
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StackedChannelBridge(**changed_connector(config, options))


# --- what a base is


def check_base(name: str, source: str, hub: HubOptions | None = None) -> None:
    """Refuse what is no base model for this part, from its small files alone.

    Args:
        name: vlm, transformer or vae.
        source: a folder or a hub id.
        hub: how hub ids are turned into folders.

    Raises:
        FileNotFoundError: there is no such part; says what is there instead.
        CheckpointError: it is another model.
    """
    folder = _config_folder(name, source, hub)
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type" if name == "vlm" else "_class_name") or _kind(folder))
    wanted, kinds, example = _EXPECTED[name]
    if kind not in kinds:
        raise CheckpointError(
            f"{name} {source} is {_article(kind)}, and DeepGen takes {wanted} there ({' or '.join(kinds)}), "
            f"such as {example}"
        )


def _config_folder(name: str, source: str, hub: HubOptions | None) -> Path:
    try:
        path = resolve(source, hub, allow=["*.json", "*.txt"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: {error}") from error
    if path.is_dir():
        for folder in (path / name, path):
            if (folder / "config.json").is_file():
                return folder
    there = f"it is {_article(_kind(path))}" if path.is_dir() else "it is a file"
    parts = sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    parts = [part for part in parts if not part.startswith(".")]
    raise FileNotFoundError(
        f"no {name} in {source}: {there}{' of ' + ', '.join(parts) if parts else ''}; expected "
        f"{_EXPECTED[name][0]} with a config.json, such as {_EXPECTED[name][2]}"
    )


def _kind(folder: Path) -> str:
    """What a folder says it holds: a class, a kind of model, or that it does not say."""
    for file, key in (("model_index.json", "_class_name"), ("config.json", "_class_name")):
        if (folder / file).is_file() and (found := read_json(folder / file).get(key)):
            return str(found[-1] if isinstance(found, list) else found)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return str(config.get("model_type") or "folder without a config")


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _open_tokenizer(source: str, hub: HubOptions | None) -> Any:
    """The VLM's tokenizer, which must know the VLM's placeholders."""
    from transformers import AutoTokenizer

    folder = base_folder("tokenizer", source, hub)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the tokenizer of {source} cannot be opened: {reason}") from error
    config = read_config("vlm", _config_folder("vlm", source, hub))
    found = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if found != config.image_token_id:
        raise CheckpointError(
            f"the tokenizer of {source} gives {IMAGE_TOKEN} the id {found}, and its VLM expects "
            f"{config.image_token_id}; take the tokenizer the model came with"
        )
    return tokenizer


def _open_scheduler(bases: BaseModels, hub: HubOptions | None) -> Path:
    """The scheduler's folder: of the transformer's or the VAE's pipeline, else the published pipeline's."""
    folder = scheduler_folder([bases.transformer, bases.vae, BASE_PIPELINE], hub)
    kind = read_json(folder / "scheduler_config.json").get("_class_name")
    if kind != "FlowMatchEulerDiscreteScheduler":
        raise CheckpointError(
            f"the scheduler of {folder} is {_article(str(kind))}, and DeepGen is trained with "
            "FlowMatchEulerDiscreteScheduler; give an SD3 pipeline"
        )
    return folder


def _check_fit(bases: BaseModels, configs: Mapping[str, Any]) -> None:
    """The DiT draws in the VAE's latents."""
    drawn, kept = configs["transformer"].get("in_channels"), configs["vae"].get("latent_channels")
    if drawn != kept:
        raise CheckpointError(
            f"transformer {bases.sources['transformer']} draws {drawn} latent channels and vae "
            f"{bases.sources['vae']} has {kept}; they belong to different models, give those of one pipeline"
        )


def _defaults(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> dict[str, Any]:
    """Size, steps and guidance: the published model's, no larger than the DiT's positions reach."""
    pixels = transformer.get("patch_size", 2) * 2 ** (len(vae["block_out_channels"]) - 1)
    side = min(DEEPGEN_1_0.defaults["height"], transformer["pos_embed_max_size"] * pixels)
    return {**DEEPGEN_1_0.defaults, "height": side, "width": side}


def planned_architecture(
    bases: BaseModels, connector_options: Sequence[str] = (), hub: HubOptions | None = None
) -> Architecture:
    """Sizes of what `load_fresh` would make, from configs alone; those of the published bases are known.

    Raises:
        FileNotFoundError: a base is not there.
        CheckpointError: a base is another model.
        ValueError: a connector option is wrong.
    """
    configs: dict[str, Any] = {}
    for name, source in bases.sources.items():
        if source == (BASE_VLM if name == "vlm" else BASE_PIPELINE):
            configs[name] = named_config(name, DEEPGEN_1_0)
        else:
            check_base(name, source, hub)
            configs[name] = read_config(name, _config_folder(name, source, hub))
    _check_fit(bases, configs)
    sizes = fitted_connector(configs["vlm"], configs["transformer"])
    is_published = sizes == {"tap_stride": 6, **DEEPGEN_1_0.connector} and not connector_options
    return Architecture(
        name=DEEPGEN_1_0.name if is_published else "a model from base models",
        connector=changed_connector(sizes, connector_options),
        transformer=configs["transformer"],
        vae=configs["vae"],
        vlm=configs["vlm"].to_dict(),
        scheduler=DEEPGEN_1_0.scheduler,
        defaults=_defaults(configs["transformer"], configs["vae"]),
    )
