"""Which number format the parts of a pipeline are loaded in.

diffusers loads its parts in float32 unless told otherwise, transformers as they are stored, so a pipeline of
both would mix the two. Here one rule holds for every source: as stored, and where parts are stored in several
formats, the one that most of the weights have. The published weights, a bfloat16 model with a small connector
in float32, then load in bfloat16 and take no more memory than their files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from deepgen.checkpoints.parts import WEIGHTED, Part

NAMES = ("float32", "bfloat16", "float16")
AskedDtype = torch.dtype | str | Mapping[str, torch.dtype | str] | None


def asked_dtype(options: dict[str, Any]) -> AskedDtype:
    """Take `dtype` and `torch_dtype` out of keyword arguments; ValueError where they contradict each other.

    diffusers and transformers renamed the latter to the former; both are accepted.
    """
    given = {
        name: value for name in ("dtype", "torch_dtype") if (value := options.pop(name, None)) is not None
    }
    if len(given) == 2 and given["dtype"] != given["torch_dtype"]:
        raise ValueError(
            f"dtype={given['dtype']} and torch_dtype={given['torch_dtype']} say the same thing; give one"
        )
    return next(iter(given.values()), None)


def read_dtype(asked: Any, name: str = "dtype") -> torch.dtype | None:
    """One number format, of torch or by its name; None for None and "auto", which are as stored.

    Raises:
        ValueError: it is none in which a model can be loaded; the message lists those.
    """
    if asked is None or asked == "auto":
        return None
    known = {word: getattr(torch, word) for word in NAMES}
    if isinstance(asked, str) and asked in known:
        return known[asked]
    if isinstance(asked, torch.dtype) and asked in known.values():
        return asked
    raise ValueError(
        f"unknown {name} {asked!r}; known: {', '.join(NAMES)}, as names or as torch.float32 and so on, and "
        "auto, which is as stored"
    )


def check_dtype(asked: AskedDtype) -> None:
    """ValueError for a format or a part that is not known; cheap, so it comes before files are read."""
    if not isinstance(asked, Mapping):
        read_dtype(asked)
        return
    known = (*WEIGHTED, "default")
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"dtype names {unknown[0]!r}, which holds no weights; known: {', '.join(known)}")
    for name, value in asked.items():
        read_dtype(value, f"dtype of {name}")


def part_dtypes(
    asked: AskedDtype, parts: Mapping[str, Part], given: Mapping[str, Any] | None = None
) -> dict[str, torch.dtype]:
    """The number format of every part.

    Args:
        asked: one for all, by name or as torch has it; a mapping of parts, "default" for those it leaves out;
            None or "auto" for the rule of this file.
        parts: what was found in files.
        given: parts that are loaded already. Without a wish the others follow them.

    Raises:
        ValueError: a format or a part that is not known.
    """
    check_dtype(asked)
    wishes = dict(asked) if isinstance(asked, Mapping) else {"default": asked}
    default = read_dtype(wishes.get("default")) or _loaded_dtype(given or {}) or common_dtype(parts)
    return {name: read_dtype(wishes.get(name)) or default for name in WEIGHTED}


def common_dtype(parts: Mapping[str, Part]) -> torch.dtype:
    """The floating point type that most weights are stored in; the narrower of two with as many."""
    counts: Counter[torch.dtype] = Counter()
    for part in parts.values():
        for tensor in part.tensors.values():
            if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
                counts[tensor.dtype] += torch.Size(tensor.shape).numel()
    stored = max(counts, key=lambda dtype: (counts[dtype], -dtype.itemsize), default=torch.float32)
    return torch.float32 if stored == torch.float64 else stored


def _loaded_dtype(given: Mapping[str, Any]) -> torch.dtype | None:
    """The one format of parts that are loaded already; None where there is none, or several."""
    found = {part.dtype for part in given.values() if isinstance(part, nn.Module) and hasattr(part, "dtype")}
    return next(iter(found)) if len(found) == 1 else None  # pyright: ignore[reportReturnType]
