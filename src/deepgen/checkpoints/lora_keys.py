"""Parsing of key names in LoRA files, in every spelling that trainers write.

A key names a module and a role. The roles are the two factors A (rank, in) and B (out, rank), and alpha:

    diffusers, PEFT    MODULE.lora_A.weight        MODULE.lora_B.weight       and with an adapter's name
    PEFT, embeddings   MODULE.lora_embedding_A     MODULE.lora_embedding_B    likewise
    kohya              MODULE.lora_down.weight     MODULE.lora_up.weight      MODULE.alpha
    diffusers, older   MODULE.lora.down.weight     MODULE.lora.up.weight
    diffusers, oldest  ATTENTION.processor.to_q_lora.down.weight

Before the module stands a prefix: of the trainer (`base_model.model.`, `diffusion_model.`), of a part of the
pipeline (`transformer.`, `lmm.`), or kohya's (`lora_unet_`), after which dots are written as underscores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["A", "B", "alpha"]

PARTS = ("transformer", "connector", "vlm")
SIDES: dict[str, Role] = {"A": "A", "B": "B", "down": "A", "up": "B"}

_FACTORS = (
    re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight$"),
    re.compile(r"^(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?$"),
    re.compile(r"^(?P<module>.+)\.lora_(?P<side>down|up)\.weight$"),
    re.compile(r"^(?P<module>.+)\.lora(?:_linear_layer)?\.(?P<side>down|up)\.weight$"),
    re.compile(r"^(?P<module>.+)_lora\.(?P<side>down|up)\.weight$"),
)
_ALPHA = re.compile(r"^(?P<module>.+?)(?:\.lora|_lora|\.lora_linear_layer)?\.alpha$")
_OF_TRAINERS = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "module.", "_orig_mod.")
_FLATTENED = re.compile(r"^(lora_unet|lora_transformer|lycoris)_([^.]+)$")
_TEXT_ENCODERS = re.compile(r"^(lora_te\d?_|text_encoders?(_\d)?\.|text_model\.|clip_[lg]\.|t5xxl\.)")

# What a key says about how it was trained -> the method's name
_METHODS = (
    (re.compile(r"\.lokr_"), "LoKr"),
    (re.compile(r"\.hada_"), "LoHa"),
    (re.compile(r"dora_scale$|lora_magnitude_vector"), "DoRA"),
    (re.compile(r"\.(oft_|boft_)"), "OFT"),
    (re.compile(r"\.ia3_|\.on_input$"), "IA3"),
    (re.compile(r"\.vera_"), "VeRA"),
    (re.compile(r"\.(a1|a2|b1|b2)\.weight$"), "GLoRA"),
    (re.compile(r"\.lora_mid\.weight$"), "LoCon with a Tucker decomposition"),
    (re.compile(r"\.lora_B(\.[^.]+)?\.bias$"), "LoRA with biases (lora_bias)"),
    (re.compile(r"\.diff(_b)?$"), "full difference (.diff)"),
)
INSEPARABLE = (  # methods whose factors look like LoRA's and mean something else
    "DoRA",
    "LoCon with a Tucker decomposition",
    "LoRA with biases (lora_bias)",
)


@dataclass(frozen=True)
class LoraKey:
    """A key of a LoRA file, taken apart.

    Attributes:
        module: as the file names it, without prefixes.
        role: which of the module's tensors it is.
        part: of the pipeline, where a prefix says so.
        is_flattened: dots of `module` are written as underscores.
        is_embedding: the factors are those of an embedding table: A (rank, rows), B (width, rank).
        is_native: the prefix is that of the original's own checkpoints, which do not store alpha.
    """

    module: str
    role: Role
    part: str | None = None
    is_flattened: bool = False
    is_embedding: bool = False
    is_native: bool = False

    @property
    def owner(self) -> tuple[str | None, str, bool]:
        """What the tensors of one module have in common."""
        return self.part, self.module, self.is_flattened


def read_key(key: str) -> LoraKey | None:
    """The parts of a key, or None where it is no tensor of a LoRA."""
    for pattern in _FACTORS:
        if match := pattern.match(key):
            is_embedding = ".lora_embedding_" in key
            return _located(match["module"], SIDES[match["side"]], is_embedding)
    if match := _ALPHA.match(key):
        return _located(match["module"], "alpha", False)
    return None


def method_of(key: str) -> str | None:
    """The name of another method of fine-tuning, where this key belongs to one."""
    return next((name for pattern, name in _METHODS if pattern.search(key)), None)


def is_of_text_encoder(key: str) -> bool:
    """Whether a key is for one of Stable Diffusion's text encoders, which DeepGen does not have."""
    return _TEXT_ENCODERS.match(_without_trainer(key)) is not None


def _located(module: str, role: Role, is_embedding: bool) -> LoraKey:
    module = _without_trainer(module)
    if match := _FLATTENED.match(module):
        return LoraKey(match[2], role, is_flattened=True)
    head, _, rest = module.partition(".")
    if rest and head in PARTS:
        rest = _without_trainer(rest)
        return LoraKey(_without_processor(rest), role, head, is_embedding=is_embedding)
    if rest and head == "lmm":
        return LoraKey(rest, role, "vlm", is_embedding=is_embedding, is_native=True)
    return LoraKey(_without_processor(module), role, is_embedding=is_embedding)


def _without_trainer(name: str) -> str:
    while prefix := next((p for p in _OF_TRAINERS if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


def _without_processor(module: str) -> str:
    return module.replace(".processor.", ".")
