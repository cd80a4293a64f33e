"""Matching a LoRA file with the model: each pair of factors finds its layer, or the whole file is refused.

Names, shapes and number ranges are checked here, before anything in the model changes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepgen.checkpoints.lora_files import FactorPair, LoraFile, first_names
from deepgen.checkpoints.lora_names import LoraTarget, LoraTargetTable, output_size
from deepgen.checkpoints.lora_settings import LoraError
from deepgen.checkpoints.names import UNUSED_HEAD

HEAD = "lm_head"


@dataclass(frozen=True)
class LowRankUpdate:
    """scale * B A, to be added to one layer of the pipeline.

    Attributes:
        part: transformer, connector or vlm.
        module: the layer's full name in it.
        a: (rank, in), in the layer's number format.
        b: (out, rank).
        scale: alpha / rank.
        is_embedding: A is (rank, rows of the table) and B (width, rank).
    """

    part: str
    module: str
    a: Tensor
    b: Tensor
    scale: float
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The factors by PEFT's names."""
        for side, tensor in (("A", self.a), ("B", self.b)):
            leaf = f"lora_embedding_{side}" if self.is_embedding else f"lora_{side}.weight"
            yield f"{self.module}.{leaf}", tensor


@dataclass(frozen=True)
class FittedLora:
    """What a file adds to the layers of a pipeline.

    Attributes:
        origin: the file.
        updates: one for each layer.
        left_out: the file's keys that have no place, with the reason.
        has_strength: whether the file says how strong it is.
        distilled: see `LoraFile`.
    """

    origin: str
    updates: tuple[LowRankUpdate, ...]
    left_out: Mapping[str, str]
    has_strength: bool = True
    distilled: str | None = None

    @property
    def parts(self) -> list[str]:
        """The parts of the pipeline that it changes."""
        return list(dict.fromkeys(update.part for update in self.updates))

    @property
    def notices(self) -> list[str]:
        """What the user should know about how it was loaded."""
        notices = []
        if self.left_out:
            reasons = _reasons(self.left_out.values())
            notices.append(f"left out {len(self.left_out)} keys: {first_names(self.left_out)} ({reasons})")
        if not self.has_strength:
            notices.append(
                "no alpha, which PEFT keeps in adapter_config.json; alpha = rank was taken (scale 1)"
            )
        return notices

    def of(self, part: str) -> list[LowRankUpdate]:
        """The updates of a part."""
        return [update for update in self.updates if update.part == part]


def fit(file: LoraFile, models: Mapping[str, nn.Module], *, is_strict: bool = True) -> FittedLora:
    """Find the layer of every pair.

    Args:
        file: what `read_lora` found.
        models: the parts of the pipeline by name.
        is_strict: refuse a file of which a part does not fit; otherwise that part is left out.

    Raises:
        LoraError: keys have no place, shapes do not fit, two keys are for the same layer, or what fits
            changes nothing.
    """
    table = LoraTargetTable(models)
    updates: dict[tuple[str, str], tuple[LowRankUpdate, FactorPair]] = {}
    misfits, unused = dict(file.foreign), {}
    for pair in file.pairs:
        if pair.key.module == HEAD and pair.key.part in (None, "vlm"):
            unused |= dict.fromkeys(pair.names, UNUSED_HEAD)
            continue
        places = table.find(pair.key)
        reason = _misfit(pair, places)
        if reason is not None:
            misfits |= dict.fromkeys(pair.names, reason)
            continue
        for place in places:
            before = updates.setdefault((place.part, place.name), (_update(pair, place, file.origin), pair))
            if before[1] is not pair:
                raise LoraError(
                    f"{file.origin}: {before[1].names[0]} and {pair.names[0]} are both for {place.part}."
                    f"{place.name}; which of the two is meant cannot be known"
                )
    if misfits and (is_strict or not updates):
        raise LoraError(_refusal(file, misfits, table, can_drop=bool(updates)))
    found = tuple(update for update, _ in updates.values())
    if not any(update.scale and update.a.any() and update.b.any() for update in found):
        raise LoraError(f"{file.origin} changes nothing: what fits the model are updates by zero")
    return FittedLora(file.origin, found, misfits | unused, file.has_strength, file.distilled)


