"""Translation of tensor names: every spelling found in released files, to ours and back.

Released files are one flat dictionary: `transformer.*`, `connector.*`, `projector_{1,2,3}.*`, `meta_queries`,
and under `lmm.` whatever was saved of the VLM, in one of two generations of the transformers library. Ours
are one file per part.
"""

from __future__ import annotations

import re

from deepgen.checkpoints.tensors import CheckpointError, LazyTensor

# native -> ours; `connector.layers.{i}.*` keeps its leaf names
PROJECTORS = {
    "projector_1": "tap_projector",
    "projector_2": "pooled_projector",
    "projector_3": "context_projector",
}
THINK_TOKENS = "think_tokens.weight"
UNUSED_HEAD = "DeepGen never writes text, so the language head has no place in it"
UNUSED_EMA = "a running average kept beside the weights; open it as a file of its own to use it"

_LAYER = re.compile(
    r"(?:^|\.)(layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|layer_norm[12]|mlp\.fc[12])\.(?:weight|bias))$"
)
_PROJECTOR = re.compile(rf"(?:^|\.)({'|'.join([*PROJECTORS, *PROJECTORS.values()])})\.(weight|bias)$")
_THINK = re.compile(r"(?:^|\.)(?:meta_queries(?:\.weight)?|think_tokens(?:\.weight)?)$")
_LORA = re.compile(r"^(.+)\.lora_(embedding_)?(A|B)(?:\.default)?(?:\.weight)?$")


def strip_wrappers(name: str) -> str:
    """Without one leading `module.` (data parallel), then one leading `model.` (a trainer's attribute)."""
    return name.removeprefix("module.").removeprefix("model.")


def connector_name(name: str) -> str | None:
    """Our name of a connector tensor, native or ours, under any prefix; None if it is not one."""
    if match := _LAYER.search(name):
        return match.group(1)
    if match := _PROJECTOR.search(name):
        return f"{PROJECTORS.get(match.group(1), match.group(1))}.{match.group(2)}"
    return THINK_TOKENS if _THINK.search(name) else None


def vlm_name(name: str) -> str:
    """Our name (`visual.*`, `language_model.*`, `lm_head.*`) of a VLM tensor of either generation."""
    name = name.removeprefix("base_model.model.")
    if name.startswith(("model.visual.", "model.language_model.")):
        name = name.removeprefix("model.")
    elif name.startswith("model."):
        name = "language_model." + name.removeprefix("model.")
    return name.replace(".base_layer.", ".")


def lora_name(name: str) -> tuple[str, str] | None:
    """(module, "A" or "B") of a LoRA tensor of the VLM, or None; `name` is translated already."""
    match = _LORA.match(name)
    return (match.group(1), match.group(3)) if match else None


def native_connector_name(name: str) -> str:
    """The released name of one of our connector tensors."""
    if name == THINK_TOKENS:
        return "meta_queries"
    head, _, leaf = name.partition(".")
    native = {ours: theirs for theirs, ours in PROJECTORS.items()}
    return f"{native[head]}.{leaf}" if head in native else f"connector.{name}"


def native_name(part: str, name: str) -> str:
    """The released name of tensor `name` of `part`; the VLM in the spelling of today's transformers."""
    if part == "connector":
        return native_connector_name(name)
    if part == "vlm":
        return "lmm." + ("" if name.startswith("lm_head.") else "model.") + name
    return f"{part}.{name}"


def _locate(name: str) -> tuple[str, str] | None:
    name = strip_wrappers(name)
    head, _, rest = name.partition(".")
    if head in ("transformer", "vae", "ema"):
        return head, rest
    if head == "lmm":
        rest = vlm_name(rest)
        return ("vlm_lora" if lora_name(rest) else "vlm"), rest
    ours = connector_name(name)
    is_connector = name.startswith("connector.layers.") or head in PROJECTORS or name == "meta_queries"
    return ("connector", ours) if is_connector and ours else None


def split(tensors: dict[str, LazyTensor]) -> tuple[dict[str, dict[str, LazyTensor]], list[str]]:
    """A native state dict by part, with our names, and the names that belong nowhere.

    Parts are connector, transformer, vae, vlm, vlm_lora and ema; absent ones are left out.
    Two names that mean the same tensor are a CheckpointError.
    """
    parts: dict[str, dict[str, LazyTensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        found = _locate(name)
        if found is None:
            unknown.append(name)
            continue
        part, ours = found
        if ours in parts.setdefault(part, {}):
            raise CheckpointError(
                f"{name} and {parts[part][ours].name} are the same tensor of {part} ({ours})"
            )
        parts[part][ours] = tensor
    return parts, unknown
