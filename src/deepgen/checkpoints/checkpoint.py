"""A checkpoint of any layout as parts with our names, and the strict account of its keys.

`read_checkpoint` takes what the files hold; what they leave to base models is added in `bases.py`. Every key
ends up used, skipped for a stated reason, or in an error that lists it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepgen.checkpoints import infer_config as sizes
from deepgen.checkpoints import names
from deepgen.checkpoints.layouts import Layout, read_json, read_object, weight_files
from deepgen.checkpoints.limits import check_config, check_layers
from deepgen.checkpoints.lora import DEFAULT_SCALE, Pair, native_tensors, pairs
from deepgen.checkpoints.parts import WEIGHTED, Part, build, is_quantized, read_config
from deepgen.checkpoints.run_facts import RunSettings, run_settings
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor, open_files
from deepgen.checkpoints.zero_partitions import open_zero
from deepgen.models.config import ARCHITECTURES, Architecture
from deepgen.models.containment import require_inside

ADAPTER_DIR = "vlm_lora"
POSITION_TABLE = "pos_embed.pos_embed"  # the DiT's only buffer: stored even where its weights are not
SHOWN = 20  # keys of one kind that an error spells out


@dataclass
class LoadReport:
    """What became of every key; keys are `part.name` in our names, foreign ones as the file has them."""

    used: dict[str, int] = field(default_factory=dict)  # tensors by part
    bases: dict[str, str] = field(default_factory=dict)  # part -> base model it came from
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)  # key -> reason
    notes: list[str] = field(default_factory=list)

    def raise_if_incomplete(self, source: str) -> None:
        """CheckpointError that lists every key that is missing, foreign or of the wrong shape."""
        faults = {"missing": self.missing, "unexpected": self.unexpected, "wrong shape": self.mismatched}
        lines = [
            f"  {len(keys)} {fault}: {', '.join(keys[:SHOWN])}"
            + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
            for fault, keys in faults.items()
            if keys
        ]
        if lines:
            raise CheckpointError("\n".join([f"{source} does not fit the model:", *lines]))


@dataclass
class Checkpoint:
    """Parts by name, the VLM's LoRA if there is one, and where tokenizer and scheduler are."""

    layout: Layout
    parts: dict[str, Part]
    lora: dict[str, Pair]
    report: LoadReport
    lora_scale: float = DEFAULT_SCALE
    tokenizer: Path | None = None
    scheduler: Path | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, Mapping[str, LazyTensor]] = field(default_factory=dict)  # of parts left to base models
    carried: dict[str, LazyTensor] = field(default_factory=dict)  # native names of what has no part here
    settings: RunSettings = field(default_factory=RunSettings)  # what the training run says of itself

    def check(self) -> None:
        """Compare every part with the model of its config; CheckpointError that lists what does not fit."""
        for part in self.parts.values():
            compare(part, self.report)
        self.report.raise_if_incomplete(self.layout.source)

    def refuse_quantized(self) -> None:
        """CheckpointError if a part was saved quantised, which only the library that did it can read."""
        if found := [part.name for part in self.parts.values() if is_quantized(part)]:
            raise CheckpointError(
                f"{', '.join(found)} of {self.layout.source} are quantised: load the folder with "
                "DeepGenPipeline.from_pretrained, or start from weights that are not"
            )

    def is_plain(self) -> bool:
        """Whether a folder of ours holds the six usual parts and nothing that only a library can read."""
        index = read_object(self.layout.path / "model_index.json")
        has_known_scheduler = list(index.get("scheduler") or [""])[-1] == "FlowMatchEulerDiscreteScheduler"
        has_all = set(self.parts) == set(WEIGHTED) and None not in (self.tokenizer, self.scheduler)
        is_whole = not self.lora and not any(is_quantized(part) for part in self.parts.values())
        return has_known_scheduler and has_all and is_whole

    def architecture(self) -> Architecture | None:
        """The named architecture with this connector, if there is one."""
        config = self.parts["connector"].config if "connector" in self.parts else {}
        for known in ARCHITECTURES.values():
            sizes = {key: value for key, value in known.connector.items() if key != "num_attention_heads"}
            if config and all(config.get(key, value) == value for key, value in sizes.items()):
                return known
        return None

    def pipeline_defaults(self) -> dict[str, Any]:
        """Size, steps and guidance it was tuned for: its own, else its architecture's, else nothing."""
        known = self.architecture()
        return dict(self.defaults or (known.defaults if known else {}))


def read_checkpoint(
    layout: Layout,
    connector_config: Mapping[str, Any] | None = None,
    *,
    shapes_only: bool = False,
    variant: str | None = None,
) -> Checkpoint:
    """The parts the files hold. Parts left to base models are absent; a native VLM has no config yet.

    With `shapes_only` a connector whose number of heads nothing tells is not an error: no shape depends on
    it. Of a folder, `variant` names the files, as in diffusers. Raises CheckpointError or FileNotFoundError
    for files that cannot be opened.
    """
    spare_heads = 1 if shapes_only else None
    if layout.is_native:
        checkpoint = _read_native(layout, dict(connector_config or {}), spare_heads)
    else:
        checkpoint = _read_folder(layout, dict(connector_config or {}), spare_heads, variant)
    for part in checkpoint.parts.values():
        if part.config is not None:
            check_layers(part.name, part.config, part.tensors, part.origin)
    return checkpoint