def peft_settings(updates: Sequence[LowRankUpdate]) -> dict[str, Any]:
    """The arguments of PEFT's LoraConfig for the updates of one part: exact names, ranks and strengths."""
    usual = Counter((update.rank, update.scale) for update in updates).most_common(1)[0][0]
    others = [update for update in updates if (update.rank, update.scale) != usual]
    return {
        "r": usual[0],
        "lora_alpha": _number(usual[0] * usual[1]),
        "target_modules": [update.module for update in updates],
        "rank_pattern": {_exactly(update.module): update.rank for update in others},
        "alpha_pattern": {_exactly(u.module): _number(u.rank * u.scale) for u in others},
    }


def _exactly(module: str) -> str:
    return f"^{re.escape(module)}$"


def _number(alpha: float) -> float:
    return int(alpha) if float(alpha).is_integer() else alpha


def _misfit(pair: FactorPair, places: Sequence[LoraTarget]) -> str | None:
    """Why a pair has no place in the model, or None."""
    if not places:
        return "no such layer"
    layer: Any = places[0].module
    if isinstance(layer, nn.Embedding) != pair.key.is_embedding:
        return f"factors of another kind of layer than {type(layer).__name__}"
    into = (layer.num_embeddings,) if pair.key.is_embedding else _inputs(layer)
    out = sum(_num_rows(place) for place in places)
    found = (tuple(_as_matrix(pair.a, layer).shape[1:]), pair.b.shape[0])
    wanted = (into, out)
    if found == wanted:
        return None
    return (
        f"factors (rank, in) {tuple(pair.a.shape)} and (out, rank) {tuple(pair.b.shape)}, the layer has "
        f"{_plain(wanted[0])} in and {wanted[1]} out"
    )


def _plain(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _inputs(layer: Any) -> tuple[int, ...]:
    if isinstance(layer, nn.Conv2d):
        return (layer.in_channels // layer.groups, *layer.kernel_size)
    return (layer.in_features,)


def _num_rows(place: LoraTarget) -> int:
    if place.rows is None:
        return output_size(place.module)
    return sum(stop - start for start, stop in place.rows)


def _as_matrix(factor: Tensor, layer: nn.Module) -> Tensor:
    """Without the ends of size 1 that some trainers write as if a linear layer were a convolution."""
    if not isinstance(layer, nn.Conv2d) and factor.ndim == 4 and factor.shape[2:] == (1, 1):
        return factor[:, :, 0, 0]
    return factor


def _update(pair: FactorPair, place: LoraTarget, origin: str) -> LowRankUpdate:
    a, b = _as_matrix(pair.a, place.module), _as_matrix(pair.b, place.module)
    if place.rows is not None:
        b = torch.cat([b[start:stop] for start, stop in place.rows])
    if isinstance(place.module, nn.Conv2d):
        b = b.reshape(*b.shape[:2], 1, 1)
    dtype = _dtype(place.module, pair.a.dtype)
    a, b = (_cast(factor, dtype, name, origin) for factor, name in zip((a, b), pair.names[:2], strict=True))
    return LowRankUpdate(place.part, place.name, a, b, pair.scale, pair.key.is_embedding)


def _dtype(layer: nn.Module, own: torch.dtype) -> torch.dtype:
    """The layer's number format; a quantised layer computes in another than it stores, so the file's own."""
    stored = getattr(layer, "weight", torch.empty(0)).dtype
    if stored.is_floating_point and stored.itemsize >= 2:
        return stored
    return torch.float32 if own.itemsize > 4 else own


def _cast(factor: Tensor, dtype: torch.dtype, name: str, origin: str) -> Tensor:
    cast = factor.to(dtype).contiguous()
    if not torch.isfinite(cast).all():
        raise LoraError(
            f"{origin}: {name} holds numbers up to {factor.abs().max():.3g}, more than {dtype} of the model "
            "can express; load the model with dtype bfloat16 or float32"
        )
    return cast


def _refusal(file: LoraFile, misfits: Mapping[str, str], table: LoraTargetTable, can_drop: bool) -> str:
    total = sum(len(pair.names) for pair in file.pairs) + len(file.foreign)
    advice = "; strict=False (--lora-partial) applies the rest" if can_drop else ""
    return (
        f"{file.origin} does not fit the model: {len(misfits)} of its {total} keys have no place, the first "
        f"are {first_names(misfits)} ({_reasons(misfits.values())}); the model has {table}{advice}"
    )


def _reasons(reasons: Iterable[str]) -> str:
    """The different reasons, the most frequent first."""
    counted = Counter(reasons).most_common(2)
    return ", ".join(reason for reason, _ in counted)
