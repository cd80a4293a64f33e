"""`deepgen info`: what a checkpoint or a named architecture consists of, and the memory each way of running
it needs.

Nothing is loaded: files are counted from their headers, architectures on the meta device. Memory is that of
weights and training state; activations come on top (about 0.5 to 7 GB per training sample, see spec training,
section 3).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from deepgen.checkpoints.checkpoint import Checkpoint, read_checkpoint
from deepgen.checkpoints.layouts import HubOptions, detect
from deepgen.checkpoints.parts import WEIGHTED, Part, build, named_config
from deepgen.checkpoints.zero_partitions import IncompleteRunError
from deepgen.models.config import ARCHITECTURES, Architecture
from deepgen.moved import renamed
from deepgen.worlds import describe, world_of_folder

LORA_RANK = 64  # of the published SFT, on every linear and embedding of the VLM
# nf4: half a byte, and one float32 scale per block of 64 weights
NF4_BYTES = 0.5 + 4 / 64


@dataclass(frozen=True)
class PartInfo:
    """One part, as stored."""

    name: str
    tensors: int
    parameters: int
    buffers: int  # elements of stored tensors that are not trainable, such as the position table
    dtypes: dict[str, int]  # elements by type; empty for an architecture
    nbytes: int | None  # as stored; None for an architecture
    origin: str


@dataclass
class CheckpointInfo:
    """Parts and what they need. Memory is in bytes."""

    name: str
    kind: str
    parts: list[PartInfo]
    memory: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    world: str | None = None  # what a small model draws, see deepgen.worlds

    @property
    def parameters(self) -> int:
        """Trainable elements of all parts."""
        return sum(part.parameters for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for json."""
        totals = {"tensors": sum(part.tensors for part in self.parts), "parameters": self.parameters}
        values = asdict(self)
        del values["world"]
        if self.world is not None:
            values["world"] = describe(self.world)[0]
        return {**values, "total": {**totals, "buffers": sum(part.buffers for part in self.parts)}}

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.kind})", ""]
        lines.append(f"{'part':12} {'tensors':>8} {'parameters':>15} {'buffers':>12} {'size':>9}  types")
        for part in self.parts:
            size = f"{part.nbytes / 1e9:.2f} GB" if part.nbytes is not None else ""
            types = ", ".join(sorted(part.dtypes))
            numbers = f"{part.tensors:>8} {part.parameters:>15,} {part.buffers:>12,} {size:>9}"
            lines.append(f"{part.name:12} {numbers}  {types}".rstrip())
        lines.append(f"{'total':12} {sum(part.tensors for part in self.parts):>8} {self.parameters:>15,}")
        if self.memory:
            lines += ["", "memory for weights and training state, without activations"]
            lines += [f"  {mode:36} {nbytes / 1e9:>8.2f} GB" for mode, nbytes in self.memory.items()]
        if self.world is not None:
            lines += ["", *describe(self.world)[1]]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def info(
    source: str | Path, *, connector_config: dict[str, Any] | None = None, hub: HubOptions | None = None
) -> CheckpointInfo:
    """Count a named architecture, or a checkpoint of any layout.

    Raises FileNotFoundError or CheckpointError as `detect` does; the error of an unknown name lists the
    known ones.
    """
    if str(source) in ARCHITECTURES:
        return _of_architecture(ARCHITECTURES[str(source)])
    try:
        layout = detect(source, hub)
    except FileNotFoundError as error:
        known = ", ".join(ARCHITECTURES)
        raise FileNotFoundError(
            f"{error}; {str(source)!r} is no named architecture either: {known}"
        ) from error
    try:
        return _of_checkpoint(read_checkpoint(layout, connector_config, shapes_only=True))
    except IncompleteRunError as error:
        present = replace(layout, kind="native-file", files=layout.files[:1], zero_dir=None)
        result = _of_checkpoint(read_checkpoint(present, connector_config, shapes_only=True))
        result.kind, result.notes = layout.kind, [str(error), *result.notes]
        return result


def _of_architecture(architecture: Architecture) -> CheckpointInfo:
    models = {name: build(name, named_config(name, architecture)) for name in WEIGHTED}
    parts = []
    for name, model in models.items():
        stored = model.state_dict()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        buffers = sum(tensor.numel() for tensor in stored.values()) - parameters
        parts.append(
            PartInfo(name, len(stored), parameters, buffers, {}, None, f"architecture {architecture.name}")
        )
    config = {name: getattr(architecture, name) for name in (*WEIGHTED, "scheduler", "defaults")}
    return CheckpointInfo(architecture.name, "architecture", parts, memory_needs(models), config)