def compare(part: Part, report: LoadReport) -> None:
    """Add to `report` how the part's tensors differ from the model of its config."""
    if is_quantized(part):
        report.notes.append(f"{part.name} is quantised: its keys were not compared with the model")
        return
    check_layers(part.name, part.config, part.tensors, part.origin)
    try:
        expected = build(part.name, part.config).state_dict()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the config of {part.name} ({part.origin}) describes no model: {error}"
        ) from error
    report.missing += [f"{part.name}.{name}" for name in expected if name not in part.tensors]
    report.unexpected += [f"{part.name}.{name}" for name in part.tensors if name not in expected]
    report.mismatched += [
        f"{part.name}.{name} {list(tensor.shape)} instead of {list(expected[name].shape)}"
        for name, tensor in part.tensors.items()
        if name in expected and tensor.shape != tuple(expected[name].shape)
    ]
    report.used[part.name] = len(part.tensors)


def open_part(
    name: str, folder: Path, report: LoadReport, *, is_base: bool = False, variant: str | None = None
) -> Part:
    """One part from a folder of its own, config and weights."""
    tensors = translate(name, open_files(weight_files(folder, variant)), report)
    return Part(name, tensors, read_config(name, folder), str(folder), is_base)


def translate(part: str, tensors: Mapping[str, LazyTensor], report: LoadReport) -> dict[str, LazyTensor]:
    """A part's tensors by our names; foreign connector names and the language head go to the report."""
    if part not in ("vlm", "connector"):
        return dict(tensors)
    result: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        ours = names.vlm_name(name) if part == "vlm" else names.connector_name(name)
        if ours is None:
            report.unexpected.append(f"{part}.{name}")
        elif part == "vlm" and ours.startswith("lm_head."):
            report.ignored[f"{part}.{name}"] = names.UNUSED_HEAD
        elif ours in result:
            raise CheckpointError(
                f"{name} and {result[ours].name} of {tensor.origin} are the same tensor ({ours})"
            )
        else:
            result[ours] = tensor
    return result


# --- folders


def pipeline_settings(layout: Layout) -> dict[str, Any]:
    """What a pipeline's folder says of it beside its defaults: `max_prompt_tokens` and `world`."""
    index_path = layout.path / "model_index.json"
    if not index_path.is_file():
        return {}
    index = read_object(index_path)
    return {name: index[name] for name in ("max_prompt_tokens", "world") if index.get(name) is not None}


def _read_folder(
    layout: Layout, connector_config: dict[str, Any], spare_heads: int | None, variant: str | None
) -> Checkpoint:
    folder, report, hints = layout.path, LoadReport(), connector_config
    index = read_object(folder / "model_index.json")
    check_config(
        {key: index.get(key) for key in ("defaults", "max_prompt_tokens")}, folder / "model_index.json"
    )
    if not isinstance(index.get("defaults") or {}, dict):
        raise CheckpointError(f"{folder / 'model_index.json'}: defaults is no object")
    parts = {}
    for name in WEIGHTED:
        if not (folder / name).is_dir():
            continue
        if name == "connector" and layout.kind != "deepgen":
            # Its config was never seen; the tensors say all but the heads, and those it may name.
            config_path = folder / name / "config.json"
            hints = (read_object(config_path) if config_path.is_file() else {}) | connector_config
            check_config(hints, config_path)
            tensors = translate(name, open_files(weight_files(folder / name)), report)
            depth = parts["vlm"].config.text_config.num_hidden_layers if "vlm" in parts else None
            config = sizes.connector_config(tensors, depth, hints, spare_heads)
            parts[name] = Part(name, tensors, config, str(folder / name))
        else:
            parts[name] = open_part(name, folder / name, report, variant=variant)
    checkpoint = Checkpoint(layout, parts, {}, report, defaults=index.get("defaults") or {})
    if (folder / ADAPTER_DIR).is_dir():
        checkpoint.lora, checkpoint.lora_scale = _read_adapter(folder / ADAPTER_DIR)
    checkpoint.tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else None
    checkpoint.scheduler = folder / "scheduler" if (folder / "scheduler").is_dir() else None
    if checkpoint.scheduler is not None:
        config_path = checkpoint.scheduler / "scheduler_config.json"
        check_config(read_object(config_path), config_path)
    checkpoint.hints = hints
    return checkpoint


