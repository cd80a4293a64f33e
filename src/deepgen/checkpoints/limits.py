"""Upper limits of a config's sizes, checked before anything of it is built.

A config is text that comes with a download. One that says a million layers would keep a machine busy, or fill
its memory, long before the first missing key is noticed. So every number that sizes something has a limit,
far above any model there is, and layers are also counted in the file: a config cannot have many more than it
shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from deepgen.models.errors import CheckpointError

MOST_LAYERS = 512  # the largest language models have about 130
MOST_STAGES = 32  # of a VAE, each of half the resolution
SPARE_LAYERS = 8  # a config of up to twice the file's layers and these is compared key by key
LARGEST_WIDTH = 2**20
DEEPEST = 16  # levels of nesting
MOST_VALUES = 20_000  # of one config

_WIDTHS = (
    *("hidden_size", "intermediate_size", "out_hidden_size", "vlm_hidden_size", "attention_head_dim"),
    *("head_dim", "joint_attention_dim", "caption_projection_dim", "pooled_projection_dim"),
    *("in_channels", "out_channels", "latent_channels", "in_chans", "block_out_channels"),
)
_LAYERS = ("num_hidden_layers", "num_layers", "depth", "vlm_num_layers", "tap_stride", "layers_per_block")
_HEADS = ("num_attention_heads", "num_key_value_heads", "num_heads")
# Key -> (least, most) of a whole number, or of each in a list where `_LISTS` names it.
COUNTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(_WIDTHS, (1, LARGEST_WIDTH)),
    **dict.fromkeys(_LAYERS, (1, MOST_LAYERS)),
    **dict.fromkeys(_HEADS, (1, 2**14)),
    **dict.fromkeys(("patch_size", "spatial_merge_size", "temporal_patch_size"), (1, 1024)),
    **dict.fromkeys(("sample_size", "window_size", "norm_num_groups"), (1, 2**16)),
    "num_think_tokens": (0, 2**16),
    **dict.fromkeys(("height", "width"), (1, 2**16)),
    **dict.fromkeys(("dual_attention_layers", "fullatt_block_indexes", "taps"), (0, MOST_LAYERS - 1)),
    "pos_embed_max_size": (1, 4096),
    "vocab_size": (1, 2**24),
    "max_position_embeddings": (1, 2**31),
    "max_prompt_tokens": (1, 2**24),
    "num_train_timesteps": (1, 10**6),
    "num_inference_steps": (1, 10**5),
}
FLOATS = (
    *("scaling_factor", "shift_factor", "rms_norm_eps", "layer_norm_eps", "shift", "rope_theta"),
    *("guidance_scale", "edit_guidance_scale", "initializer_range"),
)
_LISTS = ("block_out_channels", "dual_attention_layers", "fullatt_block_indexes", "taps")
_LENGTHS = {"block_out_channels": MOST_STAGES, "down_block_types": MOST_STAGES, "up_block_types": MOST_STAGES}
# Part -> (where its config says how many, what in its tensors' names counts them).
_SHOWN: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "vlm": (
        (("text_config", "num_hidden_layers"), r"language_model\.layers\.(\d+)\."),
        (("vision_config", "depth"), r"visual\.blocks\.(\d+)\."),
    ),
    "connector": ((("num_hidden_layers",), r"layers\.(\d+)\."),),
    "transformer": ((("num_layers",), r"transformer_blocks\.(\d+)\."),),
    "vae": (
        (("block_out_channels",), r"encoder\.down_blocks\.(\d+)\."),
        (("layers_per_block",), r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\."),
    ),
}


def check_config(config: Any, origin: object) -> None:
    """CheckpointError if a config is no dictionary, or a number in it is none or beyond its limit.

    Args:
        config: as read from JSON; keys that size nothing are left to the library they are for.
        origin: the file, for the message.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{origin} holds a {type(config).__name__}, expected an object")
    for number, (place, key, value) in enumerate(_values(config, origin), start=1):
        if number > MOST_VALUES:
            raise CheckpointError(f"{origin} has more than {MOST_VALUES} values, which no config needs")
        if value is None:
            continue
        if key in COUNTS:
            _check_count(value, *COUNTS[key], f"{origin}: {place}")
        elif key in FLOATS and not _is_finite(value):
            raise CheckpointError(f"{origin}: {place} is {_short(value)}, expected a finite number")


def check_layers(part: str, config: Any, names: Mapping[str, Any], origin: object) -> None:
    """CheckpointError if a config has far more layers than the tensors of its file show."""
    for place, pattern in _SHOWN.get(part, ()):
        value = config
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
        asked = len(value) if isinstance(value, list | tuple) else value
        shown = len({match[1] for name in names if (match := re.match(pattern, name))})
        if isinstance(asked, int) and asked > 2 * shown + SPARE_LAYERS:
            raise CheckpointError(
                f"the config of {part} ({origin}) asks for {asked} as {'.'.join(place)}, and its file holds "
                f"{shown}; config and weights are not of one model"
            )


def _values(config: Mapping[str, Any], origin: object) -> Iterator[tuple[str, str, Any]]:
    """(where, key, value) of every value that is no dictionary."""
    waiting: list[tuple[str, str, Any, int]] = [("", "", config, 0)]
    while waiting:
        place, key, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise CheckpointError(
                f"{origin} is nested more than {DEEPEST} levels deep, which no config needs"
            )
        if isinstance(value, Mapping):
            if key in COUNTS:
                raise CheckpointError(f"{origin}: {place} is an object, expected a number")
            waiting += [
                (f"{place}.{name}" if place else str(name), str(name), inner, depth + 1)
                for name, inner in value.items()
            ]
        elif isinstance(value, list | tuple):
            if key in COUNTS and key not in _LISTS:
                raise CheckpointError(f"{origin}: {place} is a list, expected a whole number")
            if len(value) > (most := _LENGTHS.get(key, MOST_VALUES)):
                raise CheckpointError(f"{origin}: {place} has {len(value)} entries, at most {most} are read")
            waiting += [(place, key, inner, depth + 1) for inner in value]
        else:
            yield place, key, value


def _check_count(value: Any, least: int, most: int, place: str) -> None:
    if type(value) is not int:  # true and false are no counts
        raise CheckpointError(f"{place} is {_short(value)}, expected a whole number")
    if not least <= value <= most:
        raise CheckpointError(f"{place} is {_short(value)}; expected {least} to {most}")


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of over 30 digits"
    return text if len(text) <= 60 else text[:57] + "..."