def _of_checkpoint(checkpoint: Checkpoint) -> CheckpointInfo:
    world = world_of_folder(checkpoint.layout.path)
    result = CheckpointInfo(checkpoint.layout.source, checkpoint.layout.kind, [], world=world)
    named = checkpoint.architecture()
    models = {}
    for name in WEIGHTED:
        part = checkpoint.parts.get(name)
        if part is None or part.config is None:
            source = f"the one of {named.name} is assumed" if named else "which one is not known"
            if (started := checkpoint.settings.bases.get(name)) is not None:
                source = f"the run started from {started}"
            result.notes.append(f"{name}: from a base model; {source}")
        config = (
            part.config
            if part is not None and part.config is not None
            else named and named_config(name, named)
        )
        if config is not None:
            models[name] = build(name, config)
        if part is not None:
            result.parts.append(_count(part, models.get(name)))
            result.config[name] = part.config.to_dict() if name == "vlm" and part.config else part.config
    if checkpoint.lora:
        tensors = {
            f"{name}.{side}": getattr(pair, side) for name, pair in checkpoint.lora.items() for side in "ab"
        }
        result.parts.append(_count(Part("vlm_lora", tensors, None, str(checkpoint.layout.path)), None))
        result.notes.append(f"LoRA of rank {max(pair.rank for pair in checkpoint.lora.values())} for the VLM")
    if len(models) == len(WEIGHTED):
        result.memory = memory_needs(models)
    if strange := checkpoint.report.unexpected:
        result.notes.append(f"{len(strange)} foreign keys, such as {strange[0]}; see `deepgen verify`")
    return result


def _count(part: Part, model: nn.Module | None) -> PartInfo:
    buffers = {name for name, _ in model.named_buffers()} if model is not None else set()
    dtypes: dict[str, int] = {}
    for tensor in part.tensors.values():
        kind = str(tensor.dtype).removeprefix("torch.")
        dtypes[kind] = dtypes.get(kind, 0) + tensor.numel
    buffered = sum(tensor.numel for name, tensor in part.tensors.items() if name in buffers)
    nbytes = sum(tensor.nbytes for tensor in part.tensors.values())
    return PartInfo(
        part.name, len(part.tensors), sum(dtypes.values()) - buffered, buffered, dtypes, nbytes, part.origin
    )


# --- memory


def memory_needs(models: dict[str, nn.Module]) -> dict[str, int]:
    """Bytes each mode needs for weights, gradients and optimizer state, by mode.

    Training is in bfloat16 with AdamW keeping float32 weights and two moments (12 bytes a trained parameter)
    and bfloat16 gradients (2 bytes).
    """
    stored = {name: _elements(model) for name, model in models.items()}
    trained = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    weights = 2 * sum(stored.values())
    adapter = lora_parameters(models["vlm"])
    stage_1, stage_2 = trained["connector"], trained["connector"] + trained["transformer"] + adapter
    return {
        "bfloat16 or float16 on the device": weights,
        "float32 on the device": 2 * weights,
        "int8 vlm, connector and transformer": _quantized(models, 1.0),
        "nf4 vlm, connector and transformer": _quantized(models, NF4_BYTES),
        "model offload (largest part, 16 bit)": 2 * max(stored.values()),
        "sequential offload (largest layer)": 2 * max(_largest_layer(model) for model in models.values()),
        "training stage 1 (connector)": weights + 14 * stage_1,
        "training stage 2 (connector, DiT, LoRA)": weights + 2 * adapter + 14 * stage_2,
    }


def lora_parameters(vlm: nn.Module, rank: int = LORA_RANK) -> int:
    """Size of a LoRA on every linear and embedding of the VLM."""
    weights = [m.weight for m in vlm.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    return sum(rank * sum(weight.shape) for weight in weights)


def _elements(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in model.state_dict().values())


def _quantized(models: dict[str, nn.Module], nbytes: float) -> int:
    total = 0.0
    for name, model in models.items():
        linear = (
            sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) if name != "vae" else 0
        )
        total += nbytes * linear + 2 * (_elements(model) - linear)
    return int(total)


def _largest_layer(model: nn.Module) -> int:
    own = (
        sum(t.numel() for t in [*m.parameters(recurse=False), *m.buffers(recurse=False)])
        for m in model.modules()
    )
    return max(own)


__getattr__ = renamed(__name__, {"ModelInfo": "deepgen.checkpoints.info.CheckpointInfo"})