def _read_adapter(folder: Path) -> tuple[dict[str, Pair], float]:
    path = folder / "adapter_config.json"
    config = read_object(path)
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if type(rank) is not int or not isinstance(alpha, int | float) or isinstance(alpha, bool) or rank < 1:
        raise CheckpointError(f"{path} needs lora_alpha and r as numbers, it has {alpha!r} and {rank!r}")
    tensors = {names.vlm_name(name): tensor for name, tensor in open_files(weight_files(folder)).items()}
    return pairs(tensors), float(alpha) / rank


# --- native files


def _read_native(layout: Layout, connector_config: dict[str, Any], spare_heads: int | None) -> Checkpoint:
    tensors, settings, notes = open_native(layout)
    found, unknown = names.split(tensors)
    report, carried = LoadReport(unexpected=unknown, notes=notes), {}
    if averages := found.pop("ema", {}):
        carried |= {f"ema.{name}": tensor for name, tensor in averages.items()}
        report.ignored |= {tensor.name: names.UNUSED_EMA for tensor in averages.values()}
        report.notes.append(f"{len(averages)} tensors under ema. are not used: {names.UNUSED_EMA}")
    if "connector" not in found:
        shown = ", ".join((unknown or [name for part in found.values() for name in part])[:5])
        raise CheckpointError(
            f"{layout.source} is no DeepGen checkpoint: it has no connector (connector.layers.*, "
            f"projector_1, meta_queries); its tensors are {shown}, ..."
        )
    beside = _config_beside(layout)
    hints = _recorded_heads(settings, found["connector"]) | (beside.get("connector") or {}) | connector_config
    buffers = _buffers_alone(found)
    lora = pairs(found.pop("vlm_lora", {}))
    for name in [name for name in found.get("vlm", {}) if name.startswith("lm_head.")]:
        carried[names.native_name("vlm", name)] = head = found["vlm"].pop(name)
        report.ignored[head.name] = names.UNUSED_HEAD
    parts = {}
    for name in ("connector", "transformer", "vae", "vlm"):
        if tensors := found.get(name):
            parts[name] = Part(name, tensors, None, str(layout.path))
    parts["connector"].config = sizes.connector_config(parts["connector"].tensors, None, hints, spare_heads)
    if "transformer" in parts:
        parts["transformer"].config = sizes.transformer_config(
            parts["transformer"].tensors, beside.get("transformer")
        )
    if pair := lora.pop("lm_head", None):
        carried |= native_tensors({"lm_head": pair})
        report.ignored |= {tensor.name: names.UNUSED_HEAD for tensor in (pair.a, pair.b)}
    return Checkpoint(
        layout,
        parts,
        lora,
        report,
        _recorded_scale(settings, beside, lora),
        hints=hints,
        defaults=beside.get("defaults") or {},
        buffers=buffers,
        carried=carried,
        settings=settings,
    )


def open_native(layout: Layout) -> tuple[dict[str, LazyTensor], RunSettings, list[str]]:
    """The tensors of a native layout by the names in its files, what its run says of itself, and notes."""
    if layout.zero_dir is None:
        return open_files(layout.files), RunSettings(), []
    copies = open_files(layout.files) if layout.kind == "rl-dir" else None
    opened = open_zero(layout.zero_dir, copies)
    return opened.tensors, run_settings(opened.states), opened.notes


def _recorded_heads(settings: RunSettings, connector: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """The connector's number of heads as the run recorded it, if it recorded this connector."""
    recorded, projector = settings.connector, connector.get("tap_projector.weight")
    if "num_attention_heads" not in recorded or projector is None:
        return {}
    if recorded.get("hidden_size", projector.shape[0]) != projector.shape[0]:
        return {}
    return {"num_attention_heads": recorded["num_attention_heads"]}


def _recorded_scale(settings: RunSettings, beside: Mapping[str, Any], lora: Mapping[str, Pair]) -> float:
    """Alpha / rank: of `config.json` beside the file, of the run's own settings, or as published."""
    if isinstance(scale := beside.get("lora_scale"), int | float):
        return float(scale)
    if settings.lora_scale is not None and all(pair.rank == settings.lora_rank for pair in lora.values()):
        return settings.lora_scale
    return DEFAULT_SCALE


def _buffers_alone(found: dict[str, dict[str, LazyTensor]]) -> dict[str, Mapping[str, LazyTensor]]:
    """Take out a DiT of which only its position table is stored: the rest was frozen and left out."""
    if set(found.get("transformer", {})) == {POSITION_TABLE}:
        return {"transformer": found.pop("transformer")}
    return {}


def _config_beside(layout: Layout) -> dict[str, Any]:
    for name in ("config.json", "model_config.json"):
        path = layout.folder / name
        content = read_json(require_inside(path, layout.folder)) if path.is_file() else {}
        if isinstance(content, dict) and "connector" in content:
            check_config(content, path)
            for part in ("connector", "transformer", "defaults"):
                if not isinstance(content.get(part) or {}, dict):
                    raise CheckpointError(f"{path}: {part} is no object")
            return content
    return {}
